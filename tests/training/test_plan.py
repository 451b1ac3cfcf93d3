"""The plan: what the settings leave open is measured, what disagrees is not taken, and
the choice is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from consoles import RecordingConsole
from pipeline.config import FinetuneConfig, PlanConfig
from pipeline.context import SilentConsole
from pipeline.errors import ConfigError
from pipeline.models.providers.torchvision import blocks
from pipeline.objectives.class_loss import ClassLoss
from pipeline.tasks.image_classification import TASK
from pipeline.training import hardware, plan
from pipeline.training.plan import MeasuredTrial, PlanSample, TrainingPlan

FIXED = {"precision": "fp32", "memory_format": "contiguous"}
Steps = dict[tuple[str, str], tuple[float, float]]


def network() -> blocks.TorchvisionNetwork:
    return blocks.build_network("squeezenet1_1", 2)


def sample(count: int = 4) -> PlanSample:
    x = torch.randn(count, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    return PlanSample(x, torch.arange(count) % 2, ClassLoss(0.1, None))


def chosen(
    scratch: Path,
    console: Any = None,
    steps: int = 0,
    passes: int = 0,
    factory: Any = network,
    **settings: Any,
) -> TrainingPlan:
    other = {key: settings.pop(key) for key in ("batch_size",) if key in settings}
    config = FinetuneConfig(plan=PlanConfig(**{"device": "cpu", **settings}), **other)
    return plan.choose_plan(
        factory,
        TASK,
        sample(),
        config,
        scratch,
        console or SilentConsole(),
        steps=steps,
        passes=passes,
    )


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Steps], list[TrainingPlan]]:
    """Makes candidates take given seconds and give given losses; returns the list of
    what was measured.
    """
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)

    def install(steps: Steps, size: int = 1000) -> list[TrainingPlan]:
        asked: list[TrainingPlan] = []

        def step(
            model: Any, sample: PlanSample, candidate: TrainingPlan, **other: Any
        ) -> MeasuredTrial:
            asked.append(candidate)
            return MeasuredTrial(
                candidate, *steps[candidate.precision, candidate.memory_format], size
            )

        monkeypatch.setattr(plan, "_step", step)
        return asked

    return install


USUAL: Steps = {
    ("fp32", "contiguous"): (0.4, 0.700),
    ("fp32", "channels-last"): (0.3, 0.700),
    ("bf16", "contiguous"): (0.2, 0.705),
    ("bf16", "channels-last"): (0.1, 0.704),
}


def test_the_fastest_that_agrees_is_taken(tmp_path: Path, pretend: Any) -> None:
    pretend(USUAL)
    console = RecordingConsole()
    picked = chosen(tmp_path, console)
    assert (picked.precision, picked.memory_format) == ("bf16", "channels-last")
    assert "bf16 channels-last 100 ms" in console.lines[0]


@pytest.mark.parametrize("loss", [0.75, float("nan"), float("inf")])
def test_a_loss_that_disagrees_with_fp32_is_not_taken(
    tmp_path: Path, pretend: Any, loss: float
) -> None:
    pretend(
        {
            **USUAL,
            ("bf16", "channels-last"): (0.1, loss),
            ("bf16", "contiguous"): (0.2, loss),
        }
    )
    picked = chosen(tmp_path)
    assert (picked.precision, picked.memory_format) == ("fp32", "channels-last")


def test_what_cannot_win_is_given_up_early(tmp_path: Path, pretend: Any) -> None:
    asked = pretend(USUAL)
    chosen(tmp_path)
    assert len(asked) == plan.FEWEST_TRIALS * len(USUAL) + 2, (
        "bf16 alone goes on, until channels-last is clearly ahead"
    )
    close = pretend(dict.fromkeys(USUAL, (0.1, 0.7)))
    chosen(tmp_path / "other")
    assert len(close) == plan.TRIALS * len(USUAL)


class BusyMachine:
    """A clock that only steps move, each by what it takes alone times how busy the
    machine is at that moment.
    """

    def __init__(self, busy: Callable[[int], float]) -> None:
        self.busy, self.now, self.asked = busy, 0.0, 0

    def perf_counter(self) -> float:
        return self.now

    def step(
        self, model: Any, sample: PlanSample, candidate: TrainingPlan, **other: Any
    ) -> MeasuredTrial:
        alone, loss = USUAL[candidate.precision, candidate.memory_format]
        seconds = alone * self.busy(self.asked)
        self.asked += 1
        self.now += seconds
        return MeasuredTrial(candidate, seconds, loss, 1000)


@pytest.fixture
def machine(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[int], float]], BusyMachine]:
    """Replaces the clock and the steps by a busy machine's."""
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)
    monkeypatch.setattr(plan, "_shares", lambda *_: ())

    def install(busy: Callable[[int], float]) -> BusyMachine:
        made = BusyMachine(busy)
        monkeypatch.setattr(plan, "time", made)
        monkeypatch.setattr(plan, "_step", made.step)
        return made

    return install


