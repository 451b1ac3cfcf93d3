"""The shell around a step: memory, step, Prefect task, in one place."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.tasks import exponential_backoff

from pipeline.context import Console, Tracker
from pipeline.errors import ThawError, TrackingError
from pipeline.memory import Memory
from pipeline.records import Record
from pipeline.steps.run import load_record, run_step
from pipeline.workspace import Workspace

T = TypeVar("T")
How = Literal["unchanged", "restored", "done"]

# Where the words of the run in this context go besides Prefect's log: the command line sets its terminal.
CONSOLE: ContextVar[Console | None] = ContextVar("thaw_console", default=None)


class Voice:
    """A console that speaks to Prefect's run log and to the terminal, where there is one."""

    def say(self, text: str) -> None:
        _log(text)
        terminal = CONSOLE.get()
        if terminal is not None:
            terminal.say(text)

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        terminal = CONSOLE.get()
        if terminal is not None:
            terminal.progress(what, done, total, note)


def _log(text: str) -> None:
    try:
        get_run_logger().info(text)
    except MissingContextError:  # the report is also made outside a flow
        logging.getLogger(__name__).info(text)


@dataclass(frozen=True)
class Outcome:
    """What became of one step in this run."""

    step: str
    how: How
    why: tuple[str, ...]  # why it had to run
    seconds: float


@dataclass
class Run:
    """One retraining of one workspace."""

    workspace: Workspace
    memory: Memory
    side: Path  # .thaw/runs/<run>
    tracker: Tracker
    force: frozenset[str] = frozenset()
    console: Console = field(default_factory=Voice)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return any(outcome.how != "unchanged" for outcome in self.outcomes)


def stage(run: Run, name: str) -> Any:
    """Runs a step as a Prefect task, unless DVC remembers its result; returns its record either way."""
    return conducted(name, lambda: remember(run, name))


def conducted(name: str, work: Callable[[], T], retries: int = 0) -> T:
    """`work` as a Prefect task. Prefect's own cache is off: DVC remembers, and two memories would disagree.

    Only what may mend itself is tried again, with back-off: a tracking server that is away, a disk or a network
    that hiccups. What the user must mend fails at once.
    """
    conductor = task(
        name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False, retries=retries,
        retry_delay_seconds=exponential_backoff(2), retry_condition_fn=_may_mend_itself,
    )  # fmt: skip
    return conductor(work)()


def _may_mend_itself(_task: Any, _run: Any, state: Any) -> bool:
    try:
        state.result()
    except Exception as fault:
        return isinstance(fault, TrackingError) or (isinstance(fault, OSError) and not isinstance(fault, ThawError))
    return False


def remember(run: Run, name: str) -> Record:
    """A step's record: as it is where it is fresh, from DVC's cache where it is there, else by running the step."""
    began = time.monotonic()
    state = run.memory.state(name)
    how: How = "unchanged"
    why: Sequence[str] = ()
    if name in run.force or not state.fresh:
        why = ("forced",) if name in run.force else state.why
        if name not in run.force and run.memory.restore(name):
            how = "restored"
        else:
            how = "done"
            tell(run, name, "; ".join(why))
            before = run.memory.snapshot(name)
            run.memory.clear(name)
            run_step(run.workspace, name, console=run.console, tracker=run.tracker, side=run.side / name)
            run.memory.commit(name, before)
    outcome = Outcome(name, how, tuple(why), time.monotonic() - began)
    run.outcomes.append(outcome)
    if how != "done":
        tell(run, name, how)
    return load_record(run.workspace, name)


def tell(run: Run, name: str, text: str) -> None:
    """One line about a step, in a column."""
    run.console.say(f"{name:<9} {text}")
