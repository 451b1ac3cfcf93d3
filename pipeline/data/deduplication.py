"""From what was listed and measured to the manifest's rows: faults aside, and each content once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.examples import ExampleFault, ListedExample, MeasuredExample
from pipeline.manifest import COLUMNS, CONTENT, META, SCAN
from pipeline.records import Finding

INT64 = np.iinfo(np.int64)


@dataclass(frozen=True)
class Partition:
    """Examples that can be used, with what was measured of them, apart from those that cannot."""

    usable: tuple[tuple[ListedExample, MeasuredExample], ...]  # by path
    faults: tuple[ExampleFault, ...]  # by path
    findings: tuple[Finding, ...]


def partition_by_fault(
    listed: Sequence[ListedExample], results: Mapping[str, MeasuredExample | ExampleFault], max_doubtful: float
) -> Partition:
    """Parts the usable examples from the faults.

    A doubtful example (a placeholder among photographs) is left out like a faulty one, unless more than the share
    `max_doubtful` are so: then that is what the data look like, and a warning says so.
    """
    faults, usable = {}, []
    for example in sorted(set(listed), key=_order):
        result = results[example.path]
        if isinstance(result, ExampleFault):
            faults[example.path] = result
        else:
            usable.append((example, result))
    doubts = {example.path: measured.doubt for example, measured in usable if measured.doubt is not None}
    if len(doubts) > max_doubtful * len(results):
        return Partition(tuple(usable), tuple(faults.values()), (_doubtful(list(doubts.values()), len(results)),))
    kept = tuple(pair for pair in usable if pair[1].doubt is None)
    return Partition(kept, tuple(sorted((faults | doubts).values(), key=lambda fault: fault.path)), ())


def _order(example: ListedExample) -> tuple[str, ...]:
    return (example.path, example.target, example.group or "", example.given_split or "", repr(example.meta))


def _doubtful(doubts: Sequence[ExampleFault], total: int) -> Finding:
    return Finding(
        code=doubts[0].code, severity="warning", subject="examples that look empty",
        found=f"{len(doubts)} of {total}, kept since they are so many", expected=doubts[0].expected,
        hint=doubts[0].hint, items=tuple(doubt.path for doubt in doubts),
    )  # fmt: skip


@dataclass(frozen=True)
class Deduplicated:
    """The manifest's rows: one for each content and label; a content with two labels has two."""

    rows: pa.Table
    aliases: int
    findings: tuple[Finding, ...]


def deduplicate(usable: Sequence[tuple[ListedExample, MeasuredExample]]) -> Deduplicated:
    """Folds examples, sorted by path, of the same content and label into one row.

    The row's path, group and metadata are the first's that has them. Where copies came in several given splits the
    row belongs to the test split before val before train, so that nothing judged was trained on.
    """
    same: dict[tuple[str, str], list[tuple[ListedExample, MeasuredExample]]] = {}
    for example, measured in usable:
        same.setdefault((measured.id, example.target), []).append((example, measured))
    rows: list[dict[str, Any]] = []
    findings = _Copies()
    for copies in same.values():
        listed = [example for example, _ in copies]
        paths = list(dict.fromkeys(example.path for example in listed))
        groups = list(dict.fromkeys(example.group for example in listed if example.group is not None))
        splits = {example.given_split for example in listed if example.given_split is not None}
        findings.add(paths, groups, splits)
        rows.append(
            {
                "id": copies[0][1].id, "path": paths[0], "aliases": paths[1:], "target": listed[0].target,
                "group": groups[0] if groups else None, "split": None, "unit": None,
                "given_split": next((split for split in ("test", "val", "train") if split in splits), None),
                "scan": copies[0][1].values, "meta": dict(listed[0].meta), "content": listed[0].content,
            }
        )  # fmt: skip
    return Deduplicated(_table(rows), sum(len(row["aliases"]) for row in rows), findings.findings())


class _Copies:
    """Gathers what is to be said about contents that occur more than once."""

    def __init__(self) -> None:
        self._copies: list[str] = []
        self._splits: list[str] = []
        self._groups: list[str] = []

    def add(self, paths: Sequence[str], groups: Sequence[str], splits: set[str]) -> None:
        same = " = ".join(paths)
        self._copies += [same] if len(paths) > 1 else []
        self._splits += [f"{same} ({', '.join(sorted(splits))})"] if len(splits) > 1 else []
        self._groups += [f"{same} ({', '.join(groups)})"] if len(groups) > 1 else []

    def findings(self) -> tuple[Finding, ...]:
        told = (
            ("copies", "info", "the same content more than once", "each is used once", "", self._copies),
            (
                "copies-across-splits", "warning", "the same content in several given splits",
                "one split for one content", "remove the copies; till then the test split has them before val before train",
                self._splits,
            ),
            (
                "copies-across-groups", "warning", "the same content in several groups", "one group for one content",
                "correct the groups; till then the first has it", self._groups,
            ),
        )  # fmt: skip
        return tuple(
            Finding(
                code=code, severity=severity, subject=subject, found=str(len(items)), expected=expected, hint=hint,
                items=tuple(items),
            )
            for code, severity, subject, expected, hint, items in told
            if items
        )  # fmt: skip


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns = {field.name: pa.array([row[field.name] for row in rows], field.type) for field in COLUMNS}
    contents = [row["content"] for row in rows]
    if any(content is not None for content in contents):
        columns[CONTENT] = pa.array(contents, pa.string())
    for part, prefix in (("scan", SCAN), ("meta", META)):
        for name in sorted({name for row in rows for name in row[part]}):
            columns[prefix + name] = _column([row[part].get(name) for row in rows])
    return pa.table(columns)


def _column(values: list[Any]) -> pa.Array:
    """Values of one type as that type; of several, and whole numbers past 64 bits, as strings."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if kinds == {int, float}:
        return pa.array([None if value is None else float(value) for value in values])
    is_too_large = kinds == {int} and not all(INT64.min <= value <= INT64.max for value in present)
    if len(kinds) != 1 or is_too_large:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.array(values)


def conversions(measured: Iterable[MeasuredExample]) -> dict[str, int]:
    """How many examples were accepted by converting them, by kind."""
    return dict(sorted(Counter(kind for one in measured for kind in one.converted).items()))
