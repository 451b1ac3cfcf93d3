"""Whether a training runs as fast as its plan was measured to be.

A plan may have been measured while the machine was busy, or be obeyed while it is. A
stage at less than half the planned speed says so, and the remembered plan is discarded,
so that the next training measures anew; the running one keeps its own, on which its
result's last bits depend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.training.batch_source import BatchSource
from pipeline.training.plan import (
    BACKWARD,
    ChosenPlan,
    Remembered,
    TrainingPlan,
    find_remembered,
)

if TYPE_CHECKING:
    from pipeline.training.stage_setup import StageSetup
    from pipeline.training.stage_trainer import StageTrainer

SLOW = 2.0  # times the planned seconds
# Of a whole step that a stage's step must cost: what remains of a smaller one is
# overhead.
LEAST_SHARE = 0.1
LEAST_SECONDS = 1.0  # of steps that are judged


def check_speed(trainer: StageTrainer) -> None:
    """Compares the steps that this process did of a finished stage with the remembered
    plan, like with like: with what the same blocks take.
    """
    setup = trainer.setup
    times = trainer.progress.times[setup.stage.name]
    # none: its head was solved.
    if not times["examples"] or times["step"] < LEAST_SECONDS:
        return
    planned = _planned(setup)
    if planned is None or not _same_arithmetic(
        trainer.progress.state.plan, planned.chosen.plan
    ):
        return
    share = step_share(
        planned.chosen, trainer.batches.train.start, setup.scope.boundary
    )
    if share is None or share < LEAST_SHARE:
        return
    expected = share * planned.chosen.seconds_per_example
    taken = times["step"] / times["examples"]
    if taken <= SLOW * expected:
        return
    planned.path.unlink(missing_ok=True)
    trainer.session.info(
        f"stage '{setup.stage.name}' ran at {expected / taken:.0%} of the planned speed "
        f"({1e3 * taken:.1f} ms an example, {1e3 * expected:.1f} planned): another program may have kept the "
        "machine busy. This training keeps its plan; the next one measures anew"
    )


def _planned(setup: StageSetup) -> Remembered | None:
    job = setup.job
    source = BatchSource(job, job.train, None, 0)
    x = source.batch(np.arange(1), None)
    return find_remembered(setup.model, job.task, x, job.config, job.scratch)


def step_share(chosen: ChosenPlan, start: int, boundary: int) -> float | None:
    """What a training step of some blocks takes, as a share of the whole network's;
    None where that is not known.

    Args:
        start: index of the first block that runs: those before it were computed once.
        boundary: index of the first block that trains; the backward pass, which takes
            as long as `BACKWARD` − 1 forward passes, ends there.
    """
    if start == boundary == 0:
        return 1.0
    if not chosen.shares:
        return None
    forward = sum(chosen.shares[start:])
    backward = (BACKWARD - 1) * sum(chosen.shares[boundary:])
    return (forward + backward) / BACKWARD


def _same_arithmetic(plan: TrainingPlan, other: TrainingPlan) -> bool:
    if plan.compile:
        return False
    compared = {"precision", "memory_format", "threads", "device", "torch"}
    return plan.model_dump(include=compared) == other.model_dump(include=compared)
