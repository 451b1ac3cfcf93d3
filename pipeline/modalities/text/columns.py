"""Which columns of someone's tables hold the texts and the labels: told from their
names and from a sample of rows.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.config import ColumnRole, DataConfig
from pipeline.data import sources
from pipeline.data.layout import walk
from pipeline.data.tables import FILE_ROLES, JSON_LINES, PARQUET, is_table
from pipeline.errors import DataError
from pipeline.manifest import stored_path
from pipeline.modalities.text.reading import (
    TableFile,
    tables_to_read,
    text_files,
)
from pipeline.text import printable, shorten

SAMPLED = 1000  # rows
# Columns called so are not metadata.
USED_BY_NAME: tuple[ColumnRole, ...] = ("group", "split")
SHOWN = 5  # labels that a note names
SHOWN_LETTERS = 40  # of a label

TEXT_NAMES = (
    "text",
    "sentence",
    "review",
    "comment",
    "message",
    "content",
    "body",
    "tweet",
    "utterance",
    "document",
    "headline",
    "question",
    "query",
    "description",
    "sms",
    "title",
    "post",
)
LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "category",
    "sentiment",
    "target",
    "intent",
    "topic",
    "y",
    "rating",
    "stars",
    "polarity",
)
PAIR_NAMES = (  # as `_bare` writes them
    ("text", "pair"),
    ("text1", "text2"),
    ("texta", "textb"),
    ("sentence1", "sentence2"),
    ("sentencea", "sentenceb"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("query", "passage"),
)
FEWEST_WORDS = 2.5  # in the mean: cells with fewer are no texts
FEWEST_LETTERS = 20.0  # in the mean, for languages that put no blanks between words
MOST_REPEATED = 0.5  # of the cells of a column of texts may be there before
MOST_LABELS = 100
# What to do with files that people have instead of tables, by their ending.
OTHER_FILES = {
    ".json": "write one object a line and call it .jsonl",
    ".gz": "unpack it",
    ".zip": "unpack it",
    ".xls": "save it as CSV in UTF-8",
    ".xlsx": "save it as CSV in UTF-8",
    ".txt": "call a table .csv or .tsv; put texts of a file each into folders named for their classes",
}
LABEL_REPEATS = 3  # in the mean, rows a label


@dataclass(frozen=True)
class TextLayout:
    """What someone's data were taken for.

    Args:
        table: the table's path below the data folder; None for text files in folders
            and for several tables.
        header: whether the tables' first line holds names; None where there is no such
            question.
        columns: role → column, for the roles whose column is not called by the role's
            own name.
        pair: whether there are pairs of texts.
        notes: the same in words.
    """

    table: str | None = None
    header: bool | None = None
    columns: dict[str, str] = field(default_factory=dict)
    pair: bool = False
    notes: tuple[str, ...] = ()


def describe_columns(
    source: Path, given: Mapping[ColumnRole, str] | None = None
) -> TextLayout:
    """Finds out how the texts in a folder, or in one table, are laid out.

    Args:
        given: role → column, for what the user has said already.

    Raises:
        DataError: there are two readings, which are named, or none; or a column that
            is given is not there.
    """
    data = DataConfig()
    root = source
    if source.is_file():
        if not is_table(source.name):
            raise DataError(
                str(source),
                found="a file of another kind",
                expected="a CSV, TSV, JSON Lines or Parquet file, or a folder",
                hint=OTHER_FILES.get(source.suffix.lower(), ""),
            )
        root = source.parent
        tables = [TableFile(stored_path(source.name), None)]
    else:
        tables = tables_to_read(root, data)
    if not tables:
        return _folders(root)
    samples = [_sample(root, table.path) for table in tables]
    return _describe_tables(tables, samples, dict(given or {}))


def _folders(root: Path) -> TextLayout:
    tree = walk(root)
    texts = text_files(tree)
    if not texts:
        below = [path for path in tree.files if is_table(path)]
        raise DataError(
            f"data folder {root}",
            found="neither tables nor text files in folders",
            expected="a CSV, TSV, JSON Lines or Parquet file, or .txt files in folders named for their classes",
            hint=_hint_without_tables(tree.files, below),
            details=below,
        )
    folders = sorted({PurePosixPath(path).parts[0] for path in texts})
    more = ", …" if len(folders) > SHOWN else ""
    return TextLayout(
        notes=(f"texts: .txt files in the folders {', '.join(folders[:SHOWN])}{more}",)
    )


def _hint_without_tables(paths: Sequence[str], below: Sequence[str]) -> str:
    """What to do with a folder that holds neither tables nor folders of texts.

    Args:
        below: tables that lie in its folders.
    """
    if below:
        return "name the folder that the tables lie in"
    endings = Counter(PurePosixPath(path).suffix.lower() for path in paths)
    for ending, _ in endings.most_common():
        if ending in OTHER_FILES:
            return f"{ending} files: {OTHER_FILES[ending]}"
    return ""


# --- a sample of a table --------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """The first rows of a table.

    Args:
        first: the cells of the first line of a CSV; empty for other files, whose
            columns have names of their own.
        columns: name (of a CSV: position from 1) → cells of the rows, of a CSV without
            the first line.
    """

    path: str
    first: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]


def _sample(root: Path, path: str) -> _Sample:
    if PurePosixPath(path).suffix.lower() in (*PARQUET, *JSON_LINES):
        rows = sources.table_rows(
            root, path, path, DataConfig(), FILE_ROLES[1:], most=SAMPLED
        )
        return _Sample(path, (), rows.columns)
    # Positions as names: the file is read as if every line were an example.
    data = DataConfig(header=False, columns={"text": "1"})
    rows = sources.table_rows(root, path, path, data, ("text",), most=SAMPLED + 1)
    first = tuple(str(cells[0] or "") for cells in rows.columns.values())
    return _Sample(
        path, first, {name: cells[1:] for name, cells in rows.columns.items()}
    )


# --- the first line -------------------------------------------------------------------


def _has_header(sample: _Sample, given: Mapping[ColumnRole, str]) -> bool:
    """Whether the first line of a CSV holds the column names.

    Raises:
        DataError: it may be an example as well; or columns are given by positions,
            though it surely holds their names.
    """
    names = set(given.values())
    holds_names = _judge_first_line(sample)
    if names and all(name.isdecimal() for name in names):
        if holds_names:
            raise _named_by_position(sample, given)
        return False
    if names and names <= {cell.strip() for cell in sample.first}:
        return True
    if holds_names is None:
        raise _undecided_header(sample)
    return holds_names


def _judge_first_line(sample: _Sample) -> bool | None:
    """Whether the first line holds column names by its looks; None where it may be
    either.
    """
    reasons_for: list[str] = []
    reasons_against: list[str] = []
    for cell, cells in zip(sample.first, sample.columns.values(), strict=True):
        name = cell.strip().lower()
        values = [str(value) for value in cells if value is not None]
        known = name in (*TEXT_NAMES, *LABEL_NAMES, *FILE_ROLES) or any(
            _bare(name) in pair for pair in PAIR_NAMES
        )
        repeats = cell in values
        if known and not repeats:
            reasons_for.append(cell)
        elif repeats or (cell and _is_number(cell)):
            reasons_against.append(cell)
        elif values and all(_is_number(value) for value in values):
            reasons_for.append(cell)
    if bool(reasons_for) == bool(reasons_against):
        return None
    return bool(reasons_for)


def _bare(name: str) -> str:
    """A column's name without what it may be written with: `sentence_1`, `Sentence 1`."""
    letters = [letter for letter in name.lower() if letter not in "_- ."]
    return "".join(letters)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _named_by_position(sample: _Sample, given: Mapping[ColumnRole, str]) -> DataError:
    options = []
    for role, position in given.items():
        name = position
        if 0 < int(position) <= len(sample.first):
            name = sample.first[int(position) - 1].strip()
        options.append(f"--column {role}={shlex.quote(name)}")
    return DataError(
        f"table {sample.path}",
        found="column names in the first line, and --column with positions",
        expected="columns by their names where they have some",
        hint=" ".join(options),
        details=sample.first,
    )


