"""Split: every example its place in train, val or test, remembered for ever in the
ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import manifest
from pipeline.config import SplitConfig
from pipeline.context import Context
from pipeline.data.duplicates import clusters
from pipeline.data.ledger import Ledger, LedgerEntry, load
from pipeline.data.split_assignment import Example, assign_splits, components
from pipeline.errors import SplitError
from pipeline.manifest import SPLITS, Split
from pipeline.records import Finding, SplitRecord, ValidateRecord
from pipeline.steps.summary import format_finding
from pipeline.text import first_few
from pipeline.versioning import Versioning

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

# Of what was left out, and of warnings, on the console; record.json has them all.
NAMED = 5
# near-duplicates of one another that make up more of the dataset than this are worth a
# word.
LARGE = 0.2


def split(
    config: SplitConfig, validated: ValidateRecord, out: Path, context: Context
) -> SplitRecord:
    """Fills the manifest's columns split and unit, and extends the ledger.

    Precedence: the ledger, a given split, group and near-duplicates, the hash. A split
    that is missing where others were given is dealt from the given train. Once the
    outputs are complete the ledger is replaced, then pinned.

    Raises:
        LedgerError: the ledger that ledger.dvc pins cannot be had, or is no ledger.
        SplitError: a class has nothing to train on, or no class has anything to be
            judged on.
    """
    path = context.root / "ledger.parquet"
    ledger = _ledger(context.root, path)
    table = manifest.read(validated.manifest)
    examples = _examples(table, ledger, config)
    assignment = assign_splits(examples, config)
    splits = assignment.splits
    present = [example for example in examples if example.id in splits]
    near = clusters([example.phash for example in present], config.near_duplicates)
    units = _units(present, near)
    _refuse_leaks(present, splits, units)
    if not assignment.left_out:
        _require_training_examples(present, splits)
    counts = _counts(present, table, validated.labels, splits)
    has_objects = manifest.CLASSES in table.column_names
    if has_objects:
        _require_objects(counts, splits)
    warnings = [*_moved(examples), *_coverage(counts, assignment.left_out)]
    remembered = [example for example in examples if not example.present]
    extended = ledger.extended(_entries(present, splits, ledger))
    sizes = Counter(near.tolist())
    warnings += _large(sizes, len(present))

    sha256 = _write_manifest(table, splits, units, out)
    record = SplitRecord(
        manifest_sha256=sha256,
        labels=validated.labels,
        counts=counts,
        new=_new(present, remembered, extended, config),
        left_out=tuple(assignment.left_out),
        warnings=tuple(warnings),
        near_duplicate_groups=sum(size > 1 for size in sizes.values()),
        examples=_sizes(splits) if has_objects else {},
    ).save(out)
    extended.save(path)
    if (context.root / ".dvc").is_dir():
        Versioning(context.root).add_ledger()
    _say_findings(record, context)
    return record


def _write_manifest(
    table: pa.Table, splits: dict[str, Split], units: dict[str, str], out: Path
) -> str:
    """The manifest with its columns split and unit; its sha256."""
    ids = table["id"].to_pylist()
    filled = _with_column(table, "split", [splits.get(each) for each in ids])
    filled = _with_column(filled, "unit", [units.get(each) for each in ids])
    return manifest.write(filled, out / "manifest.parquet")


def _say_findings(record: SplitRecord, context: Context) -> None:
    """What was left out, and what else the user should know; record.json has all of it."""
    where = "artifacts/split/record.json"
    left_out = []
    for finding in record.left_out:
        for item in finding.items:
            left_out.append(f"left out {item}: {finding.found}")
    warnings = [f"warning: {format_finding(finding)}" for finding in record.warnings]
    for lines in (left_out, warnings):
        for line in first_few(lines, NAMED, where):
            context.console.info(line)


def _ledger(root: Path, path: Path) -> Ledger:
    """The ledger there is, with what ledger.dvc pins; an empty one only where there
    never was any.
    """
    if not (root / "ledger.dvc").is_file():
        if path.exists():
            return load(path)
        return Ledger({})
    Versioning(root).update_ledger()
    return load(path)


def _examples(table: pa.Table, ledger: Ledger, config: SplitConfig) -> list[Example]:
    names = table.column_names
    hashes = [None] * len(table)
    if "scan.phash" in names:
        hashes = table["scan.phash"].to_pylist()
    given = [_given(name, config) for name in table["given_split"].to_pylist()]
    open_splits = _open_splits(given)
    stratum = manifest.STRATUM if manifest.STRATUM in names else "target"
    columns = (table[name].to_pylist() for name in ("id", "path", stratum, "group"))
    examples = []
    for identity, path, target, group, phash, given_split in zip(
        *columns, hashes, given, strict=True
    ):
        entry = ledger.entries.get(identity)
        examples.append(
            Example(
                identity,
                path,
                entry.target if entry else target,
                group,
                phash,
                entry.split if entry else None,
                open_splits[given_split],
            )
        )
    present = {example.id for example in examples}
    for entry in ledger.entries.values():
        if entry.id not in present:
            examples.append(_absent_example(entry))
    return examples


def _open_splits(
    given: Sequence[Split | None],
) -> dict[Split | None, tuple[Split, ...]]:
    """For each given split, those that its examples may be dealt into: a split that
    nothing was given for is dealt from the given train.
    """
    open_splits: dict[Split | None, tuple[Split, ...]] = {None: SPLITS}
    for name in SPLITS:
        open_splits[name] = (name,)
    from_train = []
    for name in SPLITS:
        if name == "train" or name not in given:
            from_train.append(name)
    open_splits["train"] = tuple(from_train)
    return open_splits


def _absent_example(entry: LedgerEntry) -> Example:
    """One that the ledger knows and the data set no longer has."""
    return Example(
        entry.id,
        "",
        entry.target,
        entry.group,
        entry.phash,
        entry.split,
        present=False,
    )


def _given(name: Split | None, config: SplitConfig) -> Split | None:
    if config.given == "ignore":
        return None
    if name == "val" and config.given_val_as == "test":
        return "test"
    return name


def _entries(
    examples: Iterable[Example], splits: dict[str, Split], ledger: Ledger
) -> list[LedgerEntry]:
    batch = ledger.next_batch
    entries = []
    for example in examples:
        if not example.known:
            entries.append(
                LedgerEntry(
                    example.id,
                    example.group,
                    splits[example.id],
                    example.target,
                    example.phash,
                    batch,
                )
            )
    return entries


def _with_column(table: pa.Table, name: str, values: Sequence[str | None]) -> pa.Table:
    import pyarrow as pa

    column = pa.array(values, pa.string())
    return table.set_column(
        table.column_names.index(name), pa.field(name, pa.string()), column
    )


def _units(present: Sequence[Example], near: npt.NDArray[np.int64]) -> dict[str, str]:
    """id → unit of the examples that have a split, in the order of their ids: the least
    id of those that belong together.
    """
    import numpy as np

    ids = [example.id for example in present]
    numbers = components(present, near)
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return {i: ids[at] for i, at in zip(ids, first[inverse].tolist(), strict=True)}


def _new(
    present: Sequence[Example],
    remembered: Sequence[Example],
    ledger: Ledger,
    config: SplitConfig,
) -> int:
    """How many examples the ledger's latest batch brought to the dataset.

    One that looks like an example of an earlier batch which is no longer there is that
    example, edited. It is asked of the ledger as it is after the split, so that
    splitting the same data again gives the same answer.
    """
    latest = ledger.next_batch - 1
    came = [
        example for example in present if ledger.entries[example.id].batch == latest
    ]
    vanished = [
        example for example in remembered if ledger.entries[example.id].batch < latest
    ]
    if not vanished:
        return len(came)
    near = clusters(
        [example.phash for example in (*came, *vanished)], config.near_duplicates
    ).tolist()
    lookalikes = Counter(near[: len(came)]) & Counter(near[len(came) :])
    return len(came) - lookalikes.total()


def _counts(
    present: Iterable[Example],
    table: pa.Table,
    labels: Iterable[str],
    splits: dict[str, Split],
) -> dict[str, dict[str, int]]:
    """Split → class → examples that contain it, by the labels of today."""
    ids = table["id"].to_pylist()
    counted: Counter[tuple[Split, str]] = Counter()
    if manifest.CLASSES in table.column_names:
        classes = dict(zip(ids, table[manifest.CLASSES].to_pylist(), strict=True))
        for example in present:
            for label in classes[example.id]:
                counted[splits[example.id], label] += 1
    else:
        targets = dict(zip(ids, table["target"].to_pylist(), strict=True))
        for example in present:
            counted[splits[example.id], targets[example.id]] += 1
    order = list(labels)
    counts: dict[str, dict[str, int]] = {}
    for split_name in SPLITS:
        counts[split_name] = {label: counted[split_name, label] for label in order}
    return counts


def _sizes(splits: dict[str, Split]) -> dict[str, int]:
    """Split → examples."""
    counted = Counter(splits.values())
    return {name: counted[name] for name in SPLITS}


def _refuse_leaks(
    present: Sequence[Example], splits: dict[str, Split], units: dict[str, str]
) -> None:
    """Proves that what belongs together is in one split."""
    split_of: dict[str, Split] = {}
    for example in present:
        unit = units[example.id]
        own_split = splits[example.id]
        if split_of.setdefault(unit, own_split) != own_split:
            raise _leak([other for other in present if units[other.id] == unit], splits)


def _leak(members: Sequence[Example], splits: dict[str, Split]) -> SplitError:
    unit_splits = sorted({splits[example.id] for example in members})
    return SplitError(
        "the split leaks",
        found=f"examples that belong together in {', '.join(unit_splits)}",
        expected="groups and near-duplicates in one split",
        hint="report this with the ledger: it is a fault of Thaw",
        details=[f"{example.path}: {splits[example.id]}" for example in members],
    )


def _moved(examples: Iterable[Example]) -> list[Finding]:
    moved = []
    for e in examples:
        if e.known and e.present and e.known not in e.allowed:
            moved.append(f"{e.path}: {e.known}")
    if not moved:
        return []
    return [
        Finding(
            code="given-split-moved",
            severity="warning",
            subject=f"{len(moved)} known examples",
            found="came with another split than before",
            expected="the split they were first given, which they keep",
            hint="no action needed: splits are permanent",
            items=tuple(sorted(moved)),
        )
    ]


def _require_training_examples(
    present: Sequence[Example], splits: dict[str, Split]
) -> None:
    """Makes sure that any example is there to train on.

    Raises:
        SplitError: all of them are in other splits.
    """
    used = set(splits.values())
    if "train" in used:
        return
    others = " and ".join(name for name in SPLITS if name in used)
    found = f"no example; all of them were given for {others}"
    hint = (
        "add the training data, or let Thaw assign all of them with split.given: ignore"
    )
    if any(example.known for example in present):
        found = f"no example; by the ledger they keep {others}"
        hint = "bring back the training data"
    raise SplitError("train", found=found, expected="examples to train on", hint=hint)


def _coverage(
    counts: dict[str, dict[str, int]], left_out: list[Finding]
) -> list[Finding]:
    """Warns of classes without validation or test examples.

    Raises:
        SplitError: a class has no training examples.
    """
    untaught = [label for label, count in counts["train"].items() if not count]
    if untaught:
        found = "no training examples"
        lost = sum(len(finding.items) for finding in left_out)
        if lost:
            found += (
                f"; {lost} examples were left out for belonging together across splits"
            )
        raise SplitError(
            f"class {', '.join(untaught)}",
            found=found,
            expected="some of every class",
            hint="add examples, or leave the class out with data.drop_classes",
            details=[f"{finding.subject}: {finding.found}" for finding in left_out],
        )
    findings = []
    for name in ("val", "test"):
        for label, count in counts[name].items():
            if not count:
                findings.append(_no_examples(name, label))
    return findings


def _no_examples(name: str, label: str) -> Finding:
    return Finding(
        code=f"no-{name}",
        severity="warning",
        subject=f"class {label}",
        found=f"no {name} examples",
        expected="at least 3 groups of every class",
        hint="add examples of it from other groups",
    )


def _require_objects(
    counts: dict[str, dict[str, int]], splits: dict[str, Split]
) -> None:
    """Makes sure that the examples of each split show objects: without any, there is
    nothing to learn, and every metric is undefined.

    Raises:
        SplitError: none of a split's examples does.
    """
    sizes = Counter(splits.values())
    for name in SPLITS:
        if sizes[name] and not any(counts[name].values()):
            raise SplitError(
                f"{name} split",
                found=f"{sizes[name]} examples, none with an object that counts",
                expected="objects to learn from and to judge answers by",
                hint="bring examples with objects, or let Thaw assign the splits with split.given: ignore",
            )


def _large(near: Counter[int], examples: int) -> list[Finding]:
    size = max(near.values(), default=0)
    if size < 10 or size <= LARGE * examples:
        return []
    return [
        Finding(
            code="large-near-duplicate-cluster",
            severity="warning",
            subject=f"{size} of {examples} examples",
            found="near-duplicates of one another, in a chain",
            expected="small clusters",
            hint="lower split.near_duplicates if they are not the same thing seen twice",
        )
    ]
