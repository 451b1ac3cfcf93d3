"""The plan of a training: its arithmetic, threads, batch size and cache use, chosen by
measuring the machine at hand.

What is fastest differs by network and machine (on a CPU, bf16 may be seven times faster
or slower), so a few real steps decide: short trials of every candidate in turns, so
that what else the machine does hits all of them, and the fastest trial of each. A plan
is remembered for the machine, network and settings, saved with every checkpoint and
obeyed on resume. Where all that would take too large a share of a short training, the
precision alone is measured, or nothing. Where the time was up before every candidate
had its trials, what was not measured is no candidate. Neither is remembered.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from weakref import WeakSet

from pydantic import ValidationError

from pipeline import files
from pipeline.config import FinetuneConfig
from pipeline.records import FrozenModel, digest
from pipeline.tensors import Batch, example_shapes
from pipeline.training import hardware

if TYPE_CHECKING:
    import torch

    from pipeline.context import Console
    from pipeline.models.network import BlockedNetwork
    from pipeline.objectives.base import Targets, TrainingLoss
    from pipeline.tasks.base import Task

# Of measuring in all, or more where that is no more than 1 / PAYS of the training.
SECONDS = 4.0
TRIALS = 4  # measured steps of a candidate, at the most
# Of which the first chooses kernels and gets memory; with fewer, a candidate is not
# measured.
FEWEST_TRIALS = 2
# How much longer than the fastest a candidate must take to be given up after the fewest
# trials.
HOPELESS = 2.0
CLEAR = 1.15  # and after one more
LOSS_TOLERANCE = 0.02  # relative; bf16 keeps 8 bits of significand
MEMORY_SHARE = 0.6  # of what is available, for a batch's activations
LONG = 600.0  # seconds of training from which compiling pays
PAYS = 20  # times what measuring costs that a training must cost for measuring to pay
BACKWARD = 3  # forward passes that a training step takes as long as

Precision = Literal["fp32", "bf16"]
MemoryFormat = Literal["contiguous", "channels-last"]


# A network is placed again for each of its stages.
_compiled: WeakSet[BlockedNetwork] = WeakSet()


class TrainingPlan(FrozenModel):
    """How a training computes.

    Args:
        batch_size: examples computed at once; a larger optimiser batch is accumulated.
        fuse: whether a frozen prefix runs in fewer operations; see
            `pipeline.models.providers.torchvision.fused`.
        feature_cache: whether a frozen prefix's outputs may be kept.
        feature_cache_gb: most disk they may take, in 10⁹ bytes.
        feature_cache_always: keep them even where computing looks as fast as reading.
        torch: version of PyTorch.
    """

    precision: Precision = "fp32"
    memory_format: MemoryFormat = "contiguous"
    threads: int = 1
    batch_size: int = 32
    feature_cache: bool = True
    compile: bool = False
    fuse: bool = False
    device: str = "cpu"
    torch: str = ""
    feature_cache_gb: float = 8.0
    feature_cache_always: bool = False

    def __str__(self) -> str:
        parts = [
            self.precision,
            self.memory_format,
            f"{self.threads} threads",
            f"{self.batch_size} examples at once",
        ]
        if self.device != "cpu":
            parts.append(self.device)
        if self.compile:
            parts.append("compiled")
        return ", ".join(parts)


class PlanSample(NamedTuple):
    """Some training examples, by which plans are measured.

    Args:
        x: their input (n, …) of float32, of one shape.
        targets: (n) as they are placed.
        loss: what a step minimises.
    """

    x: Batch
    targets: Targets
    loss: TrainingLoss


class MeasuredTrial(NamedTuple):
    """One candidate's step of some examples: seconds, mean loss, and bytes that each
    example keeps for the backward.
    """

    plan: TrainingPlan
    seconds: float
    loss: float
    bytes_per_example: int


class ChosenPlan(FrozenModel):
    """What is remembered of a measurement.

    Args:
        seconds_per_example: of a training step of the whole network.
        shares: of each block in the seconds of a forward pass, from input to output;
            empty where not measured.
    """

    plan: TrainingPlan
    seconds_per_example: float
    shares: tuple[float, ...] = ()


class Remembered(NamedTuple):
    """A choice, and the file that remembers it."""

    chosen: ChosenPlan
    path: Path


def choose_plan(
    model_factory: Callable[[], BlockedNetwork],
    task: Task,
    sample: PlanSample,
    config: FinetuneConfig,
    scratch: Path,
    console: Console,
    *,
    steps: int = 0,
    passes: int = 0,
) -> TrainingPlan:
    """The fastest plan whose loss agrees with fp32's, of those that the settings leave
    open.

    Args:
        model_factory: makes the network that will be trained.
        sample: the examples that are measured.
        scratch: the workspace's `.thaw`; the choice is remembered under `plans/`.
        steps: optimiser steps to come, to tell whether compiling pays; 0: not known.
        passes: forward passes of one example to come, a training step counting
            `BACKWARD`, to tell whether measuring pays; 0: not known, and it does.

    Raises:
        ConfigError: the configured device is not there.
    """
    base = _base(config)
    candidates = _open(config, base, sample.x)
    may_compile = config.plan.compile == "auto" and base.device.startswith("cuda")
    if len(candidates) == 1 and not may_compile:
        console.info(f"plan: {candidates[0]} (as configured)")
        return candidates[0]
    model = model_factory()
    path = _path(model, task, sample.x, config, candidates, scratch)
    chosen, how = _find(model, sample, candidates, config, path, passes)
    seconds = steps * config.batch_size * chosen.seconds_per_example
    compiling_pays = may_compile and seconds > LONG
    compiles = base.compile or compiling_pays
    plan = chosen.plan.model_copy(
        update={"compile": compiles, "fuse": base.fuse and not compiles}
    )
    console.info(f"plan: {plan} ({how})")
    return plan


def find_remembered(
    model: BlockedNetwork, task: Task, x: Batch, config: FinetuneConfig, scratch: Path
) -> Remembered | None:
    """What is remembered of a measurement for this network, input `x` (n, …) and
    settings on this machine.
    """
    candidates = _open(config, _base(config), x)
    path = _path(model, task, x, config, candidates, scratch)
    chosen = _read(path)
    if chosen is None:
        return None
    return Remembered(chosen, path)


def seconds_per_example(
    model: BlockedNetwork, sample: PlanSample, plan: TrainingPlan
) -> float:
    """What an example takes in a training step of the whole network, measured on the
    sample.
    """
    trials = measure_plans(model, sample, [plan], turns=FEWEST_TRIALS)
    seconds = trials.best[plan].seconds
    return seconds / len(sample.x)


def _path(
    model: BlockedNetwork,
    task: Task,
    x: Batch,
    config: FinetuneConfig,
    candidates: list[TrainingPlan],
    scratch: Path,
) -> Path:
    shapes = example_shapes(x)
    about = [
        model.architecture,
        model.classes,
        task.name,
        shapes,
        config.batch_size,
        config.plan,
    ]
    key = digest(hardware.machine(), candidates[0], about)
    return scratch / "plans" / f"{key[:32]}.json"


def _find(
    model: BlockedNetwork,
    sample: PlanSample,
    candidates: list[TrainingPlan],
    config: FinetuneConfig,
    path: Path,
    passes: int,
) -> tuple[ChosenPlan, str]:
    """The best candidate and how it was found: remembered, taken as usual for a short
    training, or measured.
    """
    known = _read(path)
    if known is not None:
        return known, "remembered"
    x = sample.x
    if 0 < passes < PAYS * _cost(TRIALS, x, candidates) and (
        candidates[0].device == "cpu"
    ):
        return _find_quickly(model, sample, candidates, config, passes)
    trials = measure_plans(model, sample, candidates, passes=passes)
    chosen = _best(list(trials.measured.values()), config, len(x))
    measured = ", ".join(
        _told(result, candidates) for result in trials.measured.values()
    )
    if not trials.complete:
        return (
            chosen,
            f"not all was measured in the time for it, so measured again next time: {measured}",
        )
    chosen = chosen.model_copy(update={"shares": _shares(model, x, chosen.plan)})
    _remember(path, chosen)
    return chosen, f"steps of {len(x)}: {measured}"


def _cost(turns: int, x: Batch, candidates: list[TrainingPlan]) -> int:
    """Forward passes of one example that measuring takes."""
    passes = turns * len(x) * len(candidates)
    return BACKWARD * passes


def _find_quickly(
    model: BlockedNetwork,
    sample: PlanSample,
    candidates: list[TrainingPlan],
    config: FinetuneConfig,
    passes: int,
) -> tuple[ChosenPlan, str]:
    """The plan of a short training: of the usual ones on a CPU the precision that is
    measured to be faster, or without any race where even that would not pay.
    """
    usual = candidates[0]
    rivals = []
    for candidate in candidates:
        if candidate.model_copy(update={"precision": usual.precision}) == usual:
            rivals.append(candidate)
    if passes < PAYS * _cost(FEWEST_TRIALS, sample.x, rivals):
        rivals = [usual]
    if len(rivals) == 1:
        # One example, for the memory it takes: no race that takes as long as the
        # training.
        single = PlanSample(sample.x[:1], sample.targets[:1], sample.loss)
        step = _step(model, single, usual, backward=False)
        chosen = _best([step], config, 1)
        return chosen, "as usual on a CPU; too little to train for measuring to pay"
    trials = measure_plans(model, sample, rivals, passes=passes, turns=FEWEST_TRIALS)
    chosen = _best(list(trials.measured.values()), config, len(sample.x))
    measured = ", ".join(_told(result, rivals) for result in trials.measured.values())
    return (
        chosen,
        f"too little to train for measuring more than precision to pay: {measured}",
    )


def _told(result: MeasuredTrial, candidates: list[TrainingPlan]) -> str:
    plan = result.plan
    parts: list[str] = [plan.precision, plan.memory_format]
    choices = {candidate.threads for candidate in candidates}
    if len(choices) > 1:
        parts.append(f"{plan.threads} threads")
    milliseconds = 1e3 * result.seconds
    return " ".join([*parts, f"{milliseconds:.0f} ms"])


@dataclass
class PlanTrials:
    """Timed steps of some candidates.

    Args:
        best: each candidate's fastest step.
        counts: steps of each candidate that was not dropped.
        dropped: candidates that failed.
    """

    candidates: list[TrainingPlan]
    best: dict[TrainingPlan, MeasuredTrial] = field(default_factory=dict)
    counts: Counter[TrainingPlan] = field(default_factory=Counter)
    dropped: set[TrainingPlan] = field(default_factory=set)

    @property
    def measured(self) -> dict[TrainingPlan, MeasuredTrial]:
        """The candidates that had their trials; the first one where none had."""
        enough = {}
        for plan, result in self.best.items():
            if self.counts[plan] >= FEWEST_TRIALS:
                enough[plan] = result
        if enough:
            return enough
        reference = self.candidates[0]
        return {reference: self.best[reference]}

    @property
    def complete(self) -> bool:
        """Whether every candidate that works had its trials."""
        counts = [self.counts[plan] for plan in self._working()]
        return all(count >= FEWEST_TRIALS for count in counts)

    def add(self, result: MeasuredTrial) -> None:
        plan = result.plan
        self.counts[plan] += 1
        if plan not in self.best or result.seconds < self.best[plan].seconds:
            self.best[plan] = result

    def drop(self, plan: TrainingPlan) -> None:
        self.dropped.add(plan)
        self.best.pop(plan, None)

    def contenders(self) -> list[TrainingPlan]:
        """The candidates that may still turn out the fastest; what was slow once may
        only have been disturbed.
        """
        working = self._working()
        fewest = min(self.counts[plan] for plan in working)
        if fewest < FEWEST_TRIALS:
            return working
        fastest = min(self.best[plan].seconds for plan in working)
        return [
            plan
            for plan in working
            if self.best[plan].seconds <= self._margin(plan) * fastest
        ]

    def _working(self) -> list[TrainingPlan]:
        return [plan for plan in self.candidates if plan not in self.dropped]

    def _margin(self, plan: TrainingPlan) -> float:
        if self.counts[plan] == FEWEST_TRIALS:
            return HOPELESS
        return CLEAR


def measure_plans(
    model: BlockedNetwork,
    sample: PlanSample,
    candidates: list[TrainingPlan],
    *,
    passes: int = 0,
    turns: int = TRIALS,
) -> PlanTrials:
    """Times a training step without its update for each candidate, in turns.

    The first candidate, the reference, is always measured; another that fails is
    dropped. The time for it is `SECONDS`, or what 1 / `PAYS` of the training takes at
    the reference's speed, whichever is longer: a busy machine takes longer over both.

    Args:
        passes: forward passes of one example to come; see `choose`.
    """
    import torch

    trials = PlanTrials(candidates)
    started = time.perf_counter()
    had_threads = torch.get_num_threads()
    try:
        for _ in range(turns):
            contenders = trials.contenders()
            if trials.complete and len(contenders) == 1:
                break
            for candidate in contenders:
                if trials.best and time.perf_counter() - started > _time_for_it(
                    trials, len(sample.x), passes
                ):
                    return trials
                torch.set_num_threads(candidate.threads)
                try:
                    trials.add(_step(model, sample, candidate))
                except RuntimeError:  # no kernel for this arithmetic, or no memory
                    if candidate is candidates[0]:
                        raise
                    trials.drop(candidate)
    finally:
        torch.set_num_threads(had_threads)
        model.stock.zero_grad(set_to_none=True)
    return trials


def _time_for_it(trials: PlanTrials, examples: int, passes: int) -> float:
    reference = trials.best[trials.candidates[0]]
    seconds_per_pass = reference.seconds / (BACKWARD * examples)
    return max(SECONDS, passes * seconds_per_pass / PAYS)


def _shares(model: BlockedNetwork, x: Batch, plan: TrainingPlan) -> tuple[float, ...]:
    """Each block's share of the seconds of a forward pass; on an accelerator, which
    works on its own, not known.
    """
    import torch

    if plan.device != "cpu":
        return ()
    place_network(model, plan.model_copy(update={"compile": False}))
    model.stock.eval()
    seconds = [float("inf")] * len(model.blocks)
    with torch.inference_mode(), autocast(plan):
        for _ in range(FEWEST_TRIALS):
            output: Batch = to_input(x, plan)
            for index in range(len(model.blocks)):
                began = time.perf_counter()
                output = model.run(output, index, index + 1)
                seconds[index] = min(seconds[index], time.perf_counter() - began)
    whole = sum(seconds)
    return tuple(each / whole for each in seconds)


def _step(
    model: BlockedNetwork,
    sample: PlanSample,
    plan: TrainingPlan,
    *,
    backward: bool = True,
) -> MeasuredTrial:
    import torch

    x = sample.x
    place_network(model, plan.model_copy(update={"compile": False}))
    # Dropout and BatchNorm's batch statistics would make the losses differ.
    model.stock.eval()
    model.stock.zero_grad(set_to_none=True)
    saved_bytes = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved_bytes
        if not isinstance(tensor, torch.nn.Parameter):
            saved_bytes += tensor.numel() * tensor.element_size()
        return tensor

    began = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        with autocast(plan):
            total = sample.loss(model, to_input(x, plan), 0, sample.targets)
            loss = total / sample.loss.total_weight(sample.targets)
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
    value = float(loss.detach())
    return MeasuredTrial(
        plan, time.perf_counter() - began, value, saved_bytes // len(x)
    )


def _best(
    results: list[MeasuredTrial], config: FinetuneConfig, examples: int
) -> ChosenPlan:
    in_fp32 = [result for result in results if result.plan.precision == "fp32"]
    reference = in_fp32[0] if in_fp32 else results[0]
    tolerance = LOSS_TOLERANCE * abs(reference.loss)
    agreeing = []
    for trial in results:
        if abs(trial.loss - reference.loss) <= tolerance:
            agreeing.append(trial)
    fastest = min(agreeing or [reference], key=lambda result: result.seconds)
    size = config.batch_size
    while size > 1:
        memory = MEMORY_SHARE * hardware.available(fastest.plan.device)
        if size * fastest.bytes_per_example <= memory:
            break
        size = -(-size // 2)
    plan = fastest.plan.model_copy(update={"batch_size": size})
    return ChosenPlan(plan=plan, seconds_per_example=fastest.seconds / examples)


def _base(config: FinetuneConfig) -> TrainingPlan:
    import torch

    wanted = config.plan
    return TrainingPlan(
        threads=hardware.cores() if wanted.threads == "auto" else wanted.threads,
        batch_size=config.batch_size,
        feature_cache=wanted.feature_cache != "off",
        feature_cache_gb=wanted.feature_cache_gb,
        feature_cache_always=wanted.feature_cache == "on",
        compile=wanted.compile == "on",
        # Compiling fuses by itself.
        fuse=wanted.fuse == "auto" and wanted.compile != "on",
        device=hardware.device(wanted.device),
        torch=torch.__version__,
    )


def _open(config: FinetuneConfig, base: TrainingPlan, x: Batch) -> list[TrainingPlan]:
    """The plans that the settings and the hardware leave open.

    The first is what most networks are fastest in on most CPUs: fp32, a thread a core,
    channels last where there are channels. It is the reference, and what is taken where
    nothing could be measured.
    """
    precisions: list[Precision] = (
        ["fp32", "bf16"] if hardware.has_bf16(base.device) else ["fp32"]
    )
    formats: list[MemoryFormat] = (
        ["channels-last", "contiguous"] if _is_image(x) else ["contiguous"]
    )
    if config.plan.precision != "auto":
        precisions = [config.plan.precision]
    if config.plan.memory_format != "auto":
        formats = [config.plan.memory_format]
    threads = [base.threads]
    if config.plan.threads == "auto" and base.device == "cpu":
        # Two threads of one core share its units: arithmetic is often faster with one
        # of them.
        threads = sorted({base.threads, hardware.physical_cores()})
    plans: list[TrainingPlan] = []
    for count, precision, memory_format in product(threads, precisions, formats):
        choice = {
            "threads": count,
            "precision": precision,
            "memory_format": memory_format,
        }
        plans.append(base.model_copy(update=choice))
    return plans


def _is_image(x: Batch) -> bool:
    """Whether a batch has examples, channels, height and width, so that there are two
    memory formats for it.
    """
    import torch

    return isinstance(x, torch.Tensor) and x.ndim == 4


def _read(path: Path) -> ChosenPlan | None:
    try:
        return ChosenPlan.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError):
        return None


def _remember(path: Path, chosen: ChosenPlan) -> None:
    text = chosen.model_dump_json(indent=2)
    files.replace_text(path, text + "\n")


def autocast(plan: TrainingPlan) -> AbstractContextManager[object]:
    """The plan's precision, for what is computed inside."""
    if plan.precision == "fp32":
        return nullcontext()
    import torch

    return torch.autocast(torch.device(plan.device).type, torch.bfloat16)


def place_network(model: BlockedNetwork, plan: TrainingPlan) -> None:
    """Moves a network to the plan's device and memory format, in place, and compiles
    its blocks if the plan says so.
    """
    import torch

    formats = {
        "contiguous": torch.contiguous_format,
        "channels-last": torch.channels_last,
    }
    model.stock.to(torch.device(plan.device))
    model.stock.to(memory_format=formats[plan.memory_format])
    if plan.compile and model not in _compiled:
        _compiled.add(model)
        model.compile_blocks()


def to_input(x: Batch, plan: TrainingPlan) -> Batch:
    """A batch on the plan's device, in its memory format where it has one."""
    import torch

    if not isinstance(x, torch.Tensor) or not _is_image(x):
        return x.to(plan.device)
    # Asked for either way: a convolution goes by its input's layout as much as by its
    # own weights'.
    last = plan.memory_format == "channels-last"
    return x.to(
        plan.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )
