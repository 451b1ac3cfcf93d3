"""From what was listed and measured to the manifest's rows: faults aside, and each
content once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.examples import ExampleFault, ListedExample, MeasuredExample
from pipeline.manifest import CLASSES, COLUMNS, CONTENT, META, SCAN, STRATUM
from pipeline.records import Finding

INT64 = np.iinfo(np.int64)
SHOWN_CONFLICTS = 3  # other labels of one content that a fault names


@dataclass(frozen=True)
class Partition:
    """Examples that can be used, with what was measured of them, apart from those that
    cannot.
    """

    usable: tuple[tuple[ListedExample, MeasuredExample], ...]  # by path
    faults: tuple[ExampleFault, ...]  # by path
    findings: tuple[Finding, ...]


def partition_by_fault(
    listed: Sequence[ListedExample],
    results: Mapping[str, MeasuredExample | ExampleFault],
    max_doubtful: float,
) -> Partition:
    """Parts the usable examples from the faults.

    A doubtful example (a placeholder among photographs) is left out like a faulty one,
    unless more than the share `max_doubtful` are so: then that is what the data look
    like, and a warning says so.
    """
    faults: dict[str, ExampleFault] = {}
    usable: list[tuple[ListedExample, MeasuredExample]] = []
    for example in _in_order(listed):
        result = results[example.path]
        if isinstance(result, ExampleFault):
            faults[example.path] = result
        else:
            usable.append((example, result))
    doubts = {
        example.path: measured.doubt
        for example, measured in usable
        if measured.doubt is not None
    }
    if len(doubts) > max_doubtful * len(results):
        return Partition(
            tuple(usable),
            tuple(faults.values()),
            (_doubtful(list(doubts.values()), len(results)),),
        )
    undoubted = tuple(pair for pair in usable if pair[1].doubt is None)
    return Partition(
        undoubted,
        tuple(sorted((faults | doubts).values(), key=lambda fault: fault.path)),
        (),
    )


def _in_order(listed: Sequence[ListedExample]) -> Iterator[ListedExample]:
    """The examples by path and what else tells them apart, each once.

    Few paths are listed twice, so the long keys are made for those alone: for a million
    examples they take more memory than the examples.
    """
    by_path = sorted(listed, key=_path)
    for _, same in itertools.groupby(by_path, key=_path):
        first, *others = same
        if others:
            yield from sorted({first, *others}, key=_order)
        else:
            yield first


def _path(example: ListedExample) -> str:
    return example.path


def _order(example: ListedExample) -> tuple[str, ...]:
    return (
        example.path,
        example.target,
        example.group or "",
        example.given_split or "",
        repr(example.meta),
    )


def _doubtful(doubts: Sequence[ExampleFault], total: int) -> Finding:
    return Finding(
        code=doubts[0].code,
        severity="warning",
        subject="examples that look empty",
        found=f"{len(doubts):,} of {total:,}, kept since they are so many",
        expected=doubts[0].expected,
        hint=doubts[0].hint,
        items=tuple(doubt.path for doubt in doubts),
    )


def quarantine_conflicts(partition: Partition) -> Partition:
    """Moves every copy of a content that comes with several targets to the faults:
    nobody knows which is right.
    """
    targets: dict[str, dict[str, ListedExample]] = {}
    for example, measured in partition.usable:
        targets.setdefault(measured.id, {}).setdefault(example.target, example)
    conflicting = {
        identity: copies for identity, copies in targets.items() if len(copies) > 1
    }
    if not conflicting:
        return partition
    faults = {fault.path: fault for fault in partition.faults}
    undisputed = []
    for example, measured in partition.usable:
        copies = conflicting.get(measured.id)
        if copies is None:
            undisputed.append((example, measured))
        else:
            faults[example.path] = _conflict(example, measured.id, copies)
    in_order = sorted(faults.values(), key=lambda fault: fault.path)
    return Partition(tuple(undisputed), tuple(in_order), partition.findings)


def _conflict(
    example: ListedExample, identity: str, copies: Mapping[str, ListedExample]
) -> ExampleFault:
    others = (
        f"{other.described_target} ({other.path})"
        for target, other in copies.items()
        if target != example.target
    )
    # Of ten thousand labels of one content each example would else list all others.
    shown = itertools.islice(others, SHOWN_CONFLICTS)
    return ExampleFault(
        example.path,
        "conflicting-labels",
        f"{example.described_target}, and elsewhere {', '.join(shown)}",
        "one label for one content",
        "correct the labels, or remove the copies",
        identity,
    )


@dataclass(frozen=True)
class Deduplicated:
    """The manifest's rows: one for each content and label; a content with two labels
    has two.
    """

    rows: pa.Table
    aliases: int
    findings: tuple[Finding, ...]


def deduplicate(
    usable: Sequence[tuple[ListedExample, MeasuredExample]],
) -> Deduplicated:
    """Folds examples, sorted by path, of the same content and label into one row.

    The row's path, group and metadata are the first's that has them. Where copies came
    in several given splits the row belongs to the test split before val before train,
    so that nothing judged was trained on.
    """
    firsts, copies = _find_copies(usable)
    rows = [usable[position] for position in firsts]
    merged = {}
    for row, same in copies.items():
        merged[row] = _merge([usable[position][0] for position in same])
    findings = _Copies()
    for united in merged.values():
        findings.add(united)
    aliases = sum(len(united.paths) - 1 for united in merged.values())
    return Deduplicated(_table(rows, merged), aliases, findings.findings())


def _find_copies(
    usable: Sequence[tuple[ListedExample, MeasuredExample]],
) -> tuple[list[int], dict[int, list[int]]]:
    """Where the first example of each content and label stands; and, for the rows that
    have several, by the row's number, where all of them stand.

    Most contents occur once, so a list is made for the others alone.
    """
    row_of: dict[tuple[str, str], int] = {}
    firsts: list[int] = []
    copies: dict[int, list[int]] = {}
    for position, (example, measured) in enumerate(usable):
        row = row_of.setdefault((measured.id, example.target), len(firsts))
        if row == len(firsts):
            firsts.append(position)
        else:
            copies.setdefault(row, [firsts[row]]).append(position)
    return firsts, dict(sorted(copies.items()))


@dataclass(frozen=True)
class _Merged:
    """What several examples of one content and label come to; paths and groups as they
    were listed, each once.
    """

    paths: tuple[str, ...]
    groups: tuple[str, ...]
    splits: frozenset[str]

    @property
    def group(self) -> str | None:
        return self.groups[0] if self.groups else None

    @property
    def given_split(self) -> str | None:
        """The most protected of the given splits."""
        for split in ("test", "val", "train"):
            if split in self.splits:
                return split
        return None


def _merge(examples: Sequence[ListedExample]) -> _Merged:
    paths = dict.fromkeys(example.path for example in examples)
    groups = dict.fromkeys(
        example.group for example in examples if example.group is not None
    )
    splits = frozenset(
        example.given_split for example in examples if example.given_split is not None
    )
    return _Merged(tuple(paths), tuple(groups), splits)


class _Copies:
    """Gathers what is to be said about contents that occur more than once."""

    def __init__(self) -> None:
        self._copies: list[str] = []
        self._splits: list[str] = []
        self._groups: list[str] = []

    def add(self, merged: _Merged) -> None:
        same = " = ".join(merged.paths)
        if len(merged.paths) > 1:
            self._copies.append(same)
        if len(merged.splits) > 1:
            splits = ", ".join(sorted(merged.splits))
            self._splits.append(f"{same} ({splits})")
        if len(merged.groups) > 1:
            groups = ", ".join(merged.groups)
            self._groups.append(f"{same} ({groups})")

    def findings(self) -> tuple[Finding, ...]:
        findings = []
        if self._copies:
            findings.append(
                Finding(
                    code="copies",
                    severity="info",
                    subject="the same content more than once",
                    found=str(len(self._copies)),
                    expected="each is used once",
                    items=tuple(self._copies),
                )
            )
        if self._splits:
            findings.append(
                Finding(
                    code="copies-across-splits",
                    severity="warning",
                    subject="the same content in several given splits",
                    found=str(len(self._splits)),
                    expected="one split for one content",
                    hint="remove the copies; till then the test split has them before val before train",
                    items=tuple(self._splits),
                )
            )
        if self._groups:
            findings.append(
                Finding(
                    code="copies-across-groups",
                    severity="warning",
                    subject="the same content in several groups",
                    found=str(len(self._groups)),
                    expected="one group for one content",
                    hint="correct the groups; till then the first has it",
                    items=tuple(self._groups),
                )
            )
        return tuple(findings)


def _table(
    rows: Sequence[tuple[ListedExample, MeasuredExample]], merged: Mapping[int, _Merged]
) -> pa.Table:
    """The manifest's columns, one after the other: a dict for each row would take more
    memory than all else.

    Args:
        rows: the first example of each row.
        merged: by the row's number, what the rows of several examples have instead.
    """
    groups = [example.group for example, _ in rows]
    splits = [example.given_split for example, _ in rows]
    aliases: list[tuple[str, ...]] = [()] * len(rows)
    for row, united in merged.items():
        groups[row] = united.group
        splits[row] = united.given_split
        aliases[row] = united.paths[1:]
    nothing: list[str | None] = [None] * len(rows)
    values: dict[str, Sequence[object]] = {
        "id": [measured.id for _, measured in rows],
        "path": [example.path for example, _ in rows],
        "aliases": aliases,
        "target": [example.target for example, _ in rows],
        "group": groups,
        "given_split": splits,
        "split": nothing,
        "unit": nothing,
    }
    columns: dict[str, pa.Array] = {}
    for field in COLUMNS:
        columns[field.name] = pa.array(values[field.name], field.type)
    contents = [example.content for example, _ in rows]
    if any(content is not None for content in contents):
        columns[CONTENT] = pa.array(contents, pa.string())
    columns.update(_objects([example for example, _ in rows]))
    columns.update(_measured_columns([measured for _, measured in rows]))
    columns.update(_metadata(rows))
    return pa.table(columns)


def _measured_columns(measured: Sequence[MeasuredExample]) -> dict[str, pa.Array]:
    """What the scan measured, a column a name."""
    names: set[str] = set()
    for example in measured:
        names.update(example.values)
    columns: dict[str, pa.Array] = {}
    for name in sorted(names):
        columns[SCAN + name] = _column([each.values.get(name) for each in measured])
    return columns


def _objects(examples: Sequence[ListedExample]) -> dict[str, pa.Array]:
    """The columns of targets that are no class, by name; none of class tasks."""
    columns: dict[str, pa.Array] = {}
    if any(example.classes is not None for example in examples):
        classes = [sorted(set(example.classes or ())) for example in examples]
        columns[CLASSES] = pa.array(classes, pa.list_(pa.string()))
    if any(example.stratum is not None for example in examples):
        strata = [example.stratum or "" for example in examples]
        columns[STRATUM] = pa.array(strata, pa.string())
    return columns


def _metadata(
    rows: Sequence[tuple[ListedExample, MeasuredExample]],
) -> dict[str, pa.Array]:
    """The users' own columns, by name."""
    names = {name for example, _ in rows for name, _ in example.meta}
    columns: dict[str, pa.Array] = {}
    for name in sorted(names):
        columns[META + name] = _column(
            [dict(example.meta).get(name) for example, _ in rows]
        )
    return columns


def _column(values: list[Any]) -> pa.Array:
    """Values of one type as that type; of several, and whole numbers past 64 bits, as
    strings.
    """
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if kinds == {int, float}:
        return pa.array([None if value is None else float(value) for value in values])
    is_mixed = len(kinds) != 1
    is_too_large = False
    if kinds == {int}:
        is_too_large = min(present) < INT64.min or max(present) > INT64.max
    if is_mixed or is_too_large:
        texts = [None if value is None else str(value) for value in values]
        return pa.array(texts, pa.string())
    return pa.array(values)


def conversions(measured: Iterable[MeasuredExample]) -> dict[str, int]:
    """How many examples were accepted by converting them, by kind."""
    return dict(
        sorted(Counter(kind for one in measured for kind in one.converted).items())
    )
