"""What a step is given beside its config and records: where it may write, and whom it
may tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol


class Console(Protocol):
    """Where a step's words go. Steps never print."""

    def info(self, text: str) -> None:
        """One line for the user."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """How far a named piece of work has come; `done == total` ends it."""


class SilentConsole:
    """A console that says nothing."""

    def info(self, text: str) -> None: ...

    def progress(self, what: str, done: int, total: int, note: str = "") -> None: ...


class EachLineOnce:
    """Passes words on, and a line only the first time: of work that is done once for
    each candidate.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: set[str] = set()

    def info(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._console.info(text)

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        self._console.progress(what, done, total, note)


class MetricPoint(NamedTuple):
    """One point of a curve."""

    name: str
    value: float
    step: int


class TrackedRun(Protocol):
    """One run in the tracking store. Every call may be repeated: nothing is doubled."""

    id: str

    def params(self, values: Mapping[str, object]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def metrics(self, points: Iterable[MetricPoint]) -> None: ...

    def artifact(self, path: Path, folder: str = "") -> None: ...

    def close(self, status: str = "FINISHED") -> None: ...


class Tracker(Protocol):
    """Opens runs by key: the run tagged `thaw.key=<key>` is found again, or made."""

    def open(
        self,
        key: str,
        name: str,
        *,
        parent: TrackedRun | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> TrackedRun: ...


class NoRun:
    """A run that records nothing."""

    id = ""

    def params(self, values: Mapping[str, object]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def metrics(self, points: Iterable[MetricPoint]) -> None: ...

    def artifact(self, path: Path, folder: str = "") -> None: ...

    def close(self, status: str = "FINISHED") -> None: ...


class NoTracker:
    """A tracker that records nothing, where tracking is off."""

    def open(
        self,
        key: str,
        name: str,
        *,
        parent: TrackedRun | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> TrackedRun:
        return NoRun()


@dataclass(frozen=True)
class Context:
    """A step's surroundings.

    Args:
        root: the workspace.
        data: the data folder.
        scratch: `.thaw`: caches and checkpoints, keyed by what determines them, safe to
            delete.
        run_dir: `.thaw/runs/<run>/<step>`: what this run saw but its inputs do not
            determine (times, Data Docs).
        console: where words go.
        tracker: where runs are recorded.
        pixel_cache_gb: most disk the store of decoded examples may take; no result
            depends on it.
    """

    root: Path
    data: Path
    scratch: Path
    run_dir: Path
    console: Console = field(default_factory=SilentConsole)
    tracker: Tracker = field(default_factory=NoTracker)
    pixel_cache_gb: float = math.inf
