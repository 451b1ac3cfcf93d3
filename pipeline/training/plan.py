"""The plan of a training: its arithmetic, threads, batch size and cache use, chosen by measuring the machine at hand.

What is fastest differs by network and machine (on a CPU, bf16 may be seven times faster or slower), so a few real
steps decide. A plan is remembered for the machine, network and settings, saved with every checkpoint and obeyed on
resume.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from weakref import WeakSet

from pydantic import ValidationError

from pipeline.config import FinetuneConfig
from pipeline.records import Frozen, digest
from pipeline.training import hardware
from pipeline.training.objective import Objective

if TYPE_CHECKING:
    import torch

    from pipeline.context import Console
    from pipeline.models.blocks import BlockedModel
    from pipeline.tasks.base import Task

SECONDS = 4.0  # of measuring in all
TURNS = 4  # measured steps of a candidate, at the most
CLEAR = 1.15  # how much longer than the winner the others must take for an early end
EXAMPLES = 8  # in a measured step
LOSS_TOLERANCE = 0.02  # relative; bf16 keeps 8 bits of significand
MEMORY_SHARE = 0.6  # of what is available, for a batch's activations
LONG = 600.0  # seconds of training from which compiling pays
PAYS = 20  # times what measuring costs that a training must cost for measuring to pay
BACKWARD = 3  # forward passes that a training step takes as long as

Precision = Literal["fp32", "bf16"]
MemoryFormat = Literal["contiguous", "channels-last"]


_compiled: WeakSet[BlockedModel] = WeakSet()  # a network is placed again for each of its stages


class Plan(Frozen):
    """How a training computes.

    Args:
        batch_size: examples computed at once; a larger optimiser batch is accumulated.
        fuse: whether a frozen prefix runs in fewer operations; see `pipeline.models.fused`.
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
        parts = [self.precision, self.memory_format, f"{self.threads} threads", f"{self.batch_size} examples at once"]
        parts += [self.device] if self.device != "cpu" else []
        parts += ["compiled"] if self.compile else []
        return ", ".join(parts)


class Measured(NamedTuple):
    """One candidate's step of some examples: seconds, mean loss, and bytes that each example keeps for the backward."""

    plan: Plan
    seconds: float
    loss: float
    bytes_per_example: int


class Chosen(Frozen):
    """What is remembered of a measurement."""

    plan: Plan
    seconds_per_example: float


def choose(
    model_factory: Callable[[], BlockedModel],
    task: Task,
    sample_batch: tuple[torch.Tensor, torch.Tensor],
    config: FinetuneConfig,
    scratch: Path,
    console: Console,
    *,
    steps: int = 0,
    passes: int = 0,
) -> Plan:
    """The fastest plan whose loss agrees with fp32's, of those that the settings leave open.

    Args:
        model_factory: makes the network that will be trained.
        sample_batch: some prepared input (n, …) of float32 and its class indices (n,).
        scratch: the workspace's `.thaw`; the choice is remembered under `plans/`.
        steps: optimiser steps to come, to tell whether compiling pays; 0: not known.
        passes: forward passes of one example to come, a training step counting `BACKWARD`, to tell whether measuring
            pays; 0: not known, and it does.

    Raises:
        ConfigError: the configured device is not there.
    """
    x, targets = sample_batch
    base = _base(config)
    candidates = _open(config, base, x)
    if len(candidates) == 1 and not (config.plan.compile == "auto" and base.device.startswith("cuda")):
        console.say(f"plan: {candidates[0]} (as configured)")
        return candidates[0]
    about = [task.name, tuple(x.shape[1:]), config.batch_size, config.plan]
    chosen, how = _find(model_factory(), (x, targets), candidates, config, scratch, about, passes)
    long = steps * config.batch_size * chosen.seconds_per_example > LONG
    compiles = base.compile or (config.plan.compile == "auto" and base.device.startswith("cuda") and long)
    plan = chosen.plan.model_copy(update={"compile": compiles, "fuse": base.fuse and not compiles})
    console.say(f"plan: {plan} ({how})")
    return plan


