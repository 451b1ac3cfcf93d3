"""What a person at a terminal sees of a command: lines, and below them one live line
that says what is being done.

In a pipe, a file or a dumb terminal there are lines alone, and now and then one that
says how far the work has come.
"""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.text import format_seconds, printable

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.live import Live
    from rich.text import Text

REFRESHES_PER_SECOND = 8
SECONDS_BETWEEN_LINES = 30.0  # of progress, where no live line can be drawn
INDENT = 4
USUAL_WIDTH = 80
WIDE = 100  # columns from which the bar is long
# A line that begins with a name in a column, as those of steps do: its further lines
# stand below its text.
_COLUMN = re.compile(r"\S+ {2,}")


@dataclass(frozen=True)
class Progress:
    """How far a named piece of work has come."""

    what: str
    done: int
    total: int  # 0: nobody knows
    note: str
    began: float
    done_at_first: int

    def remaining(self, now: float) -> float | None:
        """Seconds still to go at the pace so far; None where that cannot be told."""
        advanced = self.done - self.done_at_first
        if advanced <= 0 or self.total <= self.done:
            return None
        seconds_each = (now - self.began) / advanced
        return seconds_each * (self.total - self.done)


@dataclass
class TerminalActivity:
    """Something that takes a while, and how far its present piece of work has come."""

    name: str
    began: float = field(default_factory=time.monotonic)
    progress: Progress | None = None


class Terminal:
    """A console (`pipeline.context.Console`) for a person; use it as a context manager,
    so that the live line goes.

    Args:
        stderr: write to standard error instead of standard output.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        self._console = _rich_console(stderr)
        self._live: Live | None = None
        self._activities: list[TerminalActivity] = []
        self._reported: dict[str, float] = {}

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def info(self, text: str) -> None:
        """One line, indented: what happens below the last heading."""
        self.line(text, indent=INDENT)

    def heading(self, text: str) -> None:
        """One line in bold."""
        self.line(text, style="bold")

    def line(
        self, text: str, *, indent: int = 0, hanging: int | None = None, style: str = ""
    ) -> None:
        """One line, whatever it holds; on a terminal it is broken between words, in a
        pipe never.

        Args:
            hanging: columns before its further lines; None: as its beginning suggests.
        """
        shown = " " * indent + printable(text)
        if self._console.is_terminal:
            shown = "\n".join(_broken(shown, self._console.width, hanging))
        self._console.print(shown, style=style)

    @contextmanager
    def working(self, on: str) -> Iterator[None]:
        """Shows what is being worked on, and for how long, until the block ends;
        nothing in a pipe.
        """
        activity = TerminalActivity(on)
        self._activities.append(activity)
        self._start()
        try:
            yield
        finally:
            self._activities.remove(activity)
            if not self._activities:
                self.close()

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """How far the work has come: in the live line, or as a line now and then."""
        if self._live is None:
            self._report(what, done, total, note)
        elif self._activities:
            # The newest piece of work takes the place of the last one, whether or not
            # that came to its end.
            self._activities[-1].progress = self._advanced(what, done, total, note)

    def close(self) -> None:
        """Ends the live line, whatever was still going on."""
        live, self._live = self._live, None
        self._activities.clear()
        if live is not None:
            live.stop()

    def _advanced(self, what: str, done: int, total: int, note: str) -> Progress | None:
        if total and done >= total:
            return None
        began = time.monotonic()
        done_at_first = done
        before = self._activities[-1].progress
        if before is not None and before.what == what and before.done <= done:
            began = before.began
            done_at_first = before.done_at_first
        return Progress(what, done, total, note, began, done_at_first)

    def _report(self, what: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        last = self._reported.setdefault(what, now)
        if now - last >= SECONDS_BETWEEN_LINES:
            self._reported[what] = now
            self.info(f"{what}: {_count(done, total)} {note}".rstrip())

    def _start(self) -> None:
        if (
            self._live is not None
            or not self._console.is_interactive
            or self._console.is_dumb_terminal
        ):
            return
        from rich.live import Live

        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
        )
        self._live.start()

    def _render(self) -> Text:
        from rich.text import Text

        activities = list(self._activities)
        if not activities:
            return Text("")
        columns = self._console.width
        line = live_line(
            activities[-1],
            time.monotonic(),
            columns,
            ascii_only=self._console.options.ascii_only,
        )
        # One column stays free: in the last one, some terminals begin a new line.
        line.truncate(columns - 1, overflow="crop")
        return line


def live_line(
    activity: TerminalActivity, now: float, columns: int, *, ascii_only: bool
) -> Text:
    """The one line that moves, of any width; the caller cuts it."""
    from rich.text import Text

    frames = "|/-\\" if ascii_only else "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    frame = frames[int(now * REFRESHES_PER_SECOND) % len(frames)]
    elapsed = _whole_seconds(now - activity.began)
    progress = activity.progress
    line = Text(no_wrap=True).append(f"  {frame} ", "cyan")
    if progress is None:
        return line.append(f"{printable(activity.name)}  ").append(elapsed, "dim")
    line.append(f"{_shortened(printable(progress.what), 2 * columns // 5)}  ")
    if progress.total:
        _append_bar(
            line,
            progress.done / progress.total,
            24 if columns >= WIDE else 10,
            ascii_only,
        )
    line.append(f"{_count(progress.done, progress.total)}  ", "green")
    remaining = progress.remaining(now)
    duration = elapsed
    if remaining is not None:
        duration = f"{_whole_seconds(max(1.0, remaining))} left"
    line.append(duration, "dim")
    note = f"  {printable(progress.note)}"
    # Half a note says less than none.
    if progress.note and line.cell_len + len(note) < columns:
        return line.append(note)
    return line


def _append_bar(line: Text, share: float, length: int, ascii_only: bool) -> None:
    # Told apart without colour too.
    full, empty = ("#", "-") if ascii_only else ("━", "─")
    filled = round(min(share, 1.0) * length)
    unfilled = length - filled
    line.append(full * filled, "magenta")
    line.append(empty * unfilled, "bright_black")
    line.append("  ")


def _whole_seconds(seconds: float) -> str:
    return format_seconds(round(seconds)).replace(".0 ", " ")


def _count(done: int, total: int) -> str:
    if total:
        return f"{done:,} of {total:,}"
    return f"{done:,}"


def _shortened(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    return text[: length - 3] + "..."


def _broken(text: str, columns: int, hanging: int | None = None) -> list[str]:
    """The text in lines of at most so many columns; a path or address longer than that
    stays whole, to be copied.
    """
    if hanging is None:
        indent = len(text) - len(text.lstrip())
        column = _COLUMN.match(text, indent)
        if column and column.end() < columns // 2:
            hanging = column.end()
        else:
            hanging = indent + INDENT
    return textwrap.wrap(
        text,
        columns,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    ) or [""]


def _rich_console(stderr: bool) -> RichConsole:
    from rich.console import Console

    class VisibleCursor(Console):
        """Leaves the cursor alone: a run that is killed could not bring it back."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    # Data may hold brackets, so nothing in a line is read as markup.
    options: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    console = VisibleCursor(stderr=stderr, soft_wrap=True, **options)
    if console.width < 1:  # COLUMNS=0, by which some programs say that they do not know
        console.width = USUAL_WIDTH
    return console
