"""What a manifest must satisfy: the suites that the checks run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, NamedTuple

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
UNIQUE_CHECKS = (
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
)


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
        rows: a row for each content and label, as in the manifest, so that a content
            with two labels shows.
        labels: the label space.
        expected: what the task says of the measured columns.
        bad: a line for each file that could not be used.
        files: how many files there are in all.
        data: the limits.
    """
    return [
        _examples(rows, labels, expected, data),
        _classes(rows, labels, data),
        _dataset(rows, bad, files, data),
    ]


def drift_suite(
    rows: pa.Table,
    before: pa.Table,
    data: DataConfig,
    measures: Sequence[DriftMeasure] = (),
) -> ExpectationSuite:
    """How the data moved since another accepted version: the label space by its names,
    label shares by their total variation distance, each measured number by the shift of
    its mean in standard deviations of before.

    Args:
        measures: what the task measures besides.
    """
    movements = [
        *_label_movements(rows, before, data),
        *_mean_movements(rows, before, data),
    ]
    for measure in measures:
        check = _drift_check(
            measure.name, measure.subject, measure.limit, measure.expected, MEANT
        )
        movements.append(_Movement(check, measure.value, list(measure.items)))
    moved: dict[str, float] = {}
    items: dict[str, Sequence[str]] = {}
    for movement in movements:
        moved[movement.check.arguments["column"]] = movement.value
        if movement.items is not None:
            items[movement.check.code] = movement.items
    checks = tuple(movement.check for movement in movements)
    return ExpectationSuite("drift", _frame([moved]), checks, items)


class _Movement(NamedTuple):
    """How far one thing moved, and what is said where that is too far.

    Args:
        items: what to name then; None: nothing but the value.
    """

    check: Check
    value: float
    items: Sequence[str] | None = None


def _label_movements(
    rows: pa.Table, before: pa.Table, data: DataConfig
) -> list[_Movement]:
    """Classes that came and went, and the total variation distance of the labels'
    shares.
    """
    now = _shares(rows)
    then = _shares(before)
    added = now.keys() - then.keys()
    vanished = then.keys() - now.keys()
    return [
        _added_classes(added, then),
        _gone_classes(vanished),
        _share_movement(now, then, data.drift.label_shift),
    ]


def _added_classes(added: Set[str], then: Mapping[str, float]) -> _Movement:
    check = _drift_check(
        "labels-added",
        "new classes",
        0.0,
        "the classes of the last accepted version",
        "if one is misspelt, correct its name; else nothing needs doing",
    )
    return _Movement(check, float(len(added)), hints(added, then))


def _gone_classes(gone: Set[str]) -> _Movement:
    check = _drift_check(
        "labels-gone",
        "classes that are gone",
        0.0,
        "the classes of the last accepted version",
        "bring their examples back, if they were not meant to go",
    )
    return _Movement(check, float(len(gone)), sorted(gone))


def _share_movement(
    now: Mapping[str, float], then: Mapping[str, float], limit: float
) -> _Movement:
    """The total variation distance of the labels' shares (0–1)."""
    labels = sorted(now.keys() | then.keys())
    differences = [abs(now.get(label, 0) - then.get(label, 0)) for label in labels]
    check = _drift_check(
        "label-shares",
        "drift of label shares",
        limit,
        f"a total variation of at most {limit:g} (data.drift.label_shift)",
        MEANT,
    )
    items = []
    for label in labels:
        items.append(
            f"{label}: {then.get(label, 0):.1%} before, {now.get(label, 0):.1%} now"
        )
    return _Movement(check, sum(differences) / 2, items)


def _mean_movements(
    rows: pa.Table, before: pa.Table, data: DataConfig
) -> list[_Movement]:
    """How far the mean of each measured number moved, in standard deviations of before."""
    limit = data.drift.statistic_shift
    expected = (
        f"a mean within {limit:g} standard deviations (data.drift.statistic_shift)"
    )
    movements = []
    for column in _numbers(rows, before):
        name = column.removeprefix(SCAN)
        check = _drift_check(
            name, f"drift of {name.replace('-', ' ')}", limit, expected, MEANT
        )
        movements.append(_Movement(check, _mean_shift(rows[column], before[column])))
    return movements