def _undecided_header(sample: _Sample) -> DataError:
    cells = []
    for position, cell in enumerate(sample.first, start=1):
        cells.append(f"{position}: {cell}")
    return DataError(
        f"table {sample.path}",
        found="a first line that may hold the column names, or be an example",
        expected="names such as text and label, or examples alone",
        hint="say which column is what, by names or by positions: --column text=1 --column label=2",
        details=cells,
    )


# --- the columns ----------------------------------------------------------------------


def _describe_tables(
    tables: Sequence[TableFile],
    samples: Sequence[_Sample],
    given: Mapping[ColumnRole, str],
) -> TextLayout:
    header = _shared_header(samples, given)
    columns = _named_columns(samples, with_names=bool(header))
    where = f"table {samples[0].path}"
    if not any(columns.values()):
        raise DataError(where, found="no rows", expected="one row an example")
    _refuse_missing(columns, given, where)
    chosen = _chosen_columns(columns, given, where)
    if header is None:
        _refuse_structures(columns, chosen, where)
    descriptions = {**chosen, **_used_by_name(columns, chosen, given)}
    metadata = [name for name in columns if name not in descriptions.values()]
    notes = _notes(tables, header, descriptions, columns[chosen["label"]], metadata)
    named = {role: column for role, column in descriptions.items() if role != column}
    table = tables[0].path if len(tables) == 1 else None
    return TextLayout(table, header, named, "pair" in chosen, notes)


