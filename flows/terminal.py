"""What a person at a terminal sees of a run: lines, one live progress line, and times."""

from __future__ import annotations

import sys
from typing import Any


class Terminal:
    """A console (`pipeline.context.Console`) on a terminal; in a pipe it prints lines alone."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self.quiet = quiet
        self.out = Console(highlight=False, soft_wrap=True)
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """One line; data may hold brackets, so nothing in it is read as markup."""
        if not self.quiet:
            (self._bar.console if self._bar else self.out).print(f"    {text}", markup=False)

    def heading(self, text: str) -> None:
        if not self.quiet:
            self.out.print(text, markup=False, style="bold")

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """A live bar on a terminal, nothing in a pipe."""
        if self.quiet or not sys.stdout.isatty():
            return
        if self._bar is None:
            self._start()
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total, note=note)
        self._bar.update(self._tasks[what], completed=done, total=total, note=note)
        if done >= total:
            self._bar.remove_task(self._tasks.pop(what))
            if not self._tasks:
                self.close()

    def _start(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("    {task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"), console=self.out, transient=True,
        )  # fmt: skip
        self._bar.start()

    def close(self) -> None:
        """Ends the live line, whatever was still open."""
        if self._bar is not None:
            self._bar.stop()
            self._bar, self._tasks = None, {}
