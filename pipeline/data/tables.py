"""Tables that come with the data, CSV, JSON Lines or Parquet, read strictly: whatever
is wrong is named with its line.

The cells of a CSV are text and stay text. What a column means is for its reader to say:
1.10 is not 1.1.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.config import ColumnRole, DataConfig
from pipeline.errors import DataError
from pipeline.manifest import real_path

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = (".parquet", ".pq")
TABBED = (".tsv", ".tab")
JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", *TABBED, *JSON_LINES, *PARQUET)
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Lines by which two separators that both occur in the first one are told apart.
SAMPLED = 100


@dataclass(frozen=True)
class Rows:
    """A table's columns by name, all of one length; `lines` says where each row stood
    in the file.
    """

    columns: dict[str, list[Any]]
    lines: list[int]


FILE_ROLES: tuple[ColumnRole, ...] = ("path", "label", "group", "split")


def is_table(path: str) -> bool:
    """Whether a file is a table by its name."""
    return PurePosixPath(path).suffix.lower() in TABLES


def read_table(
    path: Path,
    name: str,
    root: Path,
    data: DataConfig,
    roles: Sequence[ColumnRole] = FILE_ROLES,
    most: int | None = None,
) -> Rows:
    """Reads a CSV (UTF-8; separated by tabs if it is called .tsv), a JSON Lines or a
    Parquet file.

    Cells of a CSV are strings, those of other files booleans, numbers or strings; empty
    ones are None. Without a header, the columns of a CSV are named by their position:
    "1", "2", …

    Args:
        path: the file.
        name: what to call it in errors.
        root: the data folder.
        data: which columns there should be, and whether there is a header.
        roles: of those columns, the ones that a table of this kind has; the first tells
            separators apart.
        most: rows to read, from the first; what comes after them is neither read nor
            checked. None: all.

    Raises:
        DataError: it is missing, is none of these, is ragged, repeats a column name,
            holds no row, or begins with an example where a header is expected.
    """
    suffix = path.suffix.lower()
    try:
        if suffix not in PARQUET:
            _refuse_utf16(path, name)
        if suffix in PARQUET:
            rows = _read_parquet(
                path, name, {data.columns[role] for role in roles}, most
            )
        elif suffix in JSON_LINES:
            rows = _read_json_lines(path, name, most)
        else:
            rows = _read_csv(path, name, root, data, roles, most)
    except FileNotFoundError as fault:
        raise DataError(
            name,
            found="no such table",
            expected="a CSV, JSON Lines or Parquet file in the data folder",
            hint="correct data.table in params.yaml, or add the file",
        ) from fault
    except OSError as fault:
        raise DataError(
            name, found=fault.strerror or str(fault), expected="a readable table"
        ) from fault
    if not rows.lines:
        raise DataError(name, found="no rows", expected="one row an example")
    return rows


# --- Parquet --------------------------------------------------------------------------


def _read_parquet(
    path: Path, name: str, wanted: Collection[str], most: int | None
) -> Rows:
    import pyarrow as pa

    try:
        table = _parquet_rows(path, most)
    except (pa.ArrowException, ValueError) as fault:
        raise DataError(
            name, found=" ".join(str(fault).split()), expected="a Parquet file"
        ) from fault
    _refuse_repeated(table.column_names, name, "schema")
    columns = {}
    for column in table.column_names:
        try:
            columns[column] = _plain_values(
                table[column], must_be_text=column in wanted
            )
        except (pa.ArrowException, ValueError, OverflowError, TypeError) as fault:
            raise DataError(
                f"{name}, column '{column}'",
                found=" ".join(str(fault).split()),
                expected="values that can be read",
                hint="write the column as text, or leave it out",
            ) from fault
    return Rows(columns, list(range(1, table.num_rows + 1)))


def _parquet_rows(path: Path, most: int | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if most is None:
        return pq.read_table(io.BytesIO(path.read_bytes()))
    with pq.ParquetFile(path) as file:
        batches = itertools.islice(file.iter_batches(batch_size=most), 1)
        return pa.Table.from_batches(list(batches), file.schema_arrow)


def _plain_values(column: pa.ChunkedArray, *, must_be_text: bool) -> list[Any]:
    """A column as booleans, numbers or strings: structures as JSON, and a number that
    is none (NaN) as None.

    Args:
        must_be_text: refuses bytes that are not UTF-8, of which else only the size is
            told.
    """
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_floating(column.type):
        numbers = column.cast(pa.float64()).to_pylist()
        return [
            None if number is None or number != number else number for number in numbers
        ]
    values: list[Any] = column.to_pylist()
    if types.is_boolean(column.type) or types.is_integer(column.type):
        return values
    if types.is_nested(column.type):
        return [None if value is None else _json(value) for value in values]
    if _is_binary(column.type):
        return _decoded(values, must_be_text=must_be_text)
    return [None if value is None else str(value) or None for value in values]


def _is_binary(kind: pa.DataType) -> bool:
    from pyarrow import types

    kinds = (
        types.is_binary,
        types.is_large_binary,
        types.is_fixed_size_binary,
        types.is_binary_view,
    )
    return any(is_kind(kind) for is_kind in kinds)


def _decoded(values: Sequence[bytes | None], *, must_be_text: bool) -> list[str | None]:
    """Text, where all of it is: Spark and others write it without saying so. Else the
    sizes are all there is to say.
    """
    decoded: list[str | None] = []
    for row, value in enumerate(values, start=1):
        try:
            text = None if value is None else value.decode()
            decoded.append(text or None)
        except UnicodeDecodeError:
            if must_be_text:
                raise ValueError(f"bytes that are not UTF-8 in row {row}") from None
            return [
                f"{len(value)} bytes" if value is not None else None for value in values
            ]
    return decoded


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


# --- JSON Lines -----------------------------------------------------------------------


def _read_json_lines(path: Path, name: str, most: int | None) -> Rows:
    columns: dict[str, list[Any]] = {}
    numbers: list[int] = []
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                if len(numbers) == most:
                    break
                if not line.strip():
                    continue
                record = _json_record(line, f"{name}, line {number}")
                for key in record:
                    if key not in columns:
                        columns[key] = [None] * len(numbers)
                numbers.append(number)
                for column, values in columns.items():
                    values.append(_plain_json(record.get(column)))
    except UnicodeDecodeError as fault:
        raise _not_utf8(path, name) from fault
    return Rows(columns, numbers)


def _json_record(line: str, where: str) -> dict[str, Any]:
    """The object that a line holds.

    Raises:
        DataError: the line is no JSON object, or names a key twice.
    """
    try:
        record = json.loads(line, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError) as fault:
        raise DataError(
            where,
            found=" ".join(str(fault).split()),
            expected="one JSON object",
            hint="correct that line",
        ) from fault
    if not isinstance(record, dict):
        raise DataError(
            where,
            found=f"a JSON {type(record).__name__}",
            expected="an object with the columns as keys",
        )
    if "\\u" in line:
        _refuse_halves(line, record, where)
    return record


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key more than once")
    return record


def _refuse_halves(line: str, record: dict[str, Any], where: str) -> None:
    """Raises DataError where an escape stands for half a character: such text cannot be
    written as UTF-8.
    """
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as fault:
        raise DataError(
            where,
            found="an escape of half a character (a lone surrogate)",
            expected="text",
            hint="correct that line, such as by writing it as UTF-8 without escapes",
        ) from fault


def _plain_json(value: Any) -> Any:
    """A boolean, number or string; structures as JSON, and what is empty as None."""
    if isinstance(value, dict | list):
        return _json(value)
    if value == "" or (isinstance(value, float) and value != value):
        return None
    return value


# --- CSV ------------------------------------------------------------------------------


def _read_csv(
    path: Path,
    name: str,
    root: Path,
    data: DataConfig,
    roles: Sequence[ColumnRole],
    most: int | None,
) -> Rows:
    try:
        with (
            _cells_of_any_length(),
            path.open(encoding="utf-8-sig", newline="") as stream,
        ):
            separator = _separator(stream, path, name, data.columns[roles[0]])
            stream.seek(0)
            plain_quotes = separator == "\t" and _quotes_are_plain(stream, most)
            stream.seek(0)
            lines = _csv_rows(stream, separator, name, plain_quotes=plain_quotes)
            return _columns(lines, name, root, data, roles, most)
    except UnicodeDecodeError as fault:
        raise _not_utf8(path, name) from fault


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    """The csv module refuses cells of more than 131,072 characters, unless told
    otherwise.
    """
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _refuse_utf16(path: Path, name: str) -> None:
    """Raises DataError where a table begins as UTF-16 does, with or without its mark:
    of English text every other byte is then a NUL, which is valid UTF-8.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
    if start.startswith(UTF16_MARKS) or b"\0" in start:
        raise DataError(
            name,
            found="bytes that are not UTF-8 from line 1 on: the table is in UTF-16",
            expected="UTF-8",
            hint="save the table as UTF-8",
        )


