"""A head's stage is solved: where it can be, whatever interrupts it, and what comes
after starts from it.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from consoles import RecordingConsole
from pipeline.config import StageConfig
from pipeline.errors import Interrupted
from pipeline.models.providers.torchvision import blocks
from pipeline.training import head_stage, linear_head, stages
from pipeline.training.interruption import StopSignal, interruptible
from pipeline.training.recipe_trainer import train
from tiny import CONFIG, PLAN, STAGES, Setting, TinyModel, elsewhere, train_and_hash

SOLVED = CONFIG.model_copy(update={"head_solver": "auto"})
HEAD = StageConfig(name="head", train=("head",), epochs=7, lr="auto")


OFTEN = 0.0001  # seconds between two states that a killed training resumes from


def setting(scratch: Path, every_seconds: float = 1e9, **changes: Any) -> Setting:
    return Setting(scratch, config=SOLVED, every_seconds=every_seconds, **changes)


def test_a_solved_stage_is_one_row_without_rates_and_says_how(tmp_path: Path) -> None:
    trained = setting(tmp_path, stages=(HEAD,)).train(words := RecordingConsole())
    (result,) = trained.state.results
    assert (result.epochs, result.best_epoch, result.lr) == (1, 1, {})
    assert result.frozen == ("low", "mid", "top")
    assert result.solved is not None
    assert result.solved.chosen_by == "cross-validation"
    assert result.solved.gradient <= 10 * linear_head.TOLERANCE
    assert trained.state.steps == 0
    assert {(row.split, row.metric) for row in trained.state.rows} >= {
        ("train", "loss"),
        ("val", "accuracy"),
    }
    assert {row.epoch for row in trained.state.rows} == {1}
    assert not any(row.metric.startswith("lr/") for row in trained.state.rows)
    assert "epochs, lr, warmup and patience do not apply" in words
    assert trained.state.notes


def test_a_solved_head_beats_a_nudged_one(tmp_path: Path) -> None:
    """By what both minimise: the mean loss of the training examples."""
    nudged = StageConfig(name="head", train=("head",), epochs=15, lr=1e-3)
    solved = setting(tmp_path / "solved", stages=(HEAD,)).train().state
    trained = (
        Setting(tmp_path / "trained", stages=(nudged,), every_seconds=1e9).train().state
    )
    losses = [
        [
            row.value
            for row in position.rows
            if (row.split, row.metric) == ("train", "loss")
        ][-1]
        for position in (solved, trained)
    ]
    assert losses[0] < losses[1]


@pytest.mark.parametrize("cache", [False, True])
def test_the_head_is_the_same_with_the_feature_cache_and_without(
    cache: bool, tmp_path: Path
) -> None:
    plan = PLAN.model_copy(
        update={"feature_cache": cache, "feature_cache_always": cache}
    )
    trained = setting(tmp_path, stages=(HEAD,), plan=plan).train()
    expected = setting(tmp_path / "plain", stages=(HEAD,)).train()
    for name, tensor in expected.model.stock.state_dict().items():
        assert torch.equal(trained.model.stock.state_dict()[name], tensor), name


def test_it_does_not_depend_on_listing_workers_or_what_does_not_apply(
    tmp_path: Path,
) -> None:
    expected = train_and_hash(setting(tmp_path / "a", stages=(HEAD,)))
    other = HEAD.model_copy(update={"epochs": 1, "lr": 5.0, "warmup": 0.5})
    assert (
        train_and_hash(setting(tmp_path / "b", stages=(other,), listing=3)) == expected
    )
    plan = SOLVED.plan.model_copy(update={"workers": 2})
    config = SOLVED.model_copy(
        update={"plan": plan, "batch_size": 5, "patience": 1, "clip_norm": None}
    )
    assert (
        train_and_hash(Setting(tmp_path / "c", stages=(HEAD,), config=config))
        == expected
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", ["solving:3", "solving:200", "between-stages", "after-save:2"]
)
def test_a_kill_while_solving_or_after_changes_nothing(
    point: str, tmp_path: Path
) -> None:
    code, expected = elsewhere(train_and_hash, setting(tmp_path / "whole"))
    assert code == 0, expected
    killed = setting(tmp_path / "killed", OFTEN)
    code, _ = elsewhere(train_and_hash, killed, env={"THAW_CRASH_AT": point})
    assert code == -signal.SIGKILL, "the kill never happened"
    assert elsewhere(train_and_hash, killed) == (0, expected)


@pytest.mark.slow
def test_a_head_solved_between_trained_stages_resumes_too(tmp_path: Path) -> None:
    rows = (STAGES[1], HEAD, STAGES[2])
    code, expected = elsewhere(train_and_hash, setting(tmp_path / "whole", stages=rows))
    assert code == 0, expected
    killed = setting(tmp_path / "killed", OFTEN, stages=rows)
    assert (
        elsewhere(train_and_hash, killed, env={"THAW_CRASH_AT": "solving:50"})[0]
        == -signal.SIGKILL
    )
    assert elsewhere(train_and_hash, killed) == (0, expected)


def test_a_stop_ends_the_solving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopSignal()
    original = linear_head.HeadProblem.loss

    def asked(self: Any, *arguments: Any) -> Any:
        stop.asked.set()
        return original(self, *arguments)

    monkeypatch.setattr(linear_head.HeadProblem, "loss", asked)
    with pytest.raises(Interrupted):
        setting(tmp_path, stages=(HEAD,)).train(stop=stop)
    monkeypatch.undo()
    assert train_and_hash(setting(tmp_path, stages=(HEAD,))) == train_and_hash(
        setting(tmp_path / "x", stages=(HEAD,))
    )


def test_the_next_stage_starts_from_the_solved_head_and_keeps_it_where_it_is_better(
    tmp_path: Path,
) -> None:
    harmful = StageConfig(name="all", train=("all",), epochs=1, lr=50.0)
    trained = setting(tmp_path, stages=(HEAD, harmful)).train()
    head, after = trained.state.results
    assert after.val == head.val
    assert after.best_epoch == head.best_epoch == 1
    assert after.epochs == 1
    alone = setting(tmp_path / "alone", stages=(HEAD,)).train()
    for name, tensor in alone.model.stock.state_dict().items():
        assert torch.equal(trained.model.stock.state_dict()[name], tensor), name


def test_units_stay_in_one_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    original = linear_head.assign_folds

    def remembering(units: Any, classes: Any, count: int) -> torch.Tensor:
        seen.append(tuple(units))
        return original(units, classes, count)

    monkeypatch.setattr(linear_head, "assign_folds", remembering)
    one = setting(tmp_path, stages=(HEAD,))
    job = one.job()
    grouped = replace(
        job,
        train=replace(
            job.train, units=tuple(str(turn // 4) for turn in range(len(job.train)))
        ),
    )
    monkeypatch.setattr(Setting, "job", lambda self, console=None: grouped)
    one.train()
    assert seen == [grouped.train.units]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_of_one_unit_each_leave_the_strength_at_its_default(
    smoothing: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held out, such a class is missing: whatever a head says of it is wrong, and one
    that says nothing would win.
    """
    one = Setting(
        tmp_path,
        stages=(HEAD,),
        config=SOLVED.model_copy(update={"label_smoothing": smoothing}),
    )
    job = one.job()
    grouped = replace(
        job,
        train=replace(
            job.train, units=tuple(str(label) for label in job.train.targets.tolist())
        ),
    )
    monkeypatch.setattr(Setting, "job", lambda self, console=None: grouped)
    (result,) = one.train().state.results
    assert result.solved is not None
    assert (result.solved.strength, result.solved.chosen_by) == (
        head_stage.DEFAULT_STRENGTH,
        "default",
    )


