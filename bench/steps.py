"""Training steps of two ways beside each other: each batch by the one and by the other
in turns, in one process, and of each the fastest, in processor's seconds. So what else
the machine does hits both alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import StageConfig
from pipeline.context import Context, NoTracker, SilentConsole
from pipeline.steps.finetune import FinetuneRun
from pipeline.steps.run import load_record
from pipeline.training import stages
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.determinism import deterministic
from pipeline.training.interruption import interruptible
from pipeline.training.progress import TrainingProgress
from pipeline.training.session import TrainingSession
from pipeline.training.stage_epochs import load_batch, order_epoch
from pipeline.training.stage_trainer import open_stage
from pipeline.training.train_state import TrainState
from pipeline.workspace import Workspace

TURNS = 4

# Takes the step of the batch of that number, and returns the processor's seconds.
Stepper = Callable[[int], float]


def open_run(
    workspace: Workspace, scratch: Path, threads: int, **changes: Any
) -> FinetuneRun:
    """A fine-tuning of the workspace's data.

    Args:
        changes: of its settings.
    """
    config = workspace.config()
    plan = {**config.finetune.plan.model_dump(), "threads": threads}
    changed = {
        **config.finetune.model_dump(),
        "baseline": "never",
        "plan": plan,
        **changes,
    }
    context = Context(
        root=workspace.root,
        data=workspace.root / config.data.path,
        scratch=scratch / ".thaw",
        run_dir=scratch / "run",
        tracker=NoTracker(),
        console=SilentConsole(),
    )
    return FinetuneRun(
        type(config.finetune).model_validate(changed),
        config.task,
        load_record(workspace, "split"),  # type: ignore[arg-type]
        load_record(workspace, "backbone"),  # type: ignore[arg-type]
        context,
    )


@contextmanager
def open_steps(
    run: FinetuneRun, stage: StageConfig, plan: Any
) -> Iterator[tuple[Stepper, int]]:
    """What takes a stage's steps, and how many batches its first epoch has."""
    job = run.job
    nowhere = Checkpoints(
        job.scratch / "bench", {}, job.console, 1, every_seconds=float("inf")
    )
    with interruptible() as stop, deterministic(plan.threads):
        session = TrainingSession(job, "bench", nowhere, stop, lambda rows: None)
        progress = TrainingProgress(TrainState(plan=plan))
        trainer = open_stage(session, stage, job.build(True), progress, {})
        order = order_epoch(job, 0, trainer.setup.views)
        stages.set_modes(trainer.setup.model, trainer.setup.scope)

        def take_step(number: int) -> float:
            batch = order.batches[number]
            rows = order.rows[batch]
            views = order.views[batch]
            began = time.process_time()
            loaded = load_batch(trainer.batches.train, rows, views)
            trainer._epochs._step(loaded, rows)
            return time.process_time() - began

        yield take_step, len(order.batches)


def race_steps(
    steppers: Mapping[str, Stepper], batches: Sequence[int], turns: int = TURNS
) -> dict[str, float]:
    """The mean over batches of the fastest step, in processor's milliseconds. The first
    turn warms up: it fills caches and chooses kernels.
    """
    fastest: dict[str, list[float]] = {name: [] for name in steppers}
    for number in batches:
        seconds: dict[str, list[float]] = {name: [] for name in steppers}
        for _ in range(turns + 1):
            for name, take_step in steppers.items():
                seconds[name].append(take_step(number))
        for name, found in seconds.items():
            fastest[name].append(min(found[1:]))
    return {name: 1e3 * float(np.mean(found)) for name, found in fastest.items()}


def race_prefix(
    run: FinetuneRun, stage: StageConfig, batches: int, turns: int = TURNS
) -> dict[str, Any]:
    """Steps with the frozen prefix's outputs kept, and with them computed each time."""
    chosen = run.plan()
    keeping = {"feature_cache": True, "feature_cache_always": True}
    kept_plan = chosen.model_copy(update=keeping)
    computed_plan = chosen.model_copy(update={"feature_cache": False})
    with (
        open_steps(run, stage, kept_plan) as (kept, count),
        open_steps(run, stage, computed_plan) as (computed, _),
    ):
        numbers = spread(count, batches)
        found = race_steps({"kept": kept, "computed": computed}, numbers, turns)
    return {**found, "ratio": found["computed"] / found["kept"], "plan": str(chosen)}


def spread(count: int, wanted: int) -> list[int]:
    """At most so many numbers below `count`, evenly apart."""
    return list(range(0, count, max(1, -(-count // wanted))))
