"""Files that people lay beside masks to say what the values stand for."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DataError
from pipeline.modalities.image.annotations.faults import (
    AnnotationError,
    read_annotation,
)

NAME_LISTS = (
    "classes.txt",
    "class_names.txt",
    "labels.txt",
    "label_names.txt",
    "names.txt",
)
IGNORED_NAMES = frozenset(
    {
        "ignore",
        "ignored",
        "__ignore__",
        "_ignore_",
        "void",
        "border",
        "unlabeled",
        "unlabelled",
    }
)
# One of them is in the name of a table of classes.
TABLE_WORDS = ("class", "label", "colo")
COLOUR_COLUMNS = (("r", "g", "b"), ("red", "green", "blue"))


@dataclass(frozen=True)
class NamedValues:
    """What a file says of pixel values.

    Args:
        path: the file, below the data folder.
        numbers: value → name, of grey levels and palette indices.
        colours: colour, as `#rrggbb` → name.
    """

    path: str
    numbers: Mapping[int, str] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)


def find_named_values(root: Path, files: Iterable[str]) -> NamedValues | None:
    """What a list of names, a table of colours (class_dict.csv, labelmap.txt) or of
    values says; None without one.

    Raises:
        DataError: several files say different things, or one cannot be read.
    """
    named_values: list[NamedValues] = []
    for path in sorted(files, key=lambda path: (path.count("/"), path)):
        read = _reader_of(path)
        named = None
        if read is not None:
            named = read(path, _text(root, path))
        if named is not None and (named.numbers or named.colours):
            named_values.append(named)
    merged = NamedValues("")
    for values in named_values:
        merged = _merge(root, merged, values)
    return merged if named_values else None


def _merge(root: Path, known: NamedValues, other: NamedValues) -> NamedValues:
    """Both together: one may name the numbers, another the colours."""
    contradicts = (
        known.numbers and other.numbers and known.numbers != other.numbers
    ) or (known.colours and other.colours and known.colours != other.colours)
    if contradicts:
        raise DataError(
            f"folder {root}",
            found=f"{known.path} and {other.path}, which name the classes differently",
            expected="one list of classes",
            hint="move the wrong one away",
        )
    if known.path:
        path = f"{known.path}, {other.path}"
    else:
        path = other.path
    return NamedValues(
        path, known.numbers or other.numbers, known.colours or other.colours
    )


def _reader_of(path: str) -> Callable[[str, str], NamedValues | None] | None:
    name = path.rpartition("/")[2].lower()
    if name == "labelmap.txt":
        return _read_labelmap
    if name in NAME_LISTS:
        return _read_names
    if not any(word in name for word in TABLE_WORDS):
        return None
    if name.endswith(".txt"):
        return _read_colour_lines
    return _read_table if name.endswith(".csv") else None


def _text(root: Path, path: str) -> str:
    try:
        return read_annotation(root, path).decode("utf-8-sig")
    except AnnotationError as fault:
        raise DataError(
            path, found=fault.found, expected=fault.expected, hint=fault.hint
        ) from fault
    except UnicodeDecodeError as fault:
        raise DataError(
            path, found=str(fault), expected="names in UTF-8", hint="save it in UTF-8"
        ) from fault


def _read_names(path: str, text: str) -> NamedValues:
    """A name a line, that of value 0 first; `__ignore__`, which labelme writes first,
    has no number.
    """
    stripped = [line.strip() for line in text.splitlines()]
    names = [line for line in stripped if line]
    if names and names[0] == "__ignore__":
        names = names[1:]
    return NamedValues(path, dict(enumerate(names)))


def _read_labelmap(path: str, text: str) -> NamedValues:
    """`name:red,green,blue:parts:actions` a line, as CVAT writes it."""
    colours: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"\s*([^#:][^:]*):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)", line)
        if match:
            colour = _colour(match[2], match[3], match[4])
            if colour is not None:
                colours[colour] = match[1].strip()
    return NamedValues(path, colours=colours)


def _read_colour_lines(path: str, text: str) -> NamedValues | None:
    """`red green blue name` a line, as CamVid has it; None for others."""
    colours: dict[str, str] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\s*(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+([^\W\d].*)", line)
        colour = None
        if match:
            colour = _colour(match[1], match[2], match[3])
        if match is None or colour is None:
            return None
        colours[colour] = match[4].strip()
    return NamedValues(path, colours=colours)


def _read_table(path: str, text: str) -> NamedValues | None:
    """A CSV with name, r, g, b (CamVid), or with a pixel value and a class (Roboflow);
    None for others.
    """
    try:
        rows = list(csv.reader(text.splitlines()))
    except csv.Error:
        return None
    if not rows:
        return None
    header = [name.strip().casefold() for name in rows[0]]
    name_at = _column(header, ("name", "class", "label", "class_name"))
    if name_at is None:
        return None
    complete = [row for row in rows[1:] if len(row) == len(header)]
    return NamedValues(
        path,
        _table_numbers(header, complete, name_at),
        _table_colours(header, complete, name_at),
    )


def _table_numbers(
    header: list[str], rows: Iterable[list[str]], name_at: int
) -> dict[int, str]:
    value_at = _column(header, ("pixel value", "value", "pixel"))
    numbers: dict[int, str] = {}
    for row in rows:
        if value_at is not None and row[value_at].strip().isdecimal():
            numbers[int(row[value_at])] = row[name_at].strip()
    return numbers


def _table_colours(
    header: list[str], rows: Iterable[list[str]], name_at: int
) -> dict[str, str]:
    columns = next(
        (columns for columns in COLOUR_COLUMNS if set(columns) <= set(header)), ()
    )
    places = [header.index(column) for column in columns]
    colours: dict[str, str] = {}
    for row in rows:
        colour = None
        if places:
            colour = _colour(*(row[place].strip() for place in places))
        if colour is not None:
            colours[colour] = row[name_at].strip()
    return colours


def _column(header: list[str], names: Iterable[str]) -> int | None:
    for name in names:
        if name in header:
            return header.index(name)
    return None


def _colour(*levels: str) -> str | None:
    """A colour of three levels from 0 to 255; None of anything else."""
    numbers = [int(level) if level.isdecimal() else 256 for level in levels]
    if max(numbers) > 255:
        return None
    digits = "".join(f"{number:02x}" for number in numbers)
    return f"#{digits}"
