"""Readers: a data folder, or a table in it, becomes a listing of examples. Nothing is
opened but tables.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.config import ColumnRole, DataConfig
from pipeline.data.files import outside
from pipeline.data.labels import hints, similar_labels
from pipeline.data.layout import (
    METADATA,
    TABLE_SPLIT_NAMES,
    FolderTree,
    PlacedFile,
    place,
    unicode_collisions,
    walk,
)
from pipeline.data.tables import FILE_ROLES, Rows, read_table
from pipeline.errors import DataError
from pipeline.examples import ExampleFault, ExampleListing, ListedExample
from pipeline.manifest import Split, real_path, stored_path
from pipeline.records import Finding


def read(root: Path, data: DataConfig) -> ExampleListing:
    """Lists the examples of a data folder: from `data.table`, or from class folders and
    `metadata.csv`.

    Class folders may lie below train/val/test folders, and `metadata.csv` at the top
    (column `path`, optionally `group`, any others) adds to them. What concerns one file
    is a fault; what concerns all is a critical finding.

    Raises:
        DataError: nothing can be listed: no folder, no examples, an unusable table.
    """
    if data.table is not None:
        listing = _from_table(root, data)
    else:
        listing = _from_folders(root, data)
    if not listing.examples:
        raise DataError(
            f"data folder {root}",
            found="no examples",
            expected="folders named for their classes, or a table",
            hint="put the data there (dvc pull), or list it in a table and set data.table",
            details=[f"{fault.path}: {fault.found}" for fault in listing.faults],
        )
    paths = {example.path for example in listing.examples}
    folders = {path.rpartition("/")[0] for path in paths}
    counts = Counter(example.target for example in listing.examples)
    names = [unicode_collisions(paths | folders | counts.keys())]
    if data.labels is None:  # else what is not in the list stops the run
        names.append(similar_labels(counts))
    return replace(
        listing,
        findings=(*listing.findings, *(finding for finding in names if finding)),
    )


def _from_folders(root: Path, data: DataConfig) -> ExampleListing:
    tree = walk(root)
    placed, faults, classes = place(tree, root)
    label_of = {file.path: file.label for file in placed}
    extras, findings = read_metadata(root, data, label_of, tree)
    kept_files = [file for file in placed if file.label not in data.drop_classes]
    examples = []
    for file in kept_files:
        examples.append(_listed(file, extras.get(file.path, NO_EXTRAS)))
    findings += label_findings(data, {file.label for file in kept_files}, classes)
    all_faults = (*tree.faults, *faults)
    return ExampleListing(tuple(examples), all_faults, tuple(findings))


class ExtraColumns(NamedTuple):
    """What a table says of an example beside its path and label."""

    group: str | None
    split: Split | None
    meta: tuple[tuple[str, Any], ...]


NO_EXTRAS = ExtraColumns(None, None, ())


def _listed(file: PlacedFile, extra: ExtraColumns) -> ListedExample:
    return ListedExample(
        file.path, file.label, extra.group, file.given_split or extra.split, extra.meta
    )


def read_metadata(
    root: Path, data: DataConfig, known: Mapping[str, str | None], tree: FolderTree
) -> tuple[dict[str, ExtraColumns], list[Finding]]:
    """What metadata.csv, or the table that data.table names, says of each file, by
    path.

    Args:
        known: path → label of the files there are; a label in the table must be that
            one, unless it is None.
    """
    table = data.table or METADATA
    unread = _unread_metadata(tree, table)
    if data.table is None and not os.path.lexists(root / METADATA):
        return {}, unread
    rows = table_rows(root, table, table, data)
    paths = _paths(rows, data, table)
    _refuse_repeated(paths, table)
    label = data.columns["label"]
    used = {data.columns["path"], label}
    extras = extra_columns(rows, data, used, table)
    labels = rows.columns.get(label, [None] * len(paths))
    unknown = sorted(set(paths) - known.keys())
    wrong = _list_mislabelled(dict(zip(paths, labels, strict=True)), known)
    alone: list[str] = []
    if data.columns["group"] in rows.columns:
        alone = sorted(known.keys() - set(paths))
    findings: list[Finding] = []
    if unknown:
        findings.append(_unused(unknown))
    if wrong:
        findings.append(_mislabelled(wrong))
    if alone:
        findings.append(_ungrouped(alone))
    return dict(zip(paths, extras, strict=True)), [*findings, *unread]


def _refuse_repeated(paths: Sequence[str], table: str) -> None:
    counts = Counter(paths)
    repeated = sorted(path for path, count in counts.items() if count > 1)
    if repeated:
        raise DataError(
            table,
            found="paths that stand there twice",
            expected="one row a path",
            details=repeated,
        )


def _list_mislabelled(
    stated: Mapping[str, Any], known: Mapping[str, str | None]
) -> list[str]:
    """Paths to which a table gives another label than the files have, with the
    table's.
    """
    wrong = []
    for path, label in sorted(known.items()):
        stated_label = stated.get(path)
        if label is None or stated_label is None:
            continue
        if str(stated_label) != label:
            wrong.append(f"{path}: {stated_label}")
    return wrong


def _unread_metadata(tree: FolderTree, table: str) -> list[Finding]:
    """Groups that are not read are dealt apart, for ever: better to stop than to pass a
    file over.
    """
    tables = []
    for path in tree.files:
        if path.rpartition("/")[2].lower() == METADATA and path != table:
            tables.append(path)
    if not tables:
        return []
    return [
        Finding(
            code="metadata-unread",
            severity="critical",
            subject="metadata tables",
            found=", ".join(tables),
            expected=f"one {METADATA}, at the top of the data folder, with paths below it",
            hint="move its rows there, or rename the file if it is something else",
            items=tuple(tables),
        )
    ]


def _ungrouped(paths: list[str]) -> Finding:
    return Finding(
        code="metadata-missing",
        severity="warning",
        subject=METADATA,
        found=f"{len(paths):,} examples without a row",
        expected="a row, and so a group, for each: without, they may be dealt apart from their group",
        hint="add them",
        items=tuple(paths),
    )


def _mislabelled(items: list[str]) -> Finding:
    return Finding(
        code="metadata-label",
        severity="critical",
        subject=f"labels in {METADATA}",
        found=f"{len(items):,} that are not the folder's",
        expected="the class folder's name",
        hint="move the files, or correct or remove the column",
        items=tuple(items),
    )


def _unused(paths: list[str]) -> Finding:
    return Finding(
        code="metadata-unused",
        severity="warning",
        subject=METADATA,
        found=f"{len(paths):,} rows that name no example",
        expected="paths below the data folder",
        hint="correct or remove those rows",
        items=tuple(paths),
    )


def _from_table(root: Path, data: DataConfig) -> ExampleListing:
    name = f"table {data.table}"
    if not root.is_dir():
        walk(root)  # says what is wrong with it
    rows = table_rows(root, str(data.table), name, data)
    paths = _paths(rows, data, name)
    labels = label_column(rows, data, name)
    extras = extra_columns(
        rows, data, {data.columns["path"], data.columns["label"]}, name
    )
    examples = []
    faults = []
    for path, label, extra, line in zip(paths, labels, extras, rows.lines, strict=True):
        if label is None:
            faults.append(
                ExampleFault(
                    path,
                    "no-label",
                    f"no label in line {line}",
                    "a label",
                    f"fill it in in {data.table}",
                )
            )
        elif label not in data.drop_classes:
            examples.append(_listed(PlacedFile(path, label, None), extra))
    findings = label_findings(
        data,
        {example.target for example in examples},
        {label for label in labels if label},
    )
    return ExampleListing(tuple(examples), tuple(faults), tuple(findings))


def table_rows(
    root: Path,
    path: str,
    name: str,
    data: DataConfig,
    roles: Sequence[ColumnRole] = FILE_ROLES,
    most: int | None = None,
) -> Rows:
    """A table in the data folder; one that leads out of it, by its path or by a link,
    is refused as a file would be.

    Args:
        most: rows to read, from the first; None: all.
    """
    reason = outside(root, path)
    if reason:
        _, found, expected, hint = reason
        raise DataError(name, found=found, expected=expected, hint=hint)
    return read_table(root / path, name, root, data, roles, most)


def _paths(rows: Rows, data: DataConfig, name: str) -> list[str]:
    """The path column in the manifest's writing; `./a//b` is `a/b`, and nothing else is
    touched.
    """
    column = data.columns["path"]
    if column not in rows.columns:
        raise missing_column(rows, column, name, "path")
    values = rows.columns[column]
    empty = []
    for line, value in zip(rows.lines, values, strict=True):
        if value is None:
            empty.append(f"line {line}")
    if empty:
        raise DataError(
            name,
            found=f"{len(empty):,} rows without a path",
            expected="a path in each",
            details=empty,
        )
    return [stored_path(str(real_path(Path(), str(value)))) for value in values]


def missing_column(rows: Rows, column: str, name: str, role: str) -> DataError:
    close = difflib.get_close_matches(column, rows.columns, 1)
    hint = f"name the column in data.columns.{role}"
    if close:
        hint += f": did you mean {close[0]}?"
    else:
        hint += "; for a table without a header, set data.header to false and data.columns to positions, such as 1"
    return DataError(
        name,
        found="the columns " + ", ".join(rows.columns),
        expected=f"a column '{column}'",
        hint=hint,
    )


def label_column(rows: Rows, data: DataConfig, name: str) -> list[str | None]:
    column = data.columns["label"]
    if column not in rows.columns:
        raise missing_column(rows, column, name, "label")
    return [None if value is None else str(value) for value in rows.columns[column]]


def extra_columns(
    rows: Rows, data: DataConfig, used: set[str], name: str
) -> list[ExtraColumns]:
    groups = []
    for value in _optional(rows, data, "group", name):
        groups.append(None if value is None else str(value))
    splits = _splits(_optional(rows, data, "split", name), rows, name)
    known = {data.columns["group"], data.columns["split"], *used}
    others = [column for column in rows.columns if column not in known]
    other_values = [rows.columns[column] for column in others]
    extras = []
    for number, (group, split) in enumerate(zip(groups, splits, strict=True)):
        meta = [values[number] for values in other_values]
        extras.append(ExtraColumns(group, split, tuple(zip(others, meta, strict=True))))
    return extras


def _optional(
    rows: Rows, data: DataConfig, role: Literal["group", "split"], name: str
) -> list[Any]:
    """The column of a role that a table may do without; all None where it does.

    Raises:
        DataError: the settings name a column of their own that is not there, or the
            table has one that differs from the wanted one by case or blanks only. A
            group or split that is not read would be dealt apart, for ever.
    """
    column = data.columns[role]
    if column in rows.columns:
        return rows.columns[column]
    alike = []
    for other in rows.columns:
        if other.strip().casefold() == column.casefold():
            alike.append(other)
    if column != role or alike:
        raise missing_column(rows, column, name, role)
    return [None] * len(rows.lines)


def _splits(values: list[Any], rows: Rows, name: str) -> list[Split | None]:
    names = [None if value is None else str(value).lower() for value in values]
    wrong = []
    for line, value in zip(rows.lines, names, strict=True):
        if value and value not in TABLE_SPLIT_NAMES:
            wrong.append(f"line {line}: {value}")
    if wrong:
        raise DataError(
            name,
            found=f"{len(wrong):,} rows with another split",
            expected="train, val, test or nothing",
            hint="correct them, or name another column in data.columns.split",
            details=wrong,
        )
    return [TABLE_SPLIT_NAMES[value] if value else None for value in names]


def label_findings(
    data: DataConfig, used: set[str], classes: set[str]
) -> list[Finding]:
    """Critical findings about the label space: empty classes, labels not declared,
    names that match nothing.
    """
    findings = (
        _empty_classes(data, used, classes),
        _unknown_labels(data, used, classes),
        _absent_classes(data, classes),
    )
    return [finding for finding in findings if finding is not None]


def _empty_classes(
    data: DataConfig, used: set[str], classes: set[str]
) -> Finding | None:
    # A declared class without a folder is found by counting.
    empty = sorted(classes - set(data.drop_classes) - set(data.labels or ()) - used)
    if not empty:
        return None
    return Finding(
        code="empty-class",
        severity="critical",
        subject="classes without examples",
        found=", ".join(empty),
        expected="examples of every class",
        hint="add some, or list it in data.drop_classes",
        items=tuple(empty),
    )


def _unknown_labels(
    data: DataConfig, used: set[str], classes: set[str]
) -> Finding | None:
    declared = classes - set(data.drop_classes)
    if data.labels is not None:
        declared = set(data.labels)
    unknown = sorted(used - declared)
    if not unknown:
        return None
    return Finding(
        code="unknown-label",
        severity="critical",
        subject="labels that data.labels does not have",
        found=", ".join(unknown),
        expected=", ".join(sorted(declared)),
        hint="correct the labels, add them to data.labels, or list them in data.drop_classes",
        items=tuple(hints(unknown, declared)),
    )


def _absent_classes(data: DataConfig, classes: set[str]) -> Finding | None:
    absent = sorted(set(data.drop_classes) - classes)
    if not absent:
        return None
    near = [difflib.get_close_matches(name, classes, 1) for name in absent]
    meant = "; ".join(f"did you mean {match[0]}?" for match in near if match)
    return Finding(
        code="no-such-class",
        severity="critical",
        subject="data.drop_classes",
        found=", ".join(absent),
        expected="classes of the data: " + ", ".join(sorted(classes)),
        hint=meant or "remove it",
        items=tuple(absent),
    )