def _shared_header(
    samples: Sequence[_Sample], given: Mapping[ColumnRole, str]
) -> bool | None:
    """Whether the first lines hold column names; None of tables that are no CSV.

    Raises:
        DataError: some do and some do not, or it cannot be told.
    """
    first_lines = [sample for sample in samples if sample.first]
    if not first_lines:
        return None
    headers = {_has_header(sample, given) for sample in first_lines}
    if len(headers) > 1:
        raise DataError(
            "tables " + ", ".join(sample.path for sample in samples),
            found="column names in the first line of some of them",
            expected="in all or in none",
        )
    return headers.pop()


def _chosen_columns(
    columns: Mapping[str, Sequence[Any]], given: Mapping[ColumnRole, str], where: str
) -> dict[str, str]:
    """Role → column of text, pair and label: as given, else found out."""
    free = {}
    for name, cells in columns.items():
        if name not in given.values():
            free[name] = cells
    if "text" in given:
        texts: tuple[str, ...] = (given["text"],)
    else:
        texts = _text_columns(free, where)
    if "pair" in given:
        texts = (texts[0], given["pair"])
    if "label" in given:
        label = given["label"]
    else:
        label = _label_column(free, texts, where)
    if not {"text", "label"} & set(given):
        _refuse_swapped(columns, texts, label, where)
    return {**dict(zip(("text", "pair"), texts, strict=False)), "label": label}


def _used_by_name(
    columns: Mapping[str, Sequence[Any]],
    chosen: Mapping[str, str],
    given: Mapping[ColumnRole, str],
) -> dict[str, str]:
    """Role → column of group and split: as given, else what is called so."""
    used: dict[str, str] = {}
    for role in USED_BY_NAME:
        column = given.get(role, role)
        if column in columns and column not in chosen.values():
            used[role] = column
    return used


def _named_columns(
    samples: Sequence[_Sample], *, with_names: bool
) -> dict[str, list[Any]]:
    """The cells of all tables by column, as the settings will name it."""
    columns: dict[str, list[Any]] = {}
    for sample in samples:
        names: Iterable[str] = sample.columns
        if with_names:
            names = [cell.strip() for cell in sample.first]
        for name, cells in zip(names, sample.columns.values(), strict=True):
            columns.setdefault(name, []).extend(cells)
    return columns


def _text_columns(columns: Mapping[str, Sequence[Any]], where: str) -> tuple[str, ...]:
    """The column of texts, or the two columns of pairs.

    Raises:
        DataError: several may be it, or none.
    """
    by_name = {_bare(name): name for name in columns}
    pairs = [pair for pair in PAIR_NAMES if pair[0] in by_name and pair[1] in by_name]
    if len(pairs) == 1:
        return tuple(by_name[name] for name in pairs[0])
    if "text" in columns:
        return ("text",)
    named = [name for name in columns if name.lower() in TEXT_NAMES]
    wordy = [name for name, cells in columns.items() if _holds_texts(cells)]
    both = [name for name in named if name in wordy]
    for candidates in (both, named, wordy):
        if len(candidates) == 1:
            return (candidates[0],)
        if candidates:
            raise _several(candidates, where, "text")
    raise _no_such(columns, where, "text")


def _holds_texts(cells: Sequence[Any]) -> bool:
    texts = [cell for cell in cells if isinstance(cell, str) and not _is_number(cell)]
    if not texts or len(texts) < len(cells) / 2:
        return False
    repeated = 1 - len(set(texts)) / len(texts)
    if repeated > MOST_REPEATED:
        return False
    words = sum(len(text.split()) for text in texts)
    letters = sum(len(text) for text in texts)
    has_words = words / len(texts) >= FEWEST_WORDS
    has_letters = letters / len(texts) >= FEWEST_LETTERS
    return has_words or has_letters


