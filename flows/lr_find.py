"""A learning rate for a stage, found before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.stage import LiveConsole, WorkspaceRun, remember
from flows.status import prepare, refuse_changed_weights
from pipeline.context import NoTracker
from pipeline.report import page
from pipeline.report.report_context import Sweep
from pipeline.steps.lr_find import lr_find as sweep
from pipeline.steps.run import context, new_run
from pipeline.versioning import Versioning
from pipeline.workspace import Workspace, lock

NEEDED = ("validate", "split", "backbone")


@dataclass(frozen=True)
class Found:
    """A sweep, and the page that draws it."""

    sweep: Sweep
    page: Path


def lr_find(place: Workspace, recipe: str | None, stage: str | None, console: LiveConsole) -> Found:
    """Brings what a training needs up to date, then sweeps the learning rate of a stage; trains nothing.

    Raises:
        ConfigError: params.yaml cannot be used, or there is no such recipe or stage.
        ThawError: whatever the steps before have to say.
    """
    with lock(place):
        prepare(place, console)
        refuse_changed_weights(place)
        config = place.config()
        versioning = Versioning(place.root)
        run = WorkspaceRun(
            workspace=place, versioning=versioning, run_dir=new_run(place), tracker=NoTracker(), console=console
        )
        ready: dict[str, Any] = {name: remember(run, name) for name in NEEDED}
        swept = sweep(
            config.finetune, config.task, ready["split"], ready["backbone"],
            context(place, config, console, run.tracker, run.run_dir / "lr-find"), recipe=recipe, stage=stage,
        )  # fmt: skip
    drawn = Sweep(swept.recipe, swept.stage, *swept.sweep)
    path = run.run_dir / "lr-find" / "sweep.html"
    page.write(page.swept(place.root.name, drawn), path)
    return Found(drawn, path)
