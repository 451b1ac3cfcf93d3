"""The shell around a step: memory, step, Prefect task, in one place."""

from __future__ import annotations

import json
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

from pipeline.context import Console, Tracker
from pipeline.errors import ThawError, TrackingError
from pipeline.files import replace_text
from pipeline.records import Record
from pipeline.redaction import guarded
from pipeline.report.report_context import OUTCOMES
from pipeline.steps import champion
from pipeline.steps.run import load_record, run_step
from pipeline.steps.summary import done_line, running_line, step_line
from pipeline.text import printable
from pipeline.versioning import Versioning
from pipeline.workspace import Workspace

T = TypeVar("T")
How = Literal["unchanged", "restored", "done"]


class LiveConsole(Console, Protocol):
    """A console that also shows what is being worked on."""

    def working(self, on: str) -> AbstractContextManager[None]:
        """Until the block ends, somebody who looks can see that it goes on."""


# Where the lines of the run in this context go besides Prefect's log: the command line sets its terminal.
CONSOLE: ContextVar[LiveConsole | None] = ContextVar("thaw_console", default=None)


class PrefectConsole:
    """A console that writes to Prefect's run log and to the terminal, where there is one."""

    def info(self, text: str) -> None:
        _log(text)
        terminal = CONSOLE.get()
        if terminal is not None:
            terminal.info(text)

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        terminal = CONSOLE.get()
        if terminal is not None:
            terminal.progress(what, done, total, note)

    def working(self, on: str) -> AbstractContextManager[None]:
        terminal = CONSOLE.get()
        return nullcontext() if terminal is None else terminal.working(on)


def _log(text: str) -> None:
    text = printable(text)
    try:
        get_run_logger().info(text)
    except MissingContextError:  # the report is also made outside a flow
        logging.getLogger(__name__).info(text)


@dataclass(frozen=True)
class StepOutcome:
    """What became of one step in this run."""

    step: str
    how: How
    why: tuple[str, ...]  # why it had to run
    seconds: float


@dataclass
class WorkspaceRun:
    """One retraining of one workspace."""

    workspace: Workspace
    versioning: Versioning
    run_dir: Path  # .thaw/runs/<run>
    tracker: Tracker
    force: frozenset[str] = frozenset()
    console: LiveConsole = field(default_factory=PrefectConsole)
    outcomes: list[StepOutcome] = field(default_factory=list)

    def finished(self, outcome: StepOutcome) -> None:
        """Notes what became of a step, and keeps the times of a run in which anything changed."""
        self.outcomes.append(outcome)
        if all(each.how == "unchanged" for each in self.outcomes):
            return
        values = [asdict(each) for each in self.outcomes]
        replace_text(self.run_dir / OUTCOMES, json.dumps(values, indent=2) + "\n")


def stage(run: WorkspaceRun, name: str) -> Any:
    """Runs a step as a Prefect task, unless DVC remembers its result; returns its record either way."""
    return as_prefect_task(name, lambda: remember(run, name))


def as_prefect_task(name: str, work: Callable[[], T], retries: int = 0) -> T:
    """`work` as a Prefect task. Prefect's own cache is off: DVC remembers, and two memories would disagree.

    Only what may fix itself is tried again, with back-off: a tracking server that is away, a disk or a network
    that hiccups. What the user must fix fails at once.
    """
    conductor = task(
        name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False, retries=retries,
        retry_delay_seconds=exponential_backoff(2), retry_condition_fn=_may_mend_itself,
    )  # fmt: skip
    return conductor(guarded(work))()


def _may_mend_itself(_task: Any, _run: Any, state: Any) -> bool:
    try:
        state.result()
    except Exception as fault:
        return isinstance(fault, TrackingError) or (isinstance(fault, OSError) and not isinstance(fault, ThawError))
    return False


def remember(run: WorkspaceRun, name: str) -> Record:
    """A step's record: as it is where it is fresh, from DVC's cache where it is there, else by running the step."""
    began = time.monotonic()
    forced = name in run.force
    state = run.versioning.state(name)
    if name == "finetune" and champion.follow(run.workspace, state.why, run.console, forced=forced):
        state = run.versioning.state(name)
    if state.fresh and not forced:
        return _finish(run, name, "unchanged", (), began)
    if not forced and run.versioning.restore(name):
        return _finish(run, name, "restored", state.why, began)
    reasons = ("forced",) if forced else tuple(state.why)
    run.console.info(running_line(name, reasons))
    before = run.versioning.snapshot(name)
    run.versioning.clear(name)
    with run.console.working(name):
        run_step(run.workspace, name, console=run.console, tracker=run.tracker, run_dir=run.run_dir / name)
        run.versioning.commit(name, before)
    return _finish(run, name, "done", reasons, began)


def _finish(run: WorkspaceRun, name: str, how: How, why: Sequence[str], began: float) -> Record:
    """Notes what became of a step, says so, and returns its record."""
    seconds = time.monotonic() - began
    record = load_record(run.workspace, name)
    run.finished(StepOutcome(name, how, tuple(why), seconds))
    run.console.info(done_line(name, seconds, record) if how == "done" else step_line(name, how))
    return record
