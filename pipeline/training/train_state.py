"""Where a training is: everything about it that is no tensor, as plain JSON values."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.records import StageResult

if TYPE_CHECKING:
    from pipeline.training.plan import TrainingPlan


class Row(NamedTuple):
    """One point of a curve: a line of curves.csv."""

    stage: str
    epoch: int  # over the whole recipe, from 1
    step: int  # optimiser steps done by then
    split: str
    metric: str
    value: float


@dataclass
class BestResult:
    """The best validation result so far, and when it was."""

    epoch: int
    metrics: dict[str, float]


@dataclass
class TrainState:
    """Where a training is.

    Args:
        plan: the arithmetic, obeyed on resume.
        machine: what the last bits depend on besides.
        stage: index of the stage.
        opened: whether the stage has begun: its weights, rates and checksums are set.
        epoch: epochs done, over the whole recipe.
        epochs_before: `epoch` when this stage began.
        batch: batches done of the running epoch.
        steps: optimiser steps done in all.
        loss_sum: summed loss of the running epoch's examples.
        examples_seen: how many these are.
        epochs_without_improvement: since the stage's own best.
        best_stage_score: the stage's own best score.
        best: the best result, which may be the one the stage began with.
        lr: the stage's peak rate at the head.
        frozen_checksums: of each frozen tensor when the stage began.
        layout: parameters of each optimiser group.
        rows: the curves so far.
        results: what the finished stages did.
        notes: what happened that a reader of the result should know.
    """

    plan: TrainingPlan
    machine: dict[str, str | int] = field(default_factory=dict)
    stage: int = 0
    opened: bool = False
    epoch: int = 0
    epochs_before: int = 0
    batch: int = 0
    steps: int = 0
    loss_sum: float = 0.0
    examples_seen: int = 0
    epochs_without_improvement: int = 0
    best_stage_score: tuple[float, float] | None = None
    best: BestResult | None = None
    lr: float = 0.0
    frozen_checksums: dict[str, str] = field(default_factory=dict)
    layout: dict[str, list[str]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    results: list[StageResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def stage_epochs(self) -> int:
        """Epochs done of the running stage."""
        return self.epoch - self.epochs_before

    def end_epoch(self) -> None:
        """The next epoch has not begun."""
        self.epoch += 1
        self.batch = 0
        self.loss_sum = 0.0
        self.examples_seen = 0

    def close_stage(self, result: StageResult) -> None:
        """Ends a stage: the next has not begun."""
        self.results.append(result)
        self.stage += 1
        self.opened = False
        self.best = None
        self.best_stage_score = None
        self.epochs_without_improvement = 0
        self.frozen_checksums = {}
        self.layout = {}

    def dump(self) -> dict[str, Any]:
        """JSON values from which `parse` makes the same state."""
        values: dict[str, Any] = {}
        for entry in dataclasses.fields(self):
            values[entry.name] = getattr(self, entry.name)
        values["plan"] = self.plan.model_dump(mode="json")
        values["best"] = dataclasses.asdict(self.best) if self.best else None
        values["results"] = [result.model_dump(mode="json") for result in self.results]
        return values

    @classmethod
    def parse(cls, values: dict[str, Any]) -> TrainState:
        """The state that `dump` wrote."""
        from pipeline.training.plan import TrainingPlan

        parsed = dict(values)
        parsed["plan"] = TrainingPlan.model_validate(values["plan"])
        parsed["rows"] = [Row(*row) for row in values["rows"]]
        parsed["results"] = [
            StageResult.model_validate(result) for result in values["results"]
        ]
        if values["best_stage_score"] is not None:
            parsed["best_stage_score"] = tuple(values["best_stage_score"])
        if values["best"] is not None:
            parsed["best"] = BestResult(**values["best"])
        return cls(**parsed)


def machine(device: str, threads: int) -> dict[str, str | int]:
    """What the last bits of a result depend on, besides everything that is in the
    training's key.
    """
    import torch

    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        name = platform.machine()
    return {
        "torch": torch.__version__,
        "device": f"{device} {name}",
        "threads": threads,
        "vectors": torch.backends.cpu.get_cpu_capability(),
    }
