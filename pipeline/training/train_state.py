"""Where a training is: everything about it that is no tensor, as plain JSON values."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.records import StageResult


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
        stage: index of the stage.
        opened: whether the stage has begun: its weights, rates and proof are set.
        epoch: epochs done, over the whole recipe.
        begun: `epoch` when this stage began.
        batch: batches done of the running epoch.
        steps: optimiser steps done in all.
        loss, seen: summed loss and examples of the running epoch.
        stall: epochs since the stage's own best.
        top: the stage's own best score.
        best: the best result, which may be the one the stage began with.
        lr: the stage's peak rate at the head.
        proof: fingerprint of each frozen tensor when the stage began.
        layout: parameters of each optimiser group.
        rows: the curves so far.
        results: what the finished stages did.
        plan: the arithmetic, obeyed on resume.
        machine: what the bits depend on besides.
        notes: what happened that a reader of the result should know.
    """

    plan: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=dict)
    stage: int = 0
    opened: bool = False
    epoch: int = 0
    begun: int = 0
    batch: int = 0
    steps: int = 0
    loss: float = 0.0
    seen: int = 0
    epochs_without_improvement: int = 0
    top: tuple[float, float] | None = None
    best: BestResult | None = None
    lr: float = 0.0
    proof: dict[str, str] = field(default_factory=dict)
    layout: dict[str, list[str]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    results: list[StageResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def close(self, result: StageResult) -> None:
        """Ends a stage: the next has not begun."""
        self.results.append(result)
        self.stage += 1
        self.opened, self.best, self.top, self.epochs_without_improvement, self.proof, self.layout = (
            False,
            None,
            None,
            0,
            {},
            {},
        )

    def dump(self) -> dict[str, Any]:
        """JSON values from which `parse` makes the same position."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["best"] = dataclasses.asdict(self.best) if self.best else None
        values["results"] = [result.model_dump(mode="json") for result in self.results]
        return values

    @classmethod
    def parse(cls, values: dict[str, Any]) -> TrainState:
        """The position that `dump` wrote."""
        return cls(
            **{
                **values,
                "top": tuple(values["top"]) if values["top"] else None,
                "best": BestResult(**values["best"]) if values["best"] else None,
                "rows": [Row(*row) for row in values["rows"]],
                "results": [StageResult.model_validate(result) for result in values["results"]],
            }
        )


def machine(device: str, threads: int) -> dict[str, Any]:
    """What the last bits of a result depend on, besides everything that is in the training's key."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "torch": torch.__version__,
        "device": f"{device} {name}",
        "threads": threads,
        "vectors": torch.backends.cpu.get_cpu_capability(),
    }
