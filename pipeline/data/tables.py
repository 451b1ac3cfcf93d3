"""Tables that come with the data, CSV or Parquet, read strictly: whatever is wrong is named with its line."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError


@dataclass(frozen=True)
class Rows:
    """A table's columns by name, all of one length; `lines` says where each row stood in the file."""

    columns: dict[str, list[Any]]
    lines: list[int]


def read_table(path: Path, name: str, text: Collection[str] = ()) -> Rows:
    """Reads a CSV (UTF-8, header, comma or semicolon or tab) or a Parquet file; empty cells become None.

    Args:
        path: the file.
        name: what to call it in errors.
        text: columns of a CSV that are names, also where they look like numbers: 1.10 is not 1.1.

    Raises:
        DataError: it is missing, is neither, is ragged, repeats a column name, or holds no row.
    """
    try:
        rows = _parquet(path, name) if path.suffix.lower() in (".parquet", ".pq") else _csv(path, name, text)
    except FileNotFoundError as fault:
        raise DataError(
            name, found="no such table", expected="a CSV or Parquet file in the data folder",
            mend="correct data.table in params.yaml, or add the file",
        ) from fault  # fmt: skip
    except OSError as fault:
        raise DataError(name, found=fault.strerror or str(fault), expected="a readable table") from fault
    if not rows.lines:
        raise DataError(name, found="no rows", expected="one row an example")
    return rows


def _parquet(path: Path, name: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
    except (pa.ArrowException, ValueError) as fault:
        raise DataError(name, found=" ".join(str(fault).split()), expected="a Parquet file") from fault
    _refuse_repeated(table.column_names, name, "schema")
    columns = {column: [_plain(value) for value in table[column].to_pylist()] for column in table.column_names}
    return Rows(columns, list(range(1, table.num_rows + 1)))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value) or None


def _csv(path: Path, name: str, text: Collection[str]) -> Rows:
    lines = list(_csv_rows(_text(path, name), name))
    if not lines:
        raise DataError(name, found="an empty file", expected="a header and one row an example")
    (first, header), body = lines[0], lines[1:]
    header = [column.strip() for column in header]
    _refuse_repeated(header, name, f"line {first}")
    ragged = [f"line {line}: {len(cells)} cells" for line, cells in body if len(cells) != len(header)]
    if ragged:
        raise DataError(
            name, found=f"{len(ragged)} ragged line{'s' if len(ragged) > 1 else ''}",
            expected=f"{len(header)} cells, as in the header", mend="quote cells that hold a separator",
            details=ragged,
        )  # fmt: skip
    columns: dict[str, list[Any]] = {}
    for at, column in enumerate(header):
        cells = [row[at] for _, row in body]
        columns[column] = [cell or None for cell in cells] if column in text else _typed(cells)
    return Rows(columns, [line for line, _ in body])


def _text(path: Path, name: str) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data[: fault.start].count(b"\n") + 1
        raise DataError(
            name, found=f"a byte that is not UTF-8 at offset {fault.start}, line {line}", expected="UTF-8",
            mend="save the table as UTF-8",
        ) from fault  # fmt: skip


def _csv_rows(text: str, name: str) -> list[tuple[int, list[str]]]:
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)  # the first where none occurs
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, start = [], 1
    try:
        for cells in reader:
            if cells:
                rows.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as fault:
        raise DataError(
            f"{name}, line {start}", found=str(fault), expected="CSV", mend="mend the quotes there"
        ) from fault
    return rows


def _refuse_repeated(header: list[str], name: str, where: str) -> None:
    repeated = sorted(column for column, count in Counter(header).items() if count > 1)
    if repeated:
        raise DataError(
            f"{name}, {where}", found=f"the column {', '.join(map(repr, repeated))} more than once",
            expected="every column once", mend="rename or remove the second",
        )  # fmt: skip


_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")  # "007" is a name
_NUMBER = re.compile(_INTEGER.pattern + r"(\.\d+)?([eE][-+]?\d{1,2})?")


def _typed(cells: list[str]) -> list[Any]:
    """A CSV column as integers or numbers where every cell is one, else as strings."""
    given = [cell for cell in cells if cell]
    kind: type = str
    if all(map(_NUMBER.fullmatch, given)):
        kind = int if all(map(_INTEGER.fullmatch, given)) else float
    return [kind(cell) if cell else None for cell in cells]
