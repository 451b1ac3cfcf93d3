"""What the page says of the test results: metrics, errors, slices and calibration."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from pipeline import metric_registry
from pipeline.metric_registry import Metric
from pipeline.records import EvaluateRecord, MetricEstimate
from pipeline.report import charts, files

# With more, the matrix is left out for the list of its largest errors.
MATRIX_CLASSES = 16
LISTED_CLASSES = 30
LISTED_CONFUSIONS = 10


@dataclass(frozen=True)
class ScaledInterval:
    """A value with its interval on a scale, as shares of the scale's length."""

    value: float
    low: float
    high: float
    others: tuple[float, ...] = ()


def place_on_scale(
    estimate: MetricEstimate, low: float, high: float, others: Iterable[float] = ()
) -> ScaledInterval:
    """An estimate, and other values of the same metric, on a scale from low to high."""
    length = (high - low) or 1.0

    def place(value: float) -> float:
        share = (value - low) / length
        return min(1.0, max(0.0, share))

    return ScaledInterval(
        value=place(estimate.value),
        low=place(estimate.low),
        high=place(estimate.high),
        others=tuple(place(other) for other in others),
    )


def scale_start(values: Iterable[float]) -> float:
    """Where a scale of shares begins: the round tenth below the smallest."""
    smallest = min(values, default=0.0)
    tenths = int(smallest * 10 - 1e-9)
    return max(0.0, min(0.9, tenths / 10))


# --- metrics --------------------------------------------------------------------------


@dataclass(frozen=True)
class MetricRow:
    metric: Metric
    estimate: MetricEstimate
    interval: ScaledInterval


@dataclass(frozen=True)
class MetricsSection:
    """The metrics: those that are better where they are higher on one scale, the rest
    on their own.

    Args:
        rows: the primary metric first.
        low: where the common scale begins; it ends at 1.
        others: names of the other candidates.
    """

    rows: list[MetricRow]
    low: float
    others: list[str]


def metrics_section(evaluated: EvaluateRecord) -> MetricsSection:
    ordered = sorted(evaluated.metrics, key=metric_registry.sort_key)
    ordered.remove(evaluated.primary)
    ordered.insert(0, evaluated.primary)
    metrics = [metric_registry.find(name) for name in ordered]
    rising = [metric for metric in metrics if metric.higher_is_better]
    falling = [metric for metric in metrics if not metric.higher_is_better]
    lows = []
    for metric in rising:
        lows += [estimate.low for estimate in _all_estimates(evaluated, metric.name)]
    low = scale_start(lows)
    rows = [_metric_row(evaluated, metric, low, 1.0) for metric in rising]
    for metric in falling:
        highest = max(
            estimate.high for estimate in _all_estimates(evaluated, metric.name)
        )
        rows.append(_metric_row(evaluated, metric, 0.0, highest))
    return MetricsSection(rows, low, list(evaluated.others))


def _all_estimates(evaluated: EvaluateRecord, name: str) -> list[MetricEstimate]:
    """A metric of the best candidate, then of the others that have it."""
    return [evaluated.metrics[name], *_other_estimates(evaluated, name)]


def _other_estimates(evaluated: EvaluateRecord, name: str) -> list[MetricEstimate]:
    return [
        estimates[name] for estimates in evaluated.others.values() if name in estimates
    ]


def _metric_row(
    evaluated: EvaluateRecord, metric: Metric, low: float, high: float
) -> MetricRow:
    estimate = evaluated.metrics[metric.name]
    others = [other.value for other in _other_estimates(evaluated, metric.name)]
    scale = place_on_scale(estimate, low, high, others)
    return MetricRow(metric, estimate, scale)


# --- errors ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassRow:
    label: str
    examples: int
    precision: float | None
    recall: MetricEstimate | None
    f1: float | None
    interval: ScaledInterval | None  # of recall


@dataclass(frozen=True)
class ClassesSection:
    """Rows a class, weakest recall first; of very many classes, the weakest.

    Args:
        low: where the scale of recall begins.
        more: how many classes are not listed.
    """

    rows: list[ClassRow]
    low: float
    more: int


def classes_section(evaluated: EvaluateRecord) -> ClassesSection:
    lines = files.read_csv(evaluated.folder / "per_class.csv")
    lines.sort(key=lambda line: float(line["recall"] or 2.0))
    lows = [float(line["recall_low"]) for line in lines if line["recall"]]
    low = scale_start(lows)
    rows = [_class_row(line, low) for line in lines]
    unlisted = max(0, len(rows) - LISTED_CLASSES)
    return ClassesSection(rows[:LISTED_CLASSES], low, unlisted)


def _class_row(line: Mapping[str, str], low: float) -> ClassRow:
    recall = files.read_estimate(line, "recall")
    return ClassRow(
        label=line["label"],
        examples=int(line["examples"]),
        precision=files.read_number(line, "precision"),
        recall=recall,
        f1=files.read_number(line, "f1"),
        interval=place_on_scale(recall, low, 1.0) if recall else None,
    )


@dataclass(frozen=True)
class MatrixCell:
    """How many examples of the row's class were given the column's.

    Args:
        share: of the row's examples.
        is_right: whether it lies on the diagonal.
    """

    examples: int
    share: float
    is_right: bool


@dataclass(frozen=True)
class MatrixRow:
    label: str
    cells: list[MatrixCell]


@dataclass(frozen=True)
class Confusion:
    """A pair of different classes, and how many examples of one were given the other."""

    examples: int
    target: str
    predicted: str


