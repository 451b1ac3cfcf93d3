"""A learning rate for a stage, found before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.status import prepare_workspace, refuse_changed_weights
from flows.step_task import LiveConsole, WorkspaceRun, run_or_restore
from pipeline.context import NoTracker
from pipeline.report.page import build_sweep_page, write_page
from pipeline.report.report_context import Sweep
from pipeline.step_table import steps_before
from pipeline.steps import lr_find as lr_find_step
from pipeline.steps.run import make_context, new_run_dir
from pipeline.versioning import Versioning
from pipeline.workspace import Workspace, lock


@dataclass(frozen=True)
class SweepPage:
    """A sweep, and the page that draws it."""

    sweep: Sweep
    page: Path


def find_learning_rate(
    workspace: Workspace, recipe: str | None, stage: str | None, console: LiveConsole
) -> SweepPage:
    """Brings what a training needs up to date, then sweeps the learning rate of a
    stage; trains nothing.

    Raises:
        ConfigError: params.yaml cannot be used, or there is no such recipe or stage.
        ThawError: whatever the steps before have to say.
    """
    with lock(workspace):
        prepare_workspace(workspace, console)
        refuse_changed_weights(workspace)
        config = workspace.config()
        run = WorkspaceRun(
            workspace=workspace,
            versioning=Versioning(workspace.root),
            run_dir=new_run_dir(workspace),
            tracker=NoTracker(),
            console=console,
        )
        records: dict[str, Any] = {}
        for name in steps_before("finetune"):
            records[name] = run_or_restore(run, name)
        folder = run.run_dir / "lr-find"
        swept = lr_find_step.lr_find(
            config.finetune,
            config.task,
            records["split"],
            records["backbone"],
            make_context(workspace, config, console, run.tracker, folder),
            recipe=recipe,
            stage=stage,
        )
    sweep = Sweep(swept.recipe, swept.stage, *swept.sweep)
    path = folder / "sweep.html"
    write_page(build_sweep_page(workspace.root.name, sweep), path)
    return SweepPage(sweep, path)
