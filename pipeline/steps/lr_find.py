"""A learning rate for one stage of a recipe, found by a sweep and not trained with."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.config import FinetuneConfig, TaskConfig
from pipeline.context import Context
from pipeline.errors import ConfigError
from pipeline.records import BackboneRecord, SplitRecord
from pipeline.steps.finetune import Shared
from pipeline.training import recipes
from pipeline.training.interrupt import interruptible
from pipeline.training.lr_find import Sweep


class Swept(NamedTuple):
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
) -> Swept:
    """Sweeps the learning rate of a stage, from the backbone's weights, as if it were the recipe's first.

    Args:
        recipe: one of those configured or built in; None: the first configured.
        stage: of that recipe; None: its first.

    Raises:
        ConfigError: there is no such recipe or stage.
        Interrupted: a signal came; nothing was changed.
    """
    from pipeline.training.checkpoints import Checkpoints
    from pipeline.training.determinism import deterministic
    from pipeline.training.loop import Session, StageRun
    from pipeline.training.position import Position

    name = recipe or recipes.named(config)[0]
    rows = {row.name: row for row in recipes.stages(name, config, backbone.blocks)}
    wanted = stage or next(iter(rows))
    if wanted not in rows:
        raise ConfigError(f"stage of recipe '{name}'", found=wanted, expected="one of " + ", ".join(rows))
    bench = Shared(config, task, split, backbone, context)
    with interruptible() as stop:
        plan = bench.plan()
        nowhere = Checkpoints(context.scratch / "lr-find", {}, context.console, 1, float("inf"))
        session = Session(bench.job, name, nowhere, stop, lambda rows: None)
        with deterministic(plan.threads):
            model = bench.job.build(rows[wanted].init == "keep")
            run = StageRun(session, rows[wanted], plan, model, Position(plan=plan.model_dump(mode="json")), {})
            return Swept(name, wanted, run.sweep())