@dataclass(frozen=True)
class ConfusionSection:
    """The matrix for few classes, and the most frequent confusions for any number.

    Args:
        right: how many examples were given the right class.
    """

    matrix: list[MatrixRow]
    most_frequent: list[Confusion]
    right: int


def confusion_section(evaluated: EvaluateRecord) -> ConfusionSection:
    counts: dict[tuple[str, str], int] = {}
    for line in files.read_csv(evaluated.folder / "confusion.csv"):
        counts[line["target"], line["predicted"]] = int(line["examples"])
    labels = evaluated.labels
    has_matrix = len(labels) <= MATRIX_CLASSES
    fewest = 2 if has_matrix else 1
    right = 0
    confusions = []
    for (target, predicted), examples in counts.items():
        if target == predicted:
            right += examples
        elif examples >= fewest:
            confusions.append(Confusion(examples, target, predicted))
    confusions.sort(key=lambda one: (-one.examples, one.target, one.predicted))
    matrix = (
        [_matrix_row(counts, label, labels) for label in labels] if has_matrix else []
    )
    return ConfusionSection(matrix, confusions[:LISTED_CONFUSIONS], right)


def _matrix_row(
    counts: Mapping[tuple[str, str], int], target: str, labels: Sequence[str]
) -> MatrixRow:
    row = [counts.get((target, predicted), 0) for predicted in labels]
    total = sum(row)
    cells = []
    for predicted, examples in zip(labels, row, strict=True):
        share = examples / total if total else 0.0
        cells.append(MatrixCell(examples, share, is_right=target == predicted))
    return MatrixRow(target, cells)


# --- slices ---------------------------------------------------------------------------


@dataclass(frozen=True)
class SliceRow:
    """One slice that was judged."""

    column: str
    value: str
    examples: int
    score: MetricEstimate
    is_below: bool
    interval: ScaledInterval


@dataclass(frozen=True)
class SmallSlice:
    """One slice with too few examples to judge."""

    column: str
    value: str
    examples: int


@dataclass(frozen=True)
class SlicesSection:
    """How good answers are by slice.

    Args:
        columns: the judged slices by column.
        low: where the scale begins.
        metric: what is told of each slice.
        overall: its overall value on that scale.
        below: the slices whose whole interval lies under that.
        by_chance: how many such slices chance alone would make.
    """

    metric: Metric
    columns: dict[str, list[SliceRow]]
    low: float
    overall: ScaledInterval
    judged: int
    below: list[SliceRow]
    small: list[SmallSlice]
    by_chance: float


def slices_section(evaluated: EvaluateRecord) -> SlicesSection:
    lines = files.read_csv(evaluated.folder / "slices.csv")
    overall = evaluated.metrics[evaluated.slice_metric]
    metric = evaluated.slice_metric
    judged_lines = [line for line in lines if line[metric]]
    lows = [float(line[f"{metric}_low"]) for line in judged_lines]
    low = scale_start([overall.low, *lows])
    judged = [_slice_row(line, metric, low) for line in judged_lines]
    small = []
    for line in lines:
        if not line[metric]:
            small.append(
                SmallSlice(line["column"], line["value"], int(line["examples"]))
            )
    by_column = itertools.groupby(judged, key=lambda row: row.column)
    return SlicesSection(
        metric=metric_registry.find(metric),
        columns={name: list(rows) for name, rows in by_column},
        low=low,
        overall=place_on_scale(overall, low, 1.0),
        judged=len(judged),
        below=[row for row in judged if row.is_below],
        small=small,
        by_chance=(1 - evaluated.confidence) / 2 * len(judged),
    )


def _slice_row(line: Mapping[str, str], metric: str, low: float) -> SliceRow:
    score = files.read_estimate(line, metric)
    assert score is not None
    return SliceRow(
        column=line["column"],
        value=line["value"],
        examples=int(line["examples"]),
        score=score,
        is_below=line["verdict"] == "below",
        interval=place_on_scale(score, low, 1.0),
    )


# --- calibration ----------------------------------------------------------------------


@dataclass(frozen=True)
class CalibrationSection:
    """How confidence and accuracy go together.

    Args:
        confidence: mean over the examples.
        tendency: whether confidence lies above the interval of the accuracy, below it,
            or within.
    """

    chart: Markup
    confidence: float
    tendency: Literal["over", "under", "level"]


def calibration_section(evaluated: EvaluateRecord) -> CalibrationSection:
    dots = []
    for line in files.read_csv(evaluated.folder / "reliability.csv"):
        estimate = files.read_estimate(line, "accuracy")
        if estimate is not None:
            dots.append(
                charts.Dot(float(line["confidence"]), estimate, int(line["examples"]))
            )
    examples = sum(dot.examples for dot in dots) or 1
    confidence = sum(dot.confidence * dot.examples for dot in dots) / examples
    accuracy = evaluated.metrics["accuracy"]
    title = (
        f"Accuracy against confidence in {len(dots)} bins: "
        f"mean confidence {confidence:.1%}, accuracy {accuracy.value:.1%}"
    )
    chart = charts.draw_reliability(title, dots)
    return CalibrationSection(chart, confidence, _tendency(confidence, accuracy))


def _tendency(
    confidence: float, accuracy: MetricEstimate
) -> Literal["over", "under", "level"]:
    if confidence > accuracy.high:
        return "over"
    if confidence < accuracy.low:
        return "under"
    return "level"