def _not_utf8(path: Path, name: str) -> DataError:
    content = path.read_bytes()
    try:
        content.decode("utf-8-sig")
        where = "at its end"
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
        where = f"at offset {fault.start}, line {line}"
    return DataError(
        name,
        found=f"a byte that is not UTF-8 {where}",
        expected="UTF-8",
        hint="save the table as UTF-8",
    )


def _separator(stream: TextIO, path: Path, name: str, wanted: str) -> str:
    """The tab where the file's name says so; else what the first line is cut by.

    Raises:
        DataError: the name says tab and the first line has none, or several separators
            fit.
    """
    lines = (line for line in stream if line.strip())
    sample = list(itertools.islice(lines, SAMPLED))
    first = sample[0] if sample else ""
    present = [mark for mark in SEPARATORS if mark in first]
    if path.suffix.lower() in TABBED:
        if present and "\t" not in present:
            raise DataError(
                name,
                found=f"no tab in the first line, but a {SEPARATORS[present[0]]}",
                expected=f"columns separated by tabs, as {path.suffix} says",
                hint="call it .csv, or separate the columns by tabs",
            )
        return "\t"
    if len(present) < 2:
        return present[0] if present else ","
    return _only_fitting(present, sample, name, wanted)


def _only_fitting(
    marks: Sequence[str], sample: Sequence[str], name: str, wanted: str
) -> str:
    """Of several separators in the first line, the one that gives the wanted column or
    lines of equal length.
    """
    named = []
    even = []
    for mark in marks:
        lines = _cut(sample, mark)
        if lines and wanted in _stripped(lines[0]):
            named.append(mark)
        lengths = {len(cells) for cells in lines}
        if len(lengths) == 1:
            even.append(mark)
    for fitting in (named, even):
        if len(fitting) == 1:
            return fitting[0]
    raise DataError(
        name,
        found="a first line with " + " and ".join(SEPARATORS[mark] for mark in marks),
        expected="one separator",
        hint="quote the cells that hold another, or separate the columns by tabs and call the file .tsv",
    )