def test_a_head_that_begins_with_flattening_is_solved_like_others(
    tmp_path: Path,
) -> None:
    def build(pretrained: bool) -> TinyModel:
        model = TinyModel(seed=1)
        top, head = model.blocks[-2:]
        pool, layers = top.calls[0], head.calls[0]
        top.calls = [lambda x: pool(x)[:, :, None, None]]
        head.calls = [lambda x: layers(x.flatten(1))]
        return model

    job = replace(setting(tmp_path).job(), build=build)
    with interruptible() as stop:
        trained = train(
            job,
            setting(tmp_path, stages=(HEAD,)).recipe(),
            lambda: PLAN,
            stop,
            lambda rows: None,
        )
    expected = setting(tmp_path / "flat", stages=(HEAD,)).train()
    assert torch.equal(trained.answers, expected.answers)


def test_many_validation_examples_choose_the_strength_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_stage, "ENOUGH_TO_VALIDATE", 8)
    (result,) = setting(tmp_path, stages=(HEAD,)).train().state.results
    assert result.solved is not None
    assert result.solved.chosen_by == "validation"


@pytest.mark.parametrize(
    ("architecture", "linear"),
    [
        ("mobilenet_v2", True),
        ("mobilenet_v3_small", True),
        ("resnet18", True),
        ("vit_b_16", True),
        ("densenet121", True),
        ("convnext_tiny", True),
        ("vgg11", True),
        ("squeezenet1_1", False),
    ],
)
def test_which_heads_are_one_linear_layer(architecture: str, linear: bool) -> None:
    model = blocks.build_network(architecture, 3, meta=True)
    assert (head_stage.find_linear_layer(model.blocks[-1]) is not None) == linear


def test_where_it_is_not_solved_the_optimiser_trains_and_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, model = setting(tmp_path).job(), TinyModel()
    assert (
        head_stage.solver_refusal(job, model, stages.resolve_scope(model, HEAD)) is None
    )
    everything = StageConfig(name="all", train=("all",), epochs=1)
    assert (
        head_stage.solver_refusal(job, model, stages.resolve_scope(model, everything))
        == ""
    )
    assert (
        head_stage.solver_refusal(
            Setting(tmp_path).job(), model, stages.resolve_scope(model, HEAD)
        )
        == ""
    )
    monkeypatch.setattr(head_stage, "MOST_OPERATIONS", 1e3)
    short = HEAD.model_copy(update={"lr": 1e-2, "epochs": 2})
    trained = setting(tmp_path, stages=(short,)).train(words := RecordingConsole())
    assert "trained by adamw, since solving it would take" in words
    assert trained.state.results[0].solved is None
    assert trained.state.results[0].epochs == 2


def test_features_that_are_not_finite_name_their_examples(tmp_path: Path) -> None:
    job = setting(tmp_path).job()
    features = torch.zeros(3, 2)
    features[1, 0] = float("nan")
    with pytest.raises(head_stage.NonFiniteError) as fault:
        head_stage._refuse_not_finite(features, job.train)
    assert list(fault.value.details) == [job.train.ids[1]]
