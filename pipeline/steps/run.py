"""Runs one step in a workspace: config and earlier records in, the step's record out.

Every way to run a step comes through here: `thaw step`, `python -P -m pipeline`, `dvc repro` and the Prefect flow.
"""

from __future__ import annotations

import importlib
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import records
from pipeline.context import Console, Context, NoTracker, Tracker
from pipeline.errors import ConfigError
from pipeline.steps.summary import done_line, running_line
from pipeline.storage import storage_errors
from pipeline.upgrade import refuse_outdated
from pipeline.workspace import Workspace, emptied, lock

if TYPE_CHECKING:
    from pipeline.config import Config


class Step(NamedTuple):
    """Where a step's function is, what record it returns, which earlier records it needs and what of the config."""

    function: str
    record: type[records.Record]
    needs: tuple[str, ...]
    sections: Callable[[Config], tuple[Any, ...]]
    tracked: bool = False


STEPS = {
    "validate": Step(
        "pipeline.steps.validate:validate", records.ValidateRecord, (), lambda config: (config.data, config.task)
    ),
    "split": Step("pipeline.steps.split:split", records.SplitRecord, ("validate",), lambda config: (config.split,)),
    "backbone": Step(
        "pipeline.steps.backbone:backbone", records.BackboneRecord, (), lambda config: (config.backbone,)
    ),
    "finetune": Step(
        "pipeline.steps.finetune:finetune", records.FinetuneRecord, ("split", "backbone"),
        lambda config: (config.finetune, config.task), tracked=True,
    ),
    "evaluate": Step(
        "pipeline.steps.evaluate:evaluate", records.EvaluateRecord, ("split", "finetune"),
        lambda config: (config.evaluate, config.task), tracked=True,
    ),
}  # fmt: skip


def run_step(workspace: Workspace, name: str, *, console: Console, tracker: Tracker, run_dir: Path) -> records.Record:
    """Runs a step into its emptied output folder and returns its record.

    Args:
        run_dir: folder for what this run saw but its inputs do not determine.

    Raises:
        ConfigError: there is no such step, or params.yaml cannot be used.
        VersioningError: an earlier step has not been run.
        ThawError: whatever the step raises.
    """
    step = find(name)
    config = workspace.config()
    earlier = [load_record(workspace, needed) for needed in step.needs]
    surroundings = context(workspace, config, console, tracker, run_dir)
    module, _, attribute = step.function.partition(":")
    function: Callable[..., records.Record] = getattr(importlib.import_module(module), attribute)
    return function(*step.sections(config), *earlier, out=emptied(workspace.output(name)), context=surroundings)


def run_alone(workspace: Workspace, name: str, *, console: Console) -> records.Record:
    """Runs one step without memory or conductor, as the stages of dvc.yaml do; see `run_step` for the errors.

    Raises:
        WorkspaceError: another run has the workspace, or an earlier version of Thaw made it and this one has not yet
            brought it up to date.
    """
    tracked = find(name).tracked
    refuse_outdated(workspace)
    with storage_errors(workspace.root), lock(workspace):
        tracker = open_tracker(workspace.config(), workspace, console) if tracked else NoTracker()
        began = time.monotonic()
        console.info(running_line(name, ()))
        record = run_step(workspace, name, console=console, tracker=tracker, run_dir=new_run(workspace) / name)
        console.info(done_line(name, time.monotonic() - began, record))
        return record


def context(workspace: Workspace, config: Config, console: Console, tracker: Tracker, run_dir: Path) -> Context:
    """A step's surroundings in this workspace; makes the folder `run_dir`."""
    run_dir.mkdir(parents=True, exist_ok=True)
    return Context(
        root=workspace.root, data=workspace.root / config.data.path, scratch=workspace.scratch, run_dir=run_dir,
        console=console, tracker=tracker, pixel_cache_gb=config.finetune.plan.pixel_cache_gb,
    )  # fmt: skip


def new_run(workspace: Workspace) -> Path:
    """A name for a run's folder under `.thaw/runs`, which sorts by time; nothing is made."""
    return workspace.scratch / "runs" / (datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ-") + secrets.token_hex(2))


def open_tracker(config: Config, workspace: Workspace, console: Console | None = None) -> Tracker:
    """Where params.yaml says that runs are recorded; nowhere if it says so."""
    if not config.tracking.enabled:
        return NoTracker()
    from pipeline import tracking

    return tracking.open_tracker(config.tracking, workspace, console=console)


def find(name: str) -> Step:
    """The step of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in STEPS:
        raise ConfigError("step", found=name, expected="one of " + ", ".join(STEPS))
    return STEPS[name]


def load_record(workspace: Workspace, name: str) -> records.Record:
    """The record of a finished step; raises VersioningError where there is none."""
    return find(name).record.load(workspace.output(name))