def _cut(sample: Sequence[str], mark: str) -> list[list[str]]:
    try:
        return list(csv.reader(sample, delimiter=mark, strict=True))
    except csv.Error:  # an open quote: a sample may end within a cell
        return [line.split(mark) for line in sample[:1]]


def _quotes_are_plain(stream: TextIO, most: int | None) -> bool:
    """Whether the quotes of a table cut by tabs are characters of its cells.

    Many such tables quote nothing: a text that begins with a quote would else take the
    lines up to the next one for its own. So it is where every line has as many cells as
    the first, and on some line a quote is left open or ends before its cell does.
    """
    tabs = None
    plain = False
    for line in itertools.islice(stream, most):
        if not line.strip("\r\n"):
            continue
        if tabs is None:
            tabs = line.count("\t")
        if line.count("\t") != tabs:
            return False
        if '"' in line and not _is_quoted_well(line):
            plain = True
    return plain


def _is_quoted_well(line: str) -> bool:
    try:
        cells = next(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error:
        return False
    return len(cells) == line.count("\t") + 1


def _csv_rows(
    stream: TextIO, separator: str, name: str, *, plain_quotes: bool
) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty, each with its number."""
    if plain_quotes:
        reader = csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(stream, delimiter=separator, strict=True)
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as fault:
        raise DataError(
            f"{name}, line {start}",
            found=str(fault),
            expected="CSV",
            hint="correct the quotes there",
        ) from fault


def _columns(
    lines: Iterator[tuple[int, list[str]]],
    name: str,
    root: Path,
    data: DataConfig,
    roles: Sequence[ColumnRole],
    most: int | None,
) -> Rows:
    opening = list(itertools.islice(lines, 2))
    if not opening:
        raise DataError(
            name, found="an empty file", expected="a header and one row an example"
        )
    first, cells = opening[0]
    if data.header is False:
        header = [str(position) for position in range(1, len(cells) + 1)]
        body = itertools.chain(opening, lines)
    else:
        header = _stripped(cells)
        if data.header == "auto" and "path" in roles:
            _refuse_example(header, name, root)
        _refuse_repeated(header, name, f"line {first}")
        body = itertools.chain(opening[1:], lines)
    rows = _gather(itertools.islice(body, most), header, name)
    if data.header == "auto":
        _refuse_value(rows, name, data, roles)
    return rows


def _stripped(cells: Sequence[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def _gather(
    body: Iterator[tuple[int, list[str]]], header: Sequence[str], name: str
) -> Rows:
    columns: list[list[str | None]] = [[] for _ in header]
    numbers = []
    ragged = []
    for number, cells in body:
        if len(cells) != len(header):
            ragged.append(f"line {number}: {len(cells)} cells")
            continue
        numbers.append(number)
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell or None)
    if ragged:
        ending = "s" if len(ragged) > 1 else ""
        raise DataError(
            name,
            found=f"{len(ragged):,} ragged line{ending}",
            expected=f"{len(header)} cells, as in the first line",
            hint="quote cells that hold a separator",
            details=ragged,
        )
    return Rows(dict(zip(header, columns, strict=True)), numbers)


def _refuse_repeated(header: Sequence[str], name: str, where: str) -> None:
    counts = Counter(header)
    repeated = sorted(column for column, count in counts.items() if count > 1)
    if repeated:
        raise DataError(
            f"{name}, {where}",
            found=f"the column {', '.join(map(repr, repeated))} more than once",
            expected="every column once",
            hint="rename or remove the second",
        )


# --- a table without a header ---------------------------------------------------------


def _refuse_example(header: Sequence[str], name: str, root: Path) -> None:
    """Raises DataError where a cell of the first line names a file of the data: the
    line is an example.
    """
    for cell in header:
        if cell and _is_file(root, cell):
            raise _no_header(header, name, f"the file '{cell}' in the first line")


def _is_file(root: Path, cell: str) -> bool:
    try:
        return real_path(root, cell).is_file()
    except (OSError, ValueError):  # what no file can be called
        return False


def _refuse_value(
    rows: Rows, name: str, data: DataConfig, roles: Sequence[ColumnRole]
) -> None:
    """Raises DataError where data.columns names the cells of an example, though its
    file is missing.

    So it is where a column's name stands among the column's own values, or is a file
    name as they are.
    """
    header = list(rows.columns)
    for role in roles:
        column = data.columns[role]
        values = rows.columns.get(column, [])
        suffix = PurePosixPath(column).suffix
        is_file_name = bool(
            suffix
            and values
            and values[0]
            and PurePosixPath(values[0]).suffix == suffix
        )
        if column in values or (role == "path" and is_file_name):
            raise _no_header(
                header,
                name,
                f"a first line whose '{column}' is one of the values below it",
            )


def _no_header(header: Sequence[str], name: str, found: str) -> DataError:
    positions = [f"{position}: {cell}" for position, cell in enumerate(header, start=1)]
    return DataError(
        name,
        found=found,
        expected="a line of column names",
        hint="add one; or set data.header to false and data.columns to positions, such as {path: 1, label: 2}; "
        "or, if this is the header, set data.header to true",
        details=positions,
    )
