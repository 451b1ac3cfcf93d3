"""Markdown in which other people's text stays text, whatever renders it.

What HTML or a table's bars are made of becomes an entity, what Markdown is made of gets
a backslash (CommonMark 0.31, section 2.4). So a class called `<script>` or `a | b` is
shown by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pipeline.report.formatting import make_visible
from pipeline.text import shorten

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "$": "&#36;"}
MARKS = re.compile(r"([\\`*_\[\]~])")
BLOCK_START = re.compile(r"^(\s*)([#+=-]|\d+(?=[.)]))")
LONGEST_CELL = 120  # characters


def escape(value: object) -> str:
    r"""Text within a line: control characters are made visible (a line break as \n),
    Markdown and HTML are shown as they are written.
    """
    text = str(make_visible(str(value)))
    for character, entity in ENTITIES.items():
        text = text.replace(character, entity)
    text = MARKS.sub(r"\\\1", text)
    return BLOCK_START.sub(
        lambda match: f"{match[1]}&#{ord(match[2][0])};{match[2][1:]}", text
    )


def name(value: object) -> str:
    """A name of somebody's data: cut where it is very long, and escaped."""
    return escape(shorten(str(value), LONGEST_CELL))


def code(value: str) -> str:
    """A digest or a command, in a code span; a backtick within would end it, and
    becomes an apostrophe.
    """
    text = str(make_visible(value)).replace("`", "'")
    return f"`{text}`"


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """A table whose cells are Markdown already; empty where it has no rows.

    Args:
        right: numbers of the columns that are aligned to the right.
    """
    lines = [_line(row) for row in rows]
    if not lines:
        return ""
    marks = ["---:" if column in right else "---" for column in range(len(header))]
    return "\n".join([_line(header), _line(marks), *lines])


def prose(text: str) -> str:
    """Somebody's text of several lines: paragraphs are kept, and lines that begin with
    a dash are a list.
    """
    lines = []
    for line in text.strip().splitlines():
        stripped = line.strip()
        if stripped.startswith("- "):
            lines.append(f"- {escape(stripped[2:])}")
        else:
            lines.append(escape(stripped))
    return "\n".join(lines)


def join(blocks: Iterable[str]) -> str:
    """Blocks with an empty line between them; empty ones are left out."""
    filled = [block for block in blocks if block]
    return "\n\n".join(filled)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