def _find(
    model: BlockedModel, sample: tuple[torch.Tensor, torch.Tensor], candidates: list[Plan], config: FinetuneConfig,
    scratch: Path, about: list[object], passes: int,
) -> tuple[Chosen, str]:  # fmt: skip
    """The best candidate and how it was found: remembered, taken as usual for a short training, or measured."""
    key = digest(hardware.machine(), candidates[0], [model.architecture, model.classes, *about])
    path = scratch / "plans" / f"{key[:32]}.json"
    chosen = _remembered(path)
    if chosen is not None:
        return chosen, "remembered"
    x, targets = (tensor[:EXAMPLES] for tensor in sample)
    cost = BACKWARD * TURNS * len(x) * len(candidates)
    if 0 < passes < PAYS * cost and candidates[0].device == "cpu":
        # One example, for the memory it takes: no race that takes as long as the training.
        loss = Objective(config.label_smoothing, None)
        step = _step(model, x[:1], targets[:1], _usual(candidates), loss, backward=False)
        return _best([step], config, 1), "as usual on a CPU; too little to train for measuring to pay"
    results = measure(model, x, targets, candidates, config)
    chosen = _best(results, config, len(x))
    _remember(path, chosen)
    return chosen, f"steps of {len(x)}: {', '.join(_told(result, candidates) for result in results)}"


def _told(result: Measured, candidates: list[Plan]) -> str:
    plan = result.plan
    threads = f" {plan.threads} threads" if len({candidate.threads for candidate in candidates}) > 1 else ""
    return f"{plan.precision} {plan.memory_format}{threads} {1e3 * result.seconds:.0f} ms"


def measure(
    model: BlockedModel, x: torch.Tensor, targets: torch.Tensor, candidates: list[Plan], config: FinetuneConfig
) -> list[Measured]:
    """Times a training step without its update for each candidate, in turns, for `SECONDS` in all at the most.

    The first turn warms up: kernels are chosen and memory is had. From the second on, a clear winner ends it. The first
    candidate, the reference, is always measured; another that fails is dropped.
    """
    import torch

    objective = Objective(config.label_smoothing, None)
    started = time.perf_counter()
    best: dict[Plan, Measured] = {}
    dropped: set[Plan] = set()
    had_threads = torch.get_num_threads()
    try:
        for turn, candidate in product(range(TURNS), candidates):
            late = time.perf_counter() - started > SECONDS
            if best and (late or (candidate is candidates[0] and turn > 1 and _is_clear(list(best.values())))):
                break
            if candidate in dropped:
                continue
            torch.set_num_threads(candidate.threads)
            try:
                result = _step(model, x, targets, candidate, objective)
            except RuntimeError:  # no kernel for this arithmetic, or no memory
                if candidate is candidates[0]:
                    raise
                dropped.add(candidate)
                best.pop(candidate, None)
                continue
            if turn < 2 or result.seconds < best[candidate].seconds:
                best[candidate] = result
    finally:
        torch.set_num_threads(had_threads)
        model.zero_grad(set_to_none=True)
    return list(best.values())


def _usual(candidates: list[Plan]) -> Plan:
    """What most networks are fastest in on most CPUs: fp32, a thread a core, channels last where there are channels."""
    fewest = min(plan.threads for plan in candidates)
    quiet = [plan for plan in candidates if plan.threads == fewest]
    exact = [plan for plan in quiet if plan.precision == "fp32"] or quiet
    return next((plan for plan in exact if plan.memory_format == "channels-last"), exact[0])


def _is_clear(results: list[Measured]) -> bool:
    fastest, *others = sorted(result.seconds for result in results)
    return not others or others[0] > CLEAR * fastest