def test_measuring_that_ends_after_one_candidate_takes_the_usual_plan_and_remembers_nothing(
    tmp_path: Path, machine: Any
) -> None:
    machine(lambda turn: 20.0)
    console = RecordingConsole()
    picked = chosen(tmp_path, console)
    assert (picked.precision, picked.memory_format) == ("fp32", "channels-last")
    assert "measured again next time" in console.lines[0]
    assert not (tmp_path / "plans").exists()
    machine(lambda turn: 1.0)
    picked = chosen(tmp_path)
    assert (picked.precision, picked.memory_format) == ("bf16", "channels-last")


def test_a_candidate_whose_first_steps_were_disturbed_still_wins(
    tmp_path: Path, machine: Any
) -> None:
    disturbed = {2, 3}  # the fastest one's and its neighbour's first steps
    machine(lambda turn: 30.0 if turn in disturbed else 1.0)
    picked = chosen(tmp_path, passes=10**6)
    assert (picked.precision, picked.memory_format) == ("bf16", "channels-last")


def test_on_a_busy_machine_a_long_training_is_still_worth_a_whole_measurement(
    tmp_path: Path, machine: Any
) -> None:
    machine(lambda turn: 20.0)
    picked = chosen(tmp_path, passes=10**6)
    assert (picked.precision, picked.memory_format) == ("bf16", "channels-last")
    assert len(list((tmp_path / "plans").iterdir())) == 1


def test_a_whole_measurement_is_no_longer_than_a_share_of_the_training(
    tmp_path: Path, machine: Any
) -> None:
    clock = machine(lambda turn: 20.0)
    # Just enough for measuring to be begun.
    passes = plan.PAYS * plan.BACKWARD * plan.TRIALS * 4 * len(USUAL)
    chosen(tmp_path, passes=passes)
    training = passes / plan.BACKWARD / 4 * 20.0 * USUAL["fp32", "channels-last"][0]
    assert clock.now <= training / plan.PAYS + 20.0 * USUAL["fp32", "contiguous"][0]


def test_a_short_training_is_not_preceded_by_a_long_race(
    tmp_path: Path, pretend: Any
) -> None:
    asked = pretend(USUAL)
    console = RecordingConsole()
    picked = chosen(tmp_path, console, passes=400)
    assert (picked.precision, picked.memory_format) == ("fp32", "channels-last")
    assert len(asked) == 1
    assert "too little to train" in console.lines[0]
    assert (chosen(tmp_path, passes=10**6).precision, len(asked) > 1) == (
        "bf16",
        True,
    ), "remembered for a longer one"


def test_before_a_training_of_some_length_the_precision_alone_is_measured(
    tmp_path: Path, pretend: Any
) -> None:
    asked = pretend(USUAL)
    console = RecordingConsole()
    passes = plan.PAYS * plan.BACKWARD * plan.FEWEST_TRIALS * len(sample().x) * 2
    picked = chosen(tmp_path, console, passes=passes)
    assert (picked.precision, picked.memory_format) == ("bf16", "channels-last")
    assert len(asked) == 2 * plan.FEWEST_TRIALS
    assert {candidate.memory_format for candidate in asked} == {"channels-last"}
    assert "bf16 channels-last 100 ms" in console.lines[0]
    assert not (tmp_path / "plans").exists(), "remembered for a longer one"