def _label_column(
    columns: Mapping[str, Sequence[Any]], texts: Sequence[str], where: str
) -> str:
    """The column of labels, which is none of those of texts.

    Raises:
        DataError: several may be it, or none.
    """
    others = [name for name in columns if name not in texts]
    if "label" in others:
        return "label"
    candidates = [name for name in others if name.lower() in LABEL_NAMES]
    if not candidates:
        candidates = []
        for name in others:
            if name.lower() not in FILE_ROLES and _holds_labels(columns[name]):
                candidates.append(name)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise _several(candidates, where, "label")
    raise _no_such(columns, where, "label")


def _holds_labels(cells: Sequence[Any]) -> bool:
    present = [str(cell) for cell in cells if cell is not None]
    distinct = len(set(present))
    most = min(MOST_LABELS, len(present) / LABEL_REPEATS)
    return 1 < distinct <= most


def _refuse_swapped(
    columns: Mapping[str, Sequence[Any]], texts: Sequence[str], label: str, where: str
) -> None:
    """Raises DataError where the labels read like texts and the texts like labels."""
    if not _holds_texts(columns[label]) or not _holds_labels(columns[texts[0]]):
        return
    raise DataError(
        where,
        found=f"texts in the column {label}, and labels in the column {texts[0]}",
        expected="the other way round",
        hint="correct the two names in the first line",
    )


def _refuse_missing(
    columns: Mapping[str, Sequence[Any]], given: Mapping[ColumnRole, str], where: str
) -> None:
    for role, column in given.items():
        if column not in columns:
            raise DataError(
                where,
                found="the columns " + ", ".join(map(_shown_name, columns)),
                expected=f"{column}, given as the column of {role}",
                hint="correct --column",
            )


def _refuse_structures(
    columns: Mapping[str, Sequence[Any]], chosen: Mapping[str, str], where: str
) -> None:
    """Raises DataError where texts or labels are objects or lists: their JSON would be
    taken for the text.
    """
    for role, column in chosen.items():
        first = next((cell for cell in columns[column] if cell is not None), None)
        if isinstance(first, str) and _is_structure(first):
            kind = "an object" if first.startswith("{") else "a list"
            shown = shorten(printable(first), SHOWN_LETTERS)
            raise DataError(
                f"{where}, column {column}",
                found=f"{kind} as the {role}, such as {shown}",
                expected=f"a {role}",
                hint=f"write what is meant into a column of its own, called {role}",
            )


def _is_structure(cell: str) -> bool:
    if cell[:1] not in ("{", "["):
        return False
    try:
        return isinstance(json.loads(cell), dict | list)
    except ValueError:
        return False


def _several(candidates: Sequence[str], where: str, role: str) -> DataError:
    first = shlex.quote(candidates[0])
    hint = f"name the one that is meant: --column {role}={first}"
    if role == "text":
        hint += ", and of two that belong together the other: --column pair=…"
    return DataError(
        where,
        found=f"several columns that may hold the {role}: {', '.join(candidates)}",
        expected="one",
        hint=hint,
    )


def _no_such(columns: Mapping[str, Sequence[Any]], where: str, role: str) -> DataError:
    return DataError(
        where,
        found="the columns " + ", ".join(map(_shown_name, columns)),
        expected=f"one that holds the {role}",
        hint=f"name it: --column {role}=…",
    )


def _notes(
    tables: Sequence[TableFile],
    header: bool | None,
    chosen: Mapping[str, str],
    labels: Sequence[Any],
    metadata: Sequence[str],
) -> tuple[str, ...]:
    """What the user is told."""
    files = []
    for table in tables:
        file = table.path
        if table.split is not None:
            file = f"{file} ({table.split})"
        files.append(file)
    notes = ["tables: " + ", ".join(files)]
    if header:
        notes.append("first line: column names")
    elif header is not None:
        notes.append("first line: an example; columns go by their position")
    counts = Counter(str(label) for label in labels if label is not None)
    common = [
        shorten(printable(label), SHOWN_LETTERS)
        for label, _ in counts.most_common(SHOWN)
    ]
    more = ", …" if len(counts) > SHOWN else ""
    for role, column in chosen.items():
        values = ""
        if role == "label":
            values = f" ({', '.join(common)}{more})"
        notes.append(f"{role}: column {column}{values}")
    if metadata:
        notes.append("metadata: " + ", ".join(map(_shown_name, metadata)))
    return tuple(notes)


def _shown_name(column: str) -> str:
    return column or "(no name)"
