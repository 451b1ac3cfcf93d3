"""Runs one step in a workspace: config and earlier records in, the step's record out.

Every way to run a step comes through here: `thaw step`, `python -P -m pipeline`, `dvc
repro` and the Prefect flow.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import receipts
from pipeline.config import Config
from pipeline.context import Console, Context, NoTracker, Tracker
from pipeline.errors import VersioningError
from pipeline.records import Record
from pipeline.step_table import WHOLE_CONFIG, find_step
from pipeline.steps.summary import done_line, running_line
from pipeline.storage import storage_errors
from pipeline.task_catalog import load_object
from pipeline.upgrade import refuse_outdated
from pipeline.workspace import Workspace, empty_folder, lock


def run_step(
    workspace: Workspace,
    name: str,
    *,
    console: Console,
    tracker: Tracker,
    run_dir: Path,
) -> Record:
    """Runs a step into its emptied output folder and returns its record.

    Args:
        run_dir: folder for what this run saw but its inputs do not determine.

    Raises:
        ConfigError: there is no such step, or params.yaml cannot be used.
        VersioningError: an earlier step has not been run.
        ThawError: whatever the step raises.
    """
    entry = find_step(name)
    config = workspace.config()
    arguments = [_section(config, section) for section in entry.settings]
    for earlier in entry.reads:
        arguments.append(load_record(workspace, earlier))
    surroundings = make_context(workspace, config, console, tracker, run_dir)
    function: Callable[..., Record] = load_object(entry.function)
    if entry.skipped_by == "receipt":
        return function(*arguments, context=surroundings)
    return function(
        *arguments, out=empty_folder(workspace.output(name)), context=surroundings
    )


def run_alone(workspace: Workspace, name: str, *, console: Console) -> Record:
    """Runs one step without asking what is fresh and without Prefect, as the stages of
    dvc.yaml do; see `run_step` for the errors.

    Raises:
        WorkspaceError: another run has the workspace, or an earlier version of Thaw
            made it and this one has not yet brought it up to date.
    """
    entry = find_step(name)
    refuse_outdated(workspace)
    with storage_errors(workspace.root), lock(workspace):
        tracker = (
            open_tracker(workspace.config(), workspace, console)
            if entry.is_tracked
            else NoTracker()
        )
        run_dir = new_run_dir(workspace) / name
        started = time.monotonic()
        console.info(running_line(name, ()))
        record = run_step(
            workspace, name, console=console, tracker=tracker, run_dir=run_dir
        )
        console.info(done_line(name, time.monotonic() - started, record))
        return record


def load_record(workspace: Workspace, name: str) -> Record:
    """The record of a finished step.

    Raises:
        ConfigError: there is no such step.
        VersioningError: it has not been run, or by another version of Thaw.
    """
    entry = find_step(name)
    if entry.skipped_by == "dvc":
        return entry.record.load(workspace.output(name))
    receipt: Record | None = (
        receipts.load(workspace)
        if name == "register"
        else receipts.load_promotion(workspace)
    )
    if receipt is None:
        raise VersioningError(
            name,
            found="no receipt of it here",
            expected="a registered evaluation",
            hint="thaw run",
        )
    return receipt


def make_context(
    workspace: Workspace,
    config: Config,
    console: Console,
    tracker: Tracker,
    run_dir: Path,
) -> Context:
    """A step's surroundings in this workspace; makes the folder `run_dir`."""
    run_dir.mkdir(parents=True, exist_ok=True)
    return Context(
        root=workspace.root,
        data=workspace.root / config.data.path,
        scratch=workspace.scratch,
        run_dir=run_dir,
        console=console,
        tracker=tracker,
        pixel_cache_gb=config.finetune.plan.pixel_cache_gb,
    )


def new_run_dir(workspace: Workspace) -> Path:
    """A name for a run's folder under `.thaw/runs`, which sorts by time; nothing is
    made.
    """
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    random = secrets.token_hex(2)
    return workspace.scratch / "runs" / f"{moment}-{random}"


def open_tracker(
    config: Config, workspace: Workspace, console: Console | None = None
) -> Tracker:
    """Where params.yaml says that runs are recorded; nowhere if it says so."""
    if not config.tracking.enabled:
        return NoTracker()
    from pipeline import tracking

    return tracking.open_tracker(config.tracking, workspace, console=console)


def _section(config: Config, name: str) -> Any:
    if name == WHOLE_CONFIG:
        return config
    return getattr(config, name)