def _step(
    model: BlockedModel,
    x: torch.Tensor,
    targets: torch.Tensor,
    plan: Plan,
    objective: Objective,
    *,
    backward: bool = True,
) -> Measured:
    import torch

    place(model, plan.model_copy(update={"compile": False}))
    model.eval()  # dropout and BatchNorm's batch statistics would make the losses differ
    model.zero_grad(set_to_none=True)
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel() * tensor.element_size()
        return tensor

    began = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        with autocast(plan):
            loss = objective(model, to_input(x, plan), 0, targets) / len(x)
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
    value = float(loss.detach())
    return Measured(plan, time.perf_counter() - began, value, kept // len(x))


def _best(results: list[Measured], config: FinetuneConfig, examples: int) -> Chosen:
    reference = next((r for r in results if r.plan.precision == "fp32"), results[0])
    agreeing = [r for r in results if abs(r.loss - reference.loss) <= LOSS_TOLERANCE * abs(reference.loss)]
    fastest = min(agreeing or [reference], key=lambda r: r.seconds)
    size = config.batch_size
    while size > 1 and size * fastest.bytes_per_example > MEMORY_SHARE * hardware.available(fastest.plan.device):
        size = -(-size // 2)
    return Chosen(
        plan=fastest.plan.model_copy(update={"batch_size": size}), seconds_per_example=fastest.seconds / examples
    )


def _base(config: FinetuneConfig) -> Plan:
    import torch

    wanted = config.plan
    return Plan(
        threads=hardware.cores() if wanted.threads == "auto" else wanted.threads, batch_size=config.batch_size,
        feature_cache=wanted.feature_cache != "off", feature_cache_gb=wanted.feature_cache_gb,
        feature_cache_always=wanted.feature_cache == "on", compile=wanted.compile == "on",
        fuse=wanted.fuse == "auto" and wanted.compile != "on",  # compiling fuses by itself
        device=hardware.device(wanted.device), torch=torch.__version__,
    )  # fmt: skip


def _open(config: FinetuneConfig, base: Plan, x: torch.Tensor) -> list[Plan]:
    """The plans that the settings and the hardware leave open; the reference first."""
    precisions: list[Precision] = ["fp32", "bf16"] if hardware.has_bf16(base.device) else ["fp32"]
    formats: list[MemoryFormat] = ["contiguous", "channels-last"] if x.ndim == 4 else ["contiguous"]
    if config.plan.precision != "auto":
        precisions = [config.plan.precision]
    if config.plan.memory_format != "auto":
        formats = [config.plan.memory_format]
    threads = [base.threads]
    if config.plan.threads == "auto" and base.device == "cpu":
        # Two threads of one core share its units: arithmetic is often faster with one of them.
        threads = sorted({base.threads, hardware.physical_cores()}, reverse=True)
    return [
        base.model_copy(update={"threads": t, "precision": p, "memory_format": m})
        for t, p, m in product(threads, precisions, formats)
    ]


def _remembered(path: Path) -> Chosen | None:
    try:
        return Chosen.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError):
        return None


def _remember(path: Path, chosen: Chosen) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(chosen.model_dump_json(indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def autocast(plan: Plan) -> AbstractContextManager[object]:
    """The plan's precision, for what is computed inside."""
    if plan.precision == "fp32":
        return nullcontext()
    import torch

    return torch.autocast(torch.device(plan.device).type, torch.bfloat16)


def place(model: BlockedModel, plan: Plan) -> None:
    """Moves a network to the plan's device and memory format, in place, and compiles its blocks if the plan says so."""
    import torch

    formats = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
    model.stock.to(torch.device(plan.device))
    model.stock.to(memory_format=formats[plan.memory_format])
    if plan.compile and model not in _compiled:
        _compiled.add(model)
        for block in model.blocks:
            block.calls = [torch.compile(call) for call in block.calls]


def to_input(x: torch.Tensor, plan: Plan) -> torch.Tensor:
    """A batch on the plan's device, in its memory format where it has one."""
    import torch

    if x.ndim != 4:
        return x.to(plan.device)
    # Asked for either way: a convolution goes by its input's layout as much as by its own weights'.
    last = plan.memory_format == "channels-last"
    return x.to(plan.device, memory_format=torch.channels_last if last else torch.contiguous_format)
