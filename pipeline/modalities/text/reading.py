"""Readers of texts: rows of tables, or files in class folders, become a listing of
examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.config import ColumnRole, DataConfig
from pipeline.data import sources
from pipeline.data.files import outside
from pipeline.data.labels import similar_labels
from pipeline.data.layout import TABLE_SPLIT_NAMES, FolderTree, walk
from pipeline.data.tables import Rows, is_table
from pipeline.errors import DataError
from pipeline.examples import ExampleFault, ExampleListing, ListedExample
from pipeline.manifest import Split, real_path
from pipeline.modalities.text.content import Texts, to_content
from pipeline.modalities.text.measure import find_markup
from pipeline.modalities.text.settings import TextIntakeConfig
from pipeline.records import Finding

TEXT_FILES = (".txt",)
BYTES_PER_CHARACTER = 4  # of UTF-8, at most


def list_texts(
    root: Path, data: DataConfig, intake: TextIntakeConfig
) -> ExampleListing:
    """Lists the examples of a data folder: the rows of `data.table`; or the .txt files
    in class folders, which may lie below train/val/test folders; or the rows of all
    tables at the top of the folder, whose names may say the split (train, val, dev,
    test).

    What concerns one example is a fault; what concerns all is a critical finding.

    Raises:
        DataError: nothing can be listed: no folder, no examples, an unusable table, two
            readings that are possible.
    """
    tables = tables_to_read(root, data)
    if tables:
        listing = _from_tables(root, tables, data, intake)
    else:
        listing = _from_files(root, data, intake)
    if not listing.examples:
        raise DataError(
            f"data folder {root}",
            found="no texts",
            expected="a table of texts, or .txt files in folders named for their classes",
            hint="put the data there (dvc pull)",
            details=[f"{fault.path}: {fault.found}" for fault in listing.faults],
        )
    markup = find_markup(listing.examples, intake)
    if markup is not None:
        listing = replace(listing, findings=(*listing.findings, markup))
    return listing


@dataclass(frozen=True)
class TableFile:
    """A table to read.

    Args:
        path: below the data folder.
        split: of its rows, where its name says it.
    """

    path: str
    split: Split | None


def tables_to_read(root: Path, data: DataConfig) -> list[TableFile]:
    """The tables that hold the examples; none where text files in folders do.

    Raises:
        DataError: the folder holds both, or tables whose names are no splits.
    """
    tree = walk(root)
    if data.table is not None:
        return [TableFile(data.table, None)]
    tables = [path for path in tree.files if "/" not in path and is_table(path)]
    texts = text_files(tree)
    if tables and texts:
        raise DataError(
            f"data folder {root}",
            found=f"{len(texts):,} text files in folders, and {', '.join(tables)}",
            expected="one of both",
            hint="name the table in data.table, or move it away",
        )
    if len(tables) == 1:
        return [TableFile(tables[0], None)]
    files = [TableFile(path, split_by_name(path)) for path in tables]
    unknown = [file.path for file in files if file.split is None]
    if unknown:
        raise DataError(
            f"data folder {root}",
            found=f"several tables: {', '.join(tables)}",
            expected="one, or tables called train, val (dev, validation) and test",
            hint="name the one that holds the examples: to thaw init with --data, in a workspace in data.table; or move or rename the others",
        )
    return files


def text_files(tree: FolderTree) -> list[str]:
    """The .txt files that lie in folders."""
    return [
        path
        for path in tree.files
        if "/" in path and PurePosixPath(path).suffix.lower() in TEXT_FILES
    ]


def split_by_name(path: str) -> Split | None:
    """The split that a table is called by: `train.csv`, `dev.tsv`,
    `test-00000-of-00001.parquet`.
    """
    name = PurePosixPath(path).name.lower()
    stem, _, _ = name.partition(".")
    first_part, _, _ = stem.partition("-")
    return TABLE_SPLIT_NAMES.get(stem) or TABLE_SPLIT_NAMES.get(first_part)


# --- tables ---------------------------------------------------------------------------


@dataclass
class _Gathered:
    """What the tables have given so far."""

    examples: list[ListedExample] = field(default_factory=list)
    faults: list[ExampleFault] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)


def _from_tables(
    root: Path, tables: Sequence[TableFile], data: DataConfig, intake: TextIntakeConfig
) -> ExampleListing:
    gathered = _Gathered()
    for table in tables:
        name = f"table {table.path}"
        rows = sources.table_rows(root, table.path, name, data, text_roles(intake))
        _gather_rows(rows, table, name, data, intake, gathered)
    counts = Counter(example.target for example in gathered.examples)
    findings: list[Finding] = sources.label_findings(data, set(counts), gathered.labels)
    alike = similar_labels(counts) if data.labels is None else None
    if alike is not None:
        findings.append(alike)
    return ExampleListing(
        tuple(gathered.examples), tuple(gathered.faults), tuple(findings)
    )


def text_roles(intake: TextIntakeConfig) -> tuple[ColumnRole, ...]:
    """The roles of columns that a table of texts may have."""
    if intake.pair:
        return ("text", "pair", "label", "group", "split")
    return ("text", "label", "group", "split")


def _gather_rows(
    rows: Rows,
    table: TableFile,
    name: str,
    data: DataConfig,
    intake: TextIntakeConfig,
    gathered: _Gathered,
) -> None:
    labels = sources.label_column(rows, data, name)
    extras = sources.extra_columns(rows, data, _read_columns(data, intake), name)
    gathered.labels.update(label for label in labels if label is not None)
    columns = zip(
        rows.lines, _row_texts(rows, name, data, intake), labels, extras, strict=True
    )
    hint = "fill it in, or remove the row"
    for line, texts, label, extra in columns:
        path = f"{table.path}:{line}"
        if label is None:
            fault = ExampleFault(path, "no-label", "no label", "a label", hint)
            gathered.faults.append(fault)
        elif texts is None:
            fault = ExampleFault(path, "empty", "no text", "a text", hint)
            gathered.faults.append(fault)
        elif label not in data.drop_classes:
            split = extra.split or table.split
            content = to_content(texts)
            gathered.examples.append(
                ListedExample(
                    path, label, extra.group, split, extra.meta, content=content
                )
            )


def _read_columns(data: DataConfig, intake: TextIntakeConfig) -> set[str]:
    """The columns that are no metadata, besides group and split."""
    return {data.columns[role] for role in text_roles(intake)}


def _row_texts(
    rows: Rows, name: str, data: DataConfig, intake: TextIntakeConfig
) -> Iterator[Texts | None]:
    """The texts of each row; None where one is missing."""
    first = _text_column(rows, name, data.columns["text"], "text")
    if not intake.pair:
        for text in first:
            yield None if text is None else Texts(str(text))
        return
    second = _text_column(rows, name, data.columns["pair"], "pair")
    for text, pair in zip(first, second, strict=True):
        if text is None or pair is None:
            yield None
        else:
            yield Texts(str(text), str(pair))


def _text_column(rows: Rows, name: str, column: str, role: str) -> list[Any]:
    if column not in rows.columns:
        raise sources.missing_column(rows, column, name, role)
    return rows.columns[column]


# --- text files in class folders ------------------------------------------------------


def _from_files(
    root: Path, data: DataConfig, intake: TextIntakeConfig
) -> ExampleListing:
    if intake.pair:
        raise DataError(
            f"data folder {root}",
            found="text files in folders",
            expected="a table with two columns of texts, as task.intake.pair says",
            hint="set task.intake.pair to false, or list the pairs in a table",
        )
    listing = sources.read(root, data)
    examples: list[ListedExample] = []
    faults = list(listing.faults)
    for example in listing.examples:
        content = _file_content(root, example.path, intake)
        if isinstance(content, ExampleFault):
            faults.append(content)
        else:
            examples.append(replace(example, content=content))
    return ExampleListing(tuple(examples), tuple(faults), listing.findings)


def _file_content(
    root: Path, path: str, intake: TextIntakeConfig
) -> str | ExampleFault:
    """A file's text as content, or why it cannot be used."""
    if PurePosixPath(path).suffix.lower() not in TEXT_FILES:
        return ExampleFault(
            path,
            "not-text",
            "a file of another kind",
            "a .txt file",
            "remove it, or save it as .txt",
        )
    reason = outside(root, path)
    if reason is not None:
        return ExampleFault(path, *reason)
    most = BYTES_PER_CHARACTER * intake.max_characters
    try:
        file = real_path(root, path)
        size = file.stat().st_size
        if size > most:
            limit = f"at most {most}: {intake.max_characters} characters (task.intake.max_characters)"
            hint = "shorten it, or raise task.intake.max_characters"
            return ExampleFault(path, "too-long", f"{size} bytes", limit, hint)
        content = file.read_bytes()
    except OSError as fault:
        return ExampleFault(
            path,
            "unreadable",
            fault.strerror or "cannot be read",
            "a readable file",
            "check its permissions and disk",
        )
    return _decode_file(path, content)


def _decode_file(path: str, content: bytes) -> str | ExampleFault:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
        found = f"a byte that is not UTF-8 at offset {fault.start}, line {line}"
        hint = "save it as UTF-8, or remove it"
        return ExampleFault(path, "undecodable", found, "UTF-8", hint)
    return to_content(Texts(text))