def _drift_check(
    name: str, subject: str, limit: float, expected: str, hint: str
) -> Check:
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
    rows: pa.Table,
    labels: Sequence[str],
    expected: Sequence[ColumnExpectation],
    data: DataConfig,
) -> ExpectationSuite:
    has_objects = CLASSES in rows.column_names
    checks = [*UNIQUE_CHECKS]
    fewest = 2
    if has_objects:
        fewest = min(2, len(labels))
    else:
        checks += _one_class_each(labels)
    checks.append(_count_check(fewest, data.min_per_class))
    checks += [_measured(rule) for rule in expected]
    columns = ["id", "path", "target", *(SCAN + rule.column for rule in expected)]
    frame = rows.select(columns).to_pandas()
    return ExpectationSuite(
        "examples", frame, tuple(checks), {"conflicting-labels": _conflicts(rows)}
    )


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


def _count_check(classes: int, min_per_class: int) -> Check:
    """That there are enough examples for one or two classes."""
    enough = classes * min_per_class
    return Check(
        code="too-few",
        severity="critical",
        subject="usable examples",
        expected=f"at least {enough} ({'two classes' if classes == 2 else 'one class'} of data.min_per_class)",
        hint="add examples",
        kind="ExpectTableRowCountToBeBetween",
        arguments={"min_value": enough},
    )


def _measured(rule: ColumnExpectation) -> Check:
    limits: dict[str, Any]
    if rule.values is not None:
        kind = "ExpectColumnValuesToBeInSet"
        limits = {"value_set": list(rule.values)}
        expected = ", ".join(rule.values)
    else:
        kind = "ExpectColumnValuesToBeBetween"
        limits = {"min_value": rule.low, "max_value": rule.high}
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
    shown = ", ".join(labels[:20])
    if len(labels) > 20:
        shown += " …"
    return shown


def _classes(
    rows: pa.Table, labels: Sequence[str], data: DataConfig
) -> ExpectationSuite:
    counted = count_classes(rows)
    counts = []
    for label in sorted({*labels, *counted}):
        counts.append({"label": label, "examples": counted.get(label, 0)})
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


def _dataset(
    rows: pa.Table, bad: Sequence[str], files: int, data: DataConfig
) -> ExpectationSuite:
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
    return ExpectationSuite(
        "dataset", _frame([facts]), checks, {"too-many-bad": tuple(bad)}
    )


def _conflicts(rows: pa.Table) -> tuple[str, ...]:
    places = defaultdict(list)
    described = rows["target"].to_pylist()
    if CLASSES in rows.column_names:
        described = [
            ", ".join(classes) or "empty" for classes in rows[CLASSES].to_pylist()
        ]
    for identity, path, target in zip(
        rows["id"].to_pylist(), rows["path"].to_pylist(), described, strict=True
    ):
        places[identity].append(f"{path} is {target}")
    return tuple(
        sorted(", ".join(sorted(same)) for same in places.values() if len(same) > 1)
    )


def _shares(rows: pa.Table) -> dict[str, float]:
    counts = count_classes(rows)
    total = sum(counts.values())
    return {label: count / total for label, count in counts.items()}


def _numbers(rows: pa.Table, before: pa.Table) -> list[str]:
    def numeric(table: pa.Table) -> set[str]:
        names = set()
        for field in table.schema:
            is_number = pa.types.is_integer(field.type) or pa.types.is_floating(
                field.type
            )
            if is_number and field.name.startswith(SCAN):
                names.add(field.name)
        return names

    return sorted(numeric(rows) & numeric(before))


def _mean_shift(now: pa.ChunkedArray, then: pa.ChunkedArray) -> float:
    """Distance of the means in standard deviations of `then`; where that is 0, in
    thousandths of its mean.
    """
    mean_now = pc.mean(now).as_py()
    mean_then = pc.mean(then).as_py()
    scale = pc.stddev(then).as_py()
    if not scale:
        scale = max(abs(mean_then), 1.0) / 1000
    return float(abs(mean_now - mean_then) / scale)


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))
