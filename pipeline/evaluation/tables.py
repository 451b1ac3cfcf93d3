"""The files an evaluation leaves: the same bytes for the same inputs."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.evaluation.calibration import ReliabilityBin
from pipeline.evaluation.metrics import Predictions
from pipeline.evaluation.per_class import ClassScore, ConfusedPair
from pipeline.evaluation.slices import SliceScore
from pipeline.files import replace_json
from pipeline.manifest import write_table
from pipeline.records import MetricEstimate
from pipeline.tasks.base import Display

Cell = str | int | float | None


def write_predictions(
    predictions: Predictions, table: pa.Table, labels: Sequence[str], path: Path
) -> None:
    """id, path, content (of rows of a table), target, predicted, confidence and
    `p.<label>` for each class, in the manifest's order.
    """
    columns: dict[str, Any] = {}
    for name in ("id", "path", "content", "target"):
        if name in table.column_names:
            columns[name] = table[name]
    predicted = [labels[code] for code in predictions.predicted]
    columns["predicted"] = pa.array(predicted, type=pa.string())
    columns["confidence"] = pa.array(predictions.confidence)
    for code, label in enumerate(labels):
        columns[f"p.{label}"] = pa.array(predictions.probabilities[:, code])
    write_table(pa.table(columns), path)


def write_classes(scores: Iterable[ClassScore], path: Path) -> None:
    header = (
        "label",
        "examples",
        "predicted",
        "precision",
        "recall",
        "recall_low",
        "recall_high",
        "f1",
    )
    rows = []
    for score in scores:
        recall = estimate_cells(score.recall)
        rows.append(
            (
                score.label,
                score.examples,
                score.predicted,
                score.precision,
                *recall,
                score.f1,
            )
        )
    write_csv(path, header, rows)


def write_confusion(pairs: Iterable[ConfusedPair], path: Path) -> None:
    rows = []
    for pair in pairs:
        rows.append((pair.target, pair.predicted, pair.examples))
    write_csv(path, ("target", "predicted", "examples"), rows)


def write_slices(scores: Iterable[SliceScore], metric: str, path: Path) -> None:
    """Slices with the mean of the metric by which single examples are told apart."""
    header = (
        "column",
        "value",
        "examples",
        metric,
        f"{metric}_low",
        f"{metric}_high",
        "verdict",
    )
    rows = []
    for score in scores:
        cells = estimate_cells(score.score)
        rows.append((score.column, score.value, score.examples, *cells, score.verdict))
    write_csv(path, header, rows)


def write_reliability(bins: Iterable[ReliabilityBin], path: Path) -> None:
    header = (
        "low",
        "high",
        "examples",
        "confidence",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
    )
    rows = []
    for confidence_bin in bins:
        accuracy = estimate_cells(confidence_bin.accuracy)
        rows.append(
            (
                confidence_bin.low,
                confidence_bin.high,
                confidence_bin.examples,
                confidence_bin.confidence,
                *accuracy,
            )
        )
    write_csv(path, header, rows)


def find_worst_errors(predictions: Predictions, most: int) -> NDArray[np.int64]:
    """Rows (at most `most`,) of the mistakes, the most confident first."""
    wrong = np.flatnonzero(~predictions.correct)
    confidence = predictions.confidence[wrong]
    surest_first = wrong[np.argsort(-confidence, kind="stable")]
    return surest_first[:most]


def exhibit(
    example: Mapping[str, Any], display: Display, data: Path, folder: Path, name: str
) -> dict[str, Any]:
    """An example as the task exhibits it: id, path, target, and `picture` (a file's
    name in `folder`) or `text`.
    """
    shown = display.exhibit(example, data, folder, name)
    row = {column: example[column] for column in ("id", "path", "target")}
    row["picture"] = None
    if shown is not None:
        row[shown.kind] = shown.content
    return row


def write_worst(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The worst answers as the judge describes them, as JSON."""
    replace_json(path, rows, ensure_ascii=False)


def estimate_cells(
    estimate: MetricEstimate | None,
) -> tuple[float | None, float | None, float | None]:
    if estimate is None:
        return None, None, None
    return estimate.value, estimate.low, estimate.high


def write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[Cell]]
) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(
                [six_digits(cell) if isinstance(cell, float) else cell for cell in row]
            )


def six_digits(value: float) -> float:
    """More than any test set supports, fewer than the last bits, which machines
    disagree on.
    """
    return float(f"{value:.6g}")