def test_a_precision_that_disagrees_is_not_taken_for_a_short_training_either(
    tmp_path: Path, pretend: Any
) -> None:
    pretend({**USUAL, ("bf16", "channels-last"): (0.1, 0.75)})
    assert chosen(tmp_path, passes=1000).precision == "fp32"


def test_a_candidate_that_fails_is_dropped(
    tmp_path: Path, pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(USUAL)
    usual = plan._step

    def failing(
        model: Any, sample: PlanSample, candidate: TrainingPlan
    ) -> MeasuredTrial:
        if candidate.precision == "bf16":
            raise RuntimeError("no such kernel")
        return usual(model, sample, candidate)

    monkeypatch.setattr(plan, "_step", failing)
    picked = chosen(tmp_path)
    assert (picked.precision, picked.memory_format) == ("fp32", "channels-last")


def test_without_units_of_its_own_bf16_is_not_tried(
    tmp_path: Path, pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pretend(USUAL)
    monkeypatch.setattr(hardware, "has_bf16", lambda device: False)
    assert chosen(tmp_path).precision == "fp32"
    assert {candidate.precision for candidate in asked} == {"fp32"}


def test_a_setting_that_is_fixed_is_obeyed(tmp_path: Path, pretend: Any) -> None:
    asked = pretend(USUAL)
    picked = chosen(tmp_path, precision="fp32")
    assert (picked.precision, picked.memory_format) == ("fp32", "channels-last")
    assert {candidate.precision for candidate in asked} == {"fp32"}
    assert chosen(tmp_path, memory_format="contiguous").memory_format == "contiguous"


def test_where_cores_run_two_threads_each_both_numbers_are_tried(
    tmp_path: Path, pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pretend(USUAL)
    usual, set_to = plan._step, []

    def step(
        model: Any, sample: PlanSample, candidate: TrainingPlan, **other: Any
    ) -> MeasuredTrial:
        set_to.append((candidate.threads, torch.get_num_threads()))
        found = usual(model, sample, candidate)
        return found._replace(seconds=found.seconds * candidate.threads)

    monkeypatch.setattr(plan, "_step", step)
    monkeypatch.setattr(hardware, "cores", lambda: 2)
    monkeypatch.setattr(hardware, "physical_cores", lambda: 1)
    console = RecordingConsole()
    assert chosen(tmp_path, console).threads == 1
    assert {candidate.threads for candidate in asked} == {1, 2}
    assert all(wanted == had for wanted, had in set_to)
    assert "bf16 channels-last 1 threads 100 ms" in console.lines[0]
    assert chosen(tmp_path / "fixed", threads=2).threads == 2
    assert chosen(tmp_path / "short", passes=400).threads == 1


def test_with_everything_fixed_nothing_is_measured_or_built(
    tmp_path: Path, pretend: Any
) -> None:
    asked = pretend(USUAL)
    picked = chosen(tmp_path, factory=None, threads=1, feature_cache="off", **FIXED)
    assert picked == TrainingPlan(
        threads=1, feature_cache=False, fuse=True, torch=torch.__version__
    )
    assert asked == []


def test_the_choice_is_remembered_for_machine_network_and_settings(
    tmp_path: Path, pretend: Any
) -> None:
    asked, console = pretend(USUAL), RecordingConsole()
    first = chosen(tmp_path)
    before = len(asked)
    assert chosen(tmp_path, console) == first
    assert len(asked) == before
    assert "remembered" in console.lines[0]
    for other in (
        {"threads": 1},
        {"batch_size": 8},
        {"factory": lambda: blocks.build_network("squeezenet1_0", 2)},
    ):
        before = len(asked)
        chosen(tmp_path, **other)
        assert len(asked) > before


def test_what_was_remembered_of_another_machine_is_not_used(
    tmp_path: Path, pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pretend(USUAL)
    chosen(tmp_path)
    before = len(asked)
    monkeypatch.setattr(hardware, "machine", lambda: ["another"])
    chosen(tmp_path)
    assert len(asked) > before


@pytest.mark.parametrize("content", ["", "{}}", '{"precision": "fp8"}'])
def test_a_damaged_memory_is_measured_anew(
    tmp_path: Path, pretend: Any, content: str
) -> None:
    pretend(USUAL)
    first = chosen(tmp_path)
    (path,) = (tmp_path / "plans").iterdir()
    path.write_text(content)
    assert chosen(tmp_path) == first


def test_examples_at_once_are_as_many_as_memory_holds(
    tmp_path: Path, pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(USUAL, size=10**6)
    monkeypatch.setattr(
        hardware, "available", lambda device: int(20e6 / plan.MEMORY_SHARE)
    )
    assert chosen(tmp_path, batch_size=64).batch_size == 16


def test_compiling_on_a_gpu_is_left_to_long_trainings(
    tmp_path: Path, pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(USUAL)
    monkeypatch.setattr(hardware, "device", lambda wanted: "cuda:0")
    monkeypatch.setattr(hardware, "available", lambda device: 10**12)
    assert not chosen(tmp_path, steps=10).compile
    assert chosen(tmp_path, steps=10**6).compile
    assert not chosen(tmp_path, steps=10**6, compile="off").compile
    assert chosen(tmp_path, steps=10, compile="on").compile
    assert [chosen(tmp_path, steps=n).fuse for n in (10, 10**6)] == [True, False], (
        "compiling fuses by itself"
    )


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="cuda:7"):
        hardware.device("cuda:7")
    assert hardware.device("cpu") == "cpu"


# --- for real -------------------------------------------------------------------------
def test_real_steps_are_measured_and_leave_the_network_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    threads = torch.get_num_threads()
    candidates = [
        TrainingPlan(memory_format="contiguous"),
        TrainingPlan(memory_format="channels-last"),
    ]
    monkeypatch.setattr(plan, "SECONDS", 60.0)
    trials = plan.measure_plans(model, sample(), candidates)
    results = list(trials.measured.values())
    assert trials.complete
    assert [result.plan for result in results] == candidates
    assert all(
        result.seconds > 0 and result.bytes_per_example > 48 * 48 * 3 * 4
        for result in results
    )
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-4)
    assert torch.get_num_threads() == threads
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_first_candidate_is_measured_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "SECONDS", 0.0)
    candidates = [TrainingPlan(), TrainingPlan(memory_format="channels-last")]
    trials = plan.measure_plans(network(), sample(), candidates)
    assert list(trials.measured) == candidates[:1]
    assert not trials.complete


def test_the_shares_of_the_blocks_are_measured_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SECONDS", 60.0)
    config = FinetuneConfig(plan=PlanConfig(device="cpu", precision="fp32"))
    model = network()
    plan.choose_plan(lambda: model, TASK, sample(), config, tmp_path, SilentConsole())
    found = plan.find_remembered(model, TASK, sample()[0], config, tmp_path)
    assert found is not None
    assert len(found.chosen.shares) == len(model.blocks)
    assert sum(found.chosen.shares) == pytest.approx(1)
    assert found.chosen.seconds_per_example > 0


def test_cores_are_those_this_process_may_use() -> None:
    import os

    assert (
        1
        <= hardware.physical_cores()
        <= hardware.cores()
        <= len(os.sched_getaffinity(0))
    )


def test_placing_goes_there_and_back() -> None:
    model = network()
    convolution = model.stock.features[3].squeeze
    plan.place_network(model, TrainingPlan(memory_format="channels-last"))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    x = plan.to_input(
        torch.zeros(2, 3, 8, 8), TrainingPlan(memory_format="channels-last")
    )
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert plan.to_input(
        torch.zeros(2, 3), TrainingPlan(memory_format="channels-last")
    ).shape == (2, 3)
    plan.place_network(model, TrainingPlan())
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_autocast_follows_the_precision() -> None:
    a = torch.ones(2, 2)
    with plan.autocast(TrainingPlan(precision="bf16")):
        assert (a @ a).dtype == torch.bfloat16
    with plan.autocast(TrainingPlan()):
        assert (a @ a).dtype == torch.float32


def test_a_compiled_plan_compiles_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda call: compiled.append(call) or call)
    model = network()
    plan.place_network(model, TrainingPlan(compile=True))
    assert len(compiled) == sum(len(block.calls) for block in model.blocks)
    plan.place_network(model, TrainingPlan(compile=True))
    assert len(compiled) == sum(len(block.calls) for block in model.blocks), (
        "compiled twice"
    )
