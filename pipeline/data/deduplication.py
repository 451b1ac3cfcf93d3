"""From what was listed and measured to the manifest's rows: faults aside, and each content once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.examples import ExampleFault, ListedExample, MeasuredExample
from pipeline.manifest import COLUMNS, CONTENT, META, SCAN
from pipeline.records import Finding, Severity

INT64 = np.iinfo(np.int64)
SHOWN_CONFLICTS = 3  # other labels of one content that a fault names


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
        code=doubts[0].code,
        severity="warning",
        subject="examples that look empty",
        found=f"{len(doubts)} of {total}, kept since they are so many",
        expected=doubts[0].expected,
        hint=doubts[0].hint,
        items=tuple(doubt.path for doubt in doubts),
    )


def quarantine_conflicts(partition: Partition) -> Partition:
    """Moves every copy of a content that comes with several targets to the faults: nobody knows which is right."""
    targets: dict[str, dict[str, str]] = {}
    for example, measured in partition.usable:
        targets.setdefault(measured.id, {}).setdefault(example.target, example.path)
    conflicting = {identity: paths for identity, paths in targets.items() if len(paths) > 1}
    if not conflicting:
        return partition
    faults = {fault.path: fault for fault in partition.faults}
    kept = []
    for example, measured in partition.usable:
        paths = conflicting.get(measured.id)
        if paths is None:
            kept.append((example, measured))
        else:
            faults[example.path] = _conflict(example, measured.id, paths)
    in_order = sorted(faults.values(), key=lambda fault: fault.path)
    return Partition(tuple(kept), tuple(in_order), partition.findings)


def _conflict(example: ListedExample, identity: str, paths: Mapping[str, str]) -> ExampleFault:
    others = [f"{target} ({path})" for target, path in paths.items() if target != example.target]
    return ExampleFault(
        example.path,
        "conflicting-labels",
        f"{example.target}, and elsewhere {', '.join(others[:SHOWN_CONFLICTS])}",
        "one label for one content",
        "correct the labels, or remove the copies",
        identity,
    )


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
    first: dict[tuple[str, str], int] = {}
    copies: dict[int, list[int]] = {}
    for number, (example, measured) in enumerate(usable):
        key = (measured.id, example.target)
        earlier = first.setdefault(key, number)
        if earlier != number:
            copies.setdefault(earlier, [earlier]).append(number)
    rows = _Rows()
    findings = _Copies()
    for number in first.values():
        same = [usable[other] for other in copies.get(number, (number,))]
        listed = [example for example, _ in same]
        findings.add(rows.add(listed, same[0][1]))
    return Deduplicated(rows.table(), rows.aliases, findings.findings())


class _Provenance(NamedTuple):
    """Where the copies of one content came from, each once, in their order."""

    paths: list[str]
    groups: list[str]
    splits: set[str]


class _Rows:
    """Gathers the manifest, column by column: of a million rows each as an object would take gigabytes."""

    def __init__(self) -> None:
        self.aliases = 0
        self._columns: dict[str, list[Any]] = {field.name: [] for field in COLUMNS}
        self._contents: list[str | None] = []
        self._others: dict[str, list[Any]] = {}  # measured and metadata: those a row lacks are None
        self._count = 0

    def add(self, copies: Sequence[ListedExample], measured: MeasuredExample) -> _Provenance:
        """Adds the row of some copies of one content."""
        first = copies[0]
        paths = list(dict.fromkeys(example.path for example in copies))
        groups = list(dict.fromkeys(example.group for example in copies if example.group is not None))
        splits = {example.given_split for example in copies if example.given_split is not None}
        values = {
            "id": measured.id,
            "path": paths[0],
            "aliases": paths[1:],
            "target": first.target,
            "group": groups[0] if groups else None,
            "given_split": _binding_split(splits),
        }
        for name, column in self._columns.items():
            column.append(values.get(name))
        self._contents.append(first.content)
        self._add_others(SCAN, measured.values)
        self._add_others(META, dict(first.meta))
        self._count += 1
        self.aliases += len(paths) - 1
        return _Provenance(paths, groups, splits)

    def _add_others(self, prefix: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            column = self._others.setdefault(prefix + name, [])
            missing = self._count - len(column)
            column.extend([None] * missing)
            column.append(value)

    def table(self) -> pa.Table:
        columns = {field.name: pa.array(self._columns[field.name], field.type) for field in COLUMNS}
        if any(content is not None for content in self._contents):
            columns[CONTENT] = pa.array(self._contents, pa.string())
        for prefix in (SCAN, META):
            for name in sorted(name for name in self._others if name.startswith(prefix)):
                values = self._others[name]
                values.extend([None] * (self._count - len(values)))
                columns[name] = _column(values)
        return pa.table(columns)


def _binding_split(splits: set[str]) -> str | None:
    """Of several given splits the one that copies go to."""
    for split in ("test", "val", "train"):
        if split in splits:
            return split
    return None


class _Copies:
    """Gathers what is to be said about contents that occur more than once."""

    def __init__(self) -> None:
        self._copies: list[str] = []
        self._splits: list[str] = []
        self._groups: list[str] = []

    def add(self, copies: _Provenance) -> None:
        same = " = ".join(copies.paths)
        if len(copies.paths) > 1:
            self._copies.append(same)
        if len(copies.splits) > 1:
            self._splits.append(f"{same} ({', '.join(sorted(copies.splits))})")
        if len(copies.groups) > 1:
            self._groups.append(f"{same} ({', '.join(copies.groups)})")

    def findings(self) -> tuple[Finding, ...]:
        found = []
        if self._copies:
            found.append(
                _copies_finding(
                    "copies", "info", "the same content more than once", "each is used once", "", self._copies
                )
            )
        if self._splits:
            found.append(
                _copies_finding(
                    "copies-across-splits",
                    "warning",
                    "the same content in several given splits",
                    "one split for one content",
                    "remove the copies; till then the test split has them before val before train",
                    self._splits,
                )
            )
        if self._groups:
            found.append(
                _copies_finding(
                    "copies-across-groups",
                    "warning",
                    "the same content in several groups",
                    "one group for one content",
                    "correct the groups; till then the first has it",
                    self._groups,
                )
            )
        return tuple(found)


def _copies_finding(
    code: str, severity: Severity, subject: str, expected: str, hint: str, items: Sequence[str]
) -> Finding:
    return Finding(
        code=code,
        severity=severity,
        subject=subject,
        found=str(len(items)),
        expected=expected,
        hint=hint,
        items=tuple(items),
    )


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
