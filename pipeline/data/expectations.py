"""What a manifest must satisfy: the suites that the checks run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import DataConfig
from pipeline.data.checks import Check, ExpectationSuite
from pipeline.data.labels import hints
from pipeline.examples import ColumnExpectation, DriftMeasure
from pipeline.manifest import CLASSES, SCAN, count_classes

if TYPE_CHECKING:
    import pandas as pd

MEANT = "look at what was added; if it is meant, nothing needs doing"


def content_suites(
    rows: pa.Table,
    labels: Sequence[str],
    expected: Sequence[ColumnExpectation],
    bad: Sequence[str],
    files: int,
    data: DataConfig,
) -> list[ExpectationSuite]:
    """What the data must satisfy by themselves.

    Args:
        rows: a row for each content and label, as in the manifest, so that a content with two labels shows.
        labels: the label space.
        expected: what the task says of the measured columns.
        bad: a line for each file that could not be used.
        files: how many files there are in all.
        data: the limits.
    """
    return [_examples(rows, labels, expected, data), _classes(rows, labels, data), _dataset(rows, bad, files, data)]


def drift_suite(
    rows: pa.Table, before: pa.Table, data: DataConfig, measures: Sequence[DriftMeasure] = ()
) -> ExpectationSuite:
    """How the data moved since another accepted version: the label space by its names, label shares by their total
    variation distance, each measured number by the shift of its mean in standard deviations of before.

    Args:
        measures: what the task measures besides.
    """
    now, then = _shares(rows), _shares(before)
    added = now.keys() - then.keys()
    gone = then.keys() - now.keys()
    variation = sum(abs(now.get(label, 0) - then.get(label, 0)) for label in now.keys() | then.keys()) / 2
    moved = {"labels-added": float(len(added)), "labels-gone": float(len(gone)), "label-shares": variation}
    checks = [
        _drift_check(
            "labels-added",
            "new classes",
            0.0,
            "the classes of the last accepted version",
            "if one is misspelt, correct its name; else nothing needs doing",
        ),
        _drift_check(
            "labels-gone",
            "classes that are gone",
            0.0,
            "the classes of the last accepted version",
            "bring their examples back, if they were not meant to go",
        ),
        _drift_check(
            "label-shares",
            "drift of label shares",
            data.drift.label_shift,
            f"a total variation of at most {data.drift.label_shift:g} (data.drift.label_shift)",
            MEANT,
        ),
    ]
    limit = data.drift.statistic_shift
    for column in _numbers(rows, before):
        name = column.removeprefix(SCAN)
        moved[name] = _mean_shift(rows[column], before[column])
        expected = f"a mean within {limit:g} standard deviations (data.drift.statistic_shift)"
        checks.append(_drift_check(name, f"drift of {name.replace('-', ' ')}", limit, expected, MEANT))
    items = {
        "drift-labels-added": hints(added, then),
        "drift-labels-gone": sorted(gone),
        "drift-label-shares": [
            f"{label}: {then.get(label, 0):.1%} before, {now.get(label, 0):.1%} now" for label in sorted(now | then)
        ],
    }
    for measure in measures:
        moved[measure.name] = measure.value
        checks.append(_drift_check(measure.name, measure.subject, measure.limit, measure.expected, MEANT))
        items[f"drift-{measure.name}"] = list(measure.items)
    return ExpectationSuite("drift", _frame([moved]), tuple(checks), items)


def _drift_check(name: str, subject: str, limit: float, expected: str, hint: str) -> Check:
    return Check(
        code=f"drift-{name}",
        severity="warning",
        subject=subject,
        expected=expected,
        hint=hint,
        kind="ExpectColumnValuesToBeBetween",
        arguments={"column": name, "max_value": limit},
    )


def _examples(
    rows: pa.Table, labels: Sequence[str], expected: Sequence[ColumnExpectation], data: DataConfig
) -> ExpectationSuite:
    has_objects = CLASSES in rows.column_names
    fewest = min(2, len(labels)) if has_objects else 2
    enough = fewest * data.min_per_class
    checks = [
        Check(
            code="conflicting-labels",
            severity="critical",
            subject="the same content under two labels",
            expected="one label for one content",
            hint="correct the wrong one of each pair",
            index="path",
            kind="ExpectColumnValuesToBeUnique",
            arguments={"column": "id"},
        ),
        Check(
            code="path-twice",
            severity="critical",
            subject="a path under two labels",
            expected="every path once",
            hint="correct the table",
            index="path",
            kind="ExpectColumnValuesToBeUnique",
            arguments={"column": "path"},
        ),
        *([] if has_objects else _one_class_each(labels)),
        Check(
            code="too-few",
            severity="critical",
            subject="usable examples",
            expected=f"at least {enough} ({'two classes' if fewest == 2 else 'one class'} of data.min_per_class)",
            hint="add examples",
            kind="ExpectTableRowCountToBeBetween",
            arguments={"min_value": enough},
        ),
        *(_measured(rule) for rule in expected),
    ]
    columns = ["id", "path", "target", *(SCAN + rule.column for rule in expected)]
    frame = rows.select(columns).to_pandas()
    return ExpectationSuite("examples", frame, tuple(checks), {"conflicting-labels": _conflicts(rows)})


def _one_class_each(labels: Sequence[str]) -> list[Check]:
    """What holds where the target of an example is its one class."""
    return [
        Check(
            code="label-set",
            severity="critical",
            subject="labels outside the label space",
            expected=_shortened(labels),
            hint="correct the labels, or data.labels",
            index="path",
            kind="ExpectColumnValuesToBeInSet",
            arguments={"column": "target", "value_set": list(labels)},
        ),
        Check(
            code="one-class",
            severity="critical",
            subject="classes with usable examples",
            expected="at least 2",
            hint="add a second class: there is nothing to tell apart",
            kind="ExpectColumnUniqueValueCountToBeBetween",
            arguments={"column": "target", "min_value": 2},
        ),
    ]


def _measured(rule: ColumnExpectation) -> Check:
    limits: dict[str, Any]
    if rule.values is not None:
        kind, limits, expected = "ExpectColumnValuesToBeInSet", {"value_set": list(rule.values)}, ", ".join(rule.values)
    else:
        kind, limits = "ExpectColumnValuesToBeBetween", {"min_value": rule.low, "max_value": rule.high}
        expected = f"{rule.low:g} to {rule.high:g}"
    return Check(
        code=f"{rule.column}-limits",
        severity="critical",
        subject=rule.column,
        expected=expected,
        hint="replace or remove these",
        index="path",
        kind=kind,
        arguments={"column": SCAN + rule.column, **limits},
    )


def _shortened(labels: Sequence[str]) -> str:
    return ", ".join(labels[:20]) + (" …" if len(labels) > 20 else "")


def _classes(rows: pa.Table, labels: Sequence[str], data: DataConfig) -> ExpectationSuite:
    found = count_classes(rows)
    counts = [{"label": label, "examples": found.get(label, 0)} for label in sorted({*labels, *found})]
    least = Check(
        code="small-class",
        severity="critical",
        subject="classes with too few usable examples",
        expected=f"at least {data.min_per_class} (data.min_per_class)",
        hint="add examples, list the class in data.drop_classes, or lower data.min_per_class",
        index="label",
        kind="ExpectColumnValuesToBeBetween",
        arguments={"column": "examples", "min_value": data.min_per_class},
    )
    checks = [least]
    if CLASSES in rows.column_names:
        checks.append(_known_classes(labels))
    return ExpectationSuite("classes", _frame(counts), tuple(checks))


def _known_classes(labels: Sequence[str]) -> Check:
    return Check(
        code="label-set",
        severity="critical",
        subject="classes outside the label space",
        expected=_shortened(labels),
        hint="correct the annotations, or data.labels",
        index="label",
        kind="ExpectColumnValuesToBeInSet",
        arguments={"column": "label", "value_set": list(labels)},
    )


def _dataset(rows: pa.Table, bad: Sequence[str], files: int, data: DataConfig) -> ExpectationSuite:
    counts = count_classes(rows).values()
    facts = {"bad_fraction": len(bad) / files, "imbalance": max(counts) / min(counts)}
    checks = (
        Check(
            code="too-many-bad",
            severity="critical",
            subject="share of examples that cannot be used",
            expected=f"at most {data.max_bad_fraction:g} (data.max_bad_fraction)",
            hint="replace or remove them, or raise data.max_bad_fraction",
            kind="ExpectColumnValuesToBeBetween",
            arguments={"column": "bad_fraction", "max_value": data.max_bad_fraction},
        ),
        Check(
            code="imbalance",
            severity="warning",
            subject="largest class over smallest",
            expected=f"at most {data.max_imbalance:g} (data.max_imbalance)",
            hint="add examples of the small classes, or set finetune.sampling or finetune.class_weights to balanced",
            kind="ExpectColumnValuesToBeBetween",
            arguments={"column": "imbalance", "max_value": data.max_imbalance},
        ),
    )
    return ExpectationSuite("dataset", _frame([facts]), checks, {"too-many-bad": tuple(bad)})


def _conflicts(rows: pa.Table) -> tuple[str, ...]:
    places = defaultdict(list)
    described = rows["target"].to_pylist()
    if CLASSES in rows.column_names:
        described = [", ".join(classes) or "empty" for classes in rows[CLASSES].to_pylist()]
    for identity, path, target in zip(rows["id"].to_pylist(), rows["path"].to_pylist(), described, strict=True):
        places[identity].append(f"{path} is {target}")
    return tuple(sorted(", ".join(sorted(same)) for same in places.values() if len(same) > 1))


def _shares(rows: pa.Table) -> dict[str, float]:
    counts = count_classes(rows)
    total = sum(counts.values())
    return {label: count / total for label, count in counts.items()}


def _numbers(rows: pa.Table, before: pa.Table) -> list[str]:
    def numeric(table: pa.Table) -> set[str]:
        kinds = (pa.types.is_integer, pa.types.is_floating)
        return {
            field.name
            for field in table.schema
            if field.name.startswith(SCAN) and any(is_(field.type) for is_ in kinds)
        }

    return sorted(numeric(rows) & numeric(before))


def _mean_shift(now: pa.ChunkedArray, then: pa.ChunkedArray) -> float:
    """Distance of the means in standard deviations of `then`; where that is 0, in thousandths of its mean."""
    mean = pc.mean(then).as_py()
    scale = pc.stddev(then).as_py() or max(abs(mean), 1.0) / 1000
    return float(abs(pc.mean(now).as_py() - mean) / scale)


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))
