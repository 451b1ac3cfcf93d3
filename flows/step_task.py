"""The shell around a step: what is fresh, what can be restored, the step itself, and a
Prefect task around it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.tasks import exponential_backoff

from pipeline import receipts
from pipeline.context import Console, Tracker
from pipeline.errors import ThawError, TrackingError
from pipeline.files import replace_json
from pipeline.records import EvaluateRecord, Record
from pipeline.redaction import guarded
from pipeline.report.report_context import OUTCOMES
from pipeline.step_table import STEPS
from pipeline.steps.run import load_record, run_step
from pipeline.steps.summary import done_line, running_line, step_line, summarize
from pipeline.task_catalog import load_object
from pipeline.text import printable
from pipeline.versioning import Versioning
from pipeline.workspace import Workspace

T = TypeVar("T")
Outcome = Literal["unchanged", "restored", "done"]
FIRST_RETRY_SECONDS = 2


class LiveConsole(Console, Protocol):
    """A console that also shows what is being worked on."""

    def working(self, on: str) -> AbstractContextManager[None]:
        """Until the block ends, somebody who looks can see that it goes on."""


# Where the lines of the run in this context go besides Prefect's log: the command line
# sets its terminal.
CONSOLE: ContextVar[LiveConsole | None] = ContextVar("thaw_console", default=None)


class PrefectConsole:
    """A console that writes to Prefect's run log and to the terminal, where there is
    one.
    """

    def info(self, text: str) -> None:
        _log_to_prefect(text)
        terminal = CONSOLE.get()
        if terminal is not None:
            terminal.info(text)

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        terminal = CONSOLE.get()
        if terminal is not None:
            terminal.progress(what, done, total, note)

    def working(self, on: str) -> AbstractContextManager[None]:
        terminal = CONSOLE.get()
        if terminal is None:
            return nullcontext()
        return terminal.working(on)


# Why a step runs that DVC does not know.
UNDONE = {
    "register": "this evaluation is not registered yet",
    "promote": "no decision yet with these settings and the present champion",
}


def _log_to_prefect(text: str) -> None:
    line = printable(text)
    try:
        get_run_logger().info(line)
    except MissingContextError:  # the report is also made outside a flow
        logging.getLogger(__name__).info(line)


@dataclass(frozen=True)
class StepOutcome:
    """What became of one step in this run.

    Args:
        reasons: why it had to run.
    """

    step: str
    how: Outcome
    reasons: tuple[str, ...]
    seconds: float


@dataclass
class WorkspaceRun:
    """One run of a workspace's steps.

    Args:
        run_dir: `.thaw/runs/<run>`.
        force: steps to run even where nothing changed.
    """

    workspace: Workspace
    versioning: Versioning
    run_dir: Path
    tracker: Tracker
    force: frozenset[str] = frozenset()
    console: LiveConsole = field(default_factory=PrefectConsole)
    outcomes: list[StepOutcome] = field(default_factory=list)

    def add_outcome(self, outcome: StepOutcome) -> None:
        """Notes what became of a step, and keeps the times of a run in which anything
        changed.
        """
        self.outcomes.append(outcome)
        if all(each.how == "unchanged" for each in self.outcomes):
            return
        values = [asdict(each) for each in self.outcomes]
        replace_json(self.run_dir / OUTCOMES, values)


def run_step_as_task(run: WorkspaceRun, name: str) -> Any:
    """Runs a step as a Prefect task, unless its result is known already; returns its
    record either way.
    """
    retries = STEPS[name].retries
    return run_as_task(name, lambda: run_or_restore(run, name), retries)


def run_as_task(name: str, work: Callable[[], T], retries: int = 0) -> T:
    """`work` as a Prefect task. Prefect's own cache is off: DVC knows what is fresh,
    and two caches would disagree.

    Only what may pass by itself is tried again, with back-off: a tracking server that
    is away, a disk or a network that hiccups. What the user must fix fails at once.
    """
    as_prefect_task = task(
        name=name,
        task_run_name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=retries,
        retry_delay_seconds=exponential_backoff(FIRST_RETRY_SECONDS),
        retry_condition_fn=_may_pass,
    )
    return as_prefect_task(guarded(work))()


def _may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Whether what a task ended with may pass by itself."""
    try:
        state.result()
    except TrackingError:
        return True
    except ThawError:
        return False
    except OSError:
        return True
    except Exception:
        return False
    return False


def run_or_restore(run: WorkspaceRun, name: str) -> Record:
    """A step's record: loaded where the step is fresh, restored where these inputs once
    gave a result, else by running the step.
    """
    if STEPS[name].skipped_by == "receipt":
        return _run_unless_receipt(run, name)
    started = time.monotonic()
    is_forced = name in run.force
    state = run.versioning.state(name)
    if _refresh_inputs(run, name, state.reasons):
        state = run.versioning.state(name)
    if state.fresh and not is_forced:
        return _finish(run, name, "unchanged", (), started)
    if not is_forced and run.versioning.restore(name):
        return _finish(run, name, "restored", state.reasons, started)
    reasons = ("forced",) if is_forced else state.reasons
    run.console.info(running_line(name, reasons))
    before = run.versioning.snapshot(name)
    run.versioning.clear(name)
    with run.console.working(name):
        _run_step(run, name)
        run.versioning.commit(name, before)
    return _finish(run, name, "done", reasons, started)


def _run_unless_receipt(run: WorkspaceRun, name: str) -> Record:
    """The record of a step that DVC does not know: of the receipt where that is
    current, else by running the step.
    """
    started = time.monotonic()
    receipt = _find_receipt(run.workspace, name)
    is_forced = name in run.force
    if receipt is not None and not is_forced:
        return _finish(run, name, "unchanged", (), started)
    reasons = ("forced",) if is_forced else (UNDONE[name],)
    run.console.info(running_line(name, reasons))
    with run.console.working(name):
        _run_step(run, name)
    return _finish(run, name, "done", reasons, started)


def _find_receipt(workspace: Workspace, name: str) -> Record | None:
    """The receipt of a step that DVC does not know, where nothing changed since; else
    None.
    """
    config = workspace.config()
    if name == "promote":
        registered = receipts.load(workspace)
        if registered is None:
            return None
        return receipts.current_promotion(config, workspace, registered)
    return receipts.current_receipt(
        config, workspace, EvaluateRecord.load(workspace.output("evaluate"))
    )


def _run_step(run: WorkspaceRun, name: str) -> None:
    run_step(
        run.workspace,
        name,
        console=run.console,
        tracker=run.tracker,
        run_dir=run.run_dir / name,
    )


def _refresh_inputs(run: WorkspaceRun, name: str, reasons: Sequence[str]) -> bool:
    """Brings up to date what a step depends on beside data and settings; returns
    whether anything changed.
    """
    hook = STEPS[name].refresh
    if not hook:
        return False
    refresh: Callable[..., bool] = load_object(hook)
    return refresh(run.workspace, reasons, run.console, forced=name in run.force)


def _finish(
    run: WorkspaceRun, name: str, how: Outcome, reasons: Sequence[str], started: float
) -> Record:
    """Notes what became of a step, says so, and returns its record."""
    seconds = time.monotonic() - started
    record = load_record(run.workspace, name)
    run.add_outcome(StepOutcome(name, how, tuple(reasons), seconds))
    if how == "done":
        run.console.info(done_line(name, seconds, record))
    elif STEPS[name].skipped_by == "receipt":
        run.console.info(step_line(name, f"{how}: {summarize(record)}"))
    else:
        run.console.info(step_line(name, how))
    return record
