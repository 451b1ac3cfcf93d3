"""Text that a person reads, made safe to show: nothing in it moves a cursor, and any
stream can write it.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

# What the project's own sentences hold beyond ASCII, for streams that cannot write it.
IN_ASCII = {
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "×": "x",
    "·": "-",
    "≥": ">=",
    "≤": "<=",
    "\u00a0": " ",
    "\u202f": " ",
}
ERROR_HANDLER = "thaw-in-ascii"

_NUMBER = re.compile(r"(\d+)")


def printable(text: str) -> str:
    r"""The text on one line, with every control, direction and undecodable character
    escaped as \n, \x1b or \u202e.

    File and class names come from users' data; written raw, they could move the cursor
    or retitle the terminal.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else _escaped(letter) for letter in text
    )


def first_few(items: Sequence[str], limit: int, where: str) -> Iterator[str]:
    """The first items, then how many more there are and where all of them are listed."""
    yield from items[:limit]
    if len(items) > limit:
        yield f"… and {len(items) - limit} more, all in {where}"


def use_utf8_names() -> None:
    """Starts the command again in Python's UTF-8 mode where file names would be read in
    another encoding.

    Class names are read from folders and written to files in UTF-8: under a Latin-1
    locale the same folder would be another class. What the terminal is written in stays
    as it was.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    if os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.environ["PYTHONUTF8"] = "1"
    arguments = sys.orig_argv[1:]
    os.execv(sys.executable, [sys.executable, *arguments])


def write_anything(streams: Iterable[TextIO]) -> None:
    """Makes the streams write what their encoding has no letters for in ASCII, instead
    of raising.

    A terminal or a pipe may be ASCII or Latin-1: `LANG=C`, `PYTHONIOENCODING=latin-1`.
    """
    codecs.register_error(ERROR_HANDLER, _in_ascii)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERROR_HANDLER)


def shorten(text: str, most: int) -> str:
    """At most so many characters of a text, with an ellipsis where it is cut."""
    if len(text) <= most:
        return text
    return text[: most - 1] + "…"


def natural_order(name: str) -> list[str | int]:
    """A sort key by which line 9 of a table comes before its line 10."""
    key: list[str | int] = []
    for part in _NUMBER.split(name):
        key.append(int(part) if part.isdecimal() else part)
    return key


def format_seconds(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes, seconds_left = divmod(whole, 60)
    if minutes < 90:
        return f"{minutes} min {seconds_left:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def pluralize(count: int, noun: str, several: str = "") -> str:
    """1 example, 1,200 examples."""
    word = noun
    if count != 1:
        word = several or f"{noun}s"
    return f"{count:,} {word}"


def _in_ascii(fault: UnicodeError) -> tuple[str, int]:
    if not isinstance(fault, UnicodeEncodeError):
        raise fault
    letters = fault.object[fault.start : fault.end]
    return "".join(
        IN_ASCII.get(letter) or _escaped(letter) for letter in letters
    ), fault.end


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
