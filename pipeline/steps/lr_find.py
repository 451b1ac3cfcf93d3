"""A learning rate for one stage of a recipe, found by a sweep and not trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pipeline.config import FinetuneConfig, StageConfig
from pipeline.config_section import TaskConfig
from pipeline.context import Context
from pipeline.errors import ConfigError
from pipeline.records import BackboneRecord, SplitRecord
from pipeline.steps.finetune import FinetuneRun
from pipeline.training import recipes
from pipeline.training.interruption import interruptible
from pipeline.training.lr_find import Sweep

if TYPE_CHECKING:
    from pipeline.models.network import BlockedNetwork
    from pipeline.training.batch_source import FinetuneJob


class SweepResult(NamedTuple):
    """A sweep, and the recipe and stage that it was made for."""

    recipe: str
    stage: str
    sweep: Sweep


def lr_find(
    config: FinetuneConfig,
    task: TaskConfig,
    split: SplitRecord,
    backbone: BackboneRecord,
    context: Context,
    *,
    recipe: str | None = None,
    stage: str | None = None,
) -> SweepResult:
    """Sweeps the learning rate of a stage, from the backbone's weights, as if it were
    the recipe's first.

    Args:
        recipe: one of those configured or built in; None: the first configured.
        stage: of that recipe; None: its first that has a rate, since a linear head is
            solved.

    Raises:
        ConfigError: there is no such recipe or stage, or its head is solved.
        Interrupted: a signal came; nothing was changed.
    """
    from pipeline.training.checkpoints import Checkpoints
    from pipeline.training.determinism import deterministic
    from pipeline.training.progress import TrainingProgress
    from pipeline.training.session import TrainingSession
    from pipeline.training.stage_trainer import sweep_lr
    from pipeline.training.train_state import TrainState

    name = recipe or recipes.recipe_names(config)[0]
    rows = {
        row.name: row for row in recipes.recipe_stages(name, config, backbone.blocks)
    }
    if stage is not None and stage not in rows:
        raise ConfigError(
            f"stage of recipe '{name}'",
            found=stage,
            expected="one of " + ", ".join(rows),
        )
    bench = FinetuneRun(config, task, split, backbone, context)
    with interruptible() as stop:
        plan = bench.plan()
        nowhere = Checkpoints(
            context.scratch / "lr-find", {}, context.console, 1, float("inf")
        )
        session = TrainingSession(bench.job, name, nowhere, stop, lambda rows: None)
        with deterministic(plan.threads):
            model = bench.job.build(True)
            swept_stage = stage or _first_trained(bench.job, model, rows)
            if rows[swept_stage].init == "random":
                model = bench.job.build(False)
            progress = TrainingProgress(TrainState(plan=plan))
            return SweepResult(
                name, swept_stage, sweep_lr(session, rows[swept_stage], model, progress)
            )


def _first_trained(
    job: FinetuneJob, model: BlockedNetwork, rows: Mapping[str, StageConfig]
) -> str:
    """The first stage that is not solved; the first of all where each is."""
    from pipeline.training import head_stage

    trained = []
    for name, row in rows.items():
        if not head_stage.is_solved(job, model, row):
            trained.append(name)
    return next(iter(trained or rows))
