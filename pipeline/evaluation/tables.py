"""The files an evaluation leaves: the same bytes for the same inputs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.evaluation.calibration import ReliabilityBin
from pipeline.evaluation.metrics import Predictions
from pipeline.evaluation.per_class import ClassScore, ConfusedPair
from pipeline.evaluation.slices import SliceScore
from pipeline.manifest import write_table
from pipeline.records import MetricEstimate
from pipeline.tasks.base import Display, Highlight

Cell = str | int | float | None


def write_predictions(predictions: Predictions, table: pa.Table, labels: Sequence[str], path: Path) -> None:
    """id, path, content (of rows of a table), target, predicted, confidence and `p.<label>` for each class, in the
    manifest's order."""
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
    header = ("label", "examples", "predicted", "precision", "recall", "recall_low", "recall_high", "f1")
    rows = []
    for score in scores:
        recall = _estimate_cells(score.recall)
        rows.append((score.label, score.examples, score.predicted, score.precision, *recall, score.f1))
    _write_csv(path, header, rows)


def write_confusion(pairs: Iterable[ConfusedPair], path: Path) -> None:
    rows = [(pair.target, pair.predicted, pair.examples) for pair in pairs]
    _write_csv(path, ("target", "predicted", "examples"), rows)


def write_slices(scores: Iterable[SliceScore], path: Path) -> None:
    header = ("column", "value", "examples", "accuracy", "accuracy_low", "accuracy_high", "verdict")
    rows = []
    for score in scores:
        accuracy = _estimate_cells(score.accuracy)
        rows.append((score.column, score.value, score.examples, *accuracy, score.verdict))
    _write_csv(path, header, rows)


def write_reliability(bins: Iterable[ReliabilityBin], path: Path) -> None:
    header = ("low", "high", "examples", "confidence", "accuracy", "accuracy_low", "accuracy_high")
    rows = []
    for one in bins:
        accuracy = _estimate_cells(one.accuracy)
        rows.append((one.low, one.high, one.examples, one.confidence, *accuracy))
    _write_csv(path, header, rows)


def find_worst_errors(predictions: Predictions, most: int) -> NDArray[np.int64]:
    """Rows (at most `most`,) of the mistakes, the most confident first."""
    wrong = np.flatnonzero(~predictions.correct)
    surest_first = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")]
    return surest_first[:most]


@dataclass(frozen=True)
class ExhibitFolder:
    """Where examples are exhibited, and how.

    Args:
        data: the data folder.
        folder: made here.
    """

    display: Display
    data: Path
    folder: Path


def write_worst_errors(
    predictions: Predictions,
    worst: NDArray[np.int64],
    examples: Sequence[Mapping[str, Any]],
    highlights: Sequence[Sequence[Highlight]],
    labels: Sequence[str],
    place: ExhibitFolder,
) -> None:
    """Mistakes as the task exhibits an example, a picture or text, listed in worst.json.

    Args:
        worst: rows of the predictions.
        examples: the manifest's rows of these.
        highlights: for each of these, what spoke for the answer.
    """
    place.folder.mkdir()
    rows = []
    for number, (example, marks, at) in enumerate(zip(examples, highlights, worst, strict=True), start=1):
        exhibit = place.display.exhibit(example, place.data, place.folder, f"{number:02d}")
        row = {name: example[name] for name in ("id", "path", "target")}
        row["predicted"] = labels[predictions.predicted[at]]
        row["confidence"] = _six_digits(float(predictions.confidence[at]))
        row["target_probability"] = _six_digits(float(predictions.target_probability[at]))
        row["picture"] = None
        if exhibit is not None:
            row[exhibit.kind] = exhibit.content
        if marks:
            row["highlights"] = [list(mark) for mark in marks]
        rows.append(row)
    text = json.dumps(rows, indent=2, ensure_ascii=False)
    (place.folder / "worst.json").write_text(text + "\n", encoding="utf-8")


def _estimate_cells(estimate: MetricEstimate | None) -> tuple[float | None, float | None, float | None]:
    if estimate is None:
        return None, None, None
    return estimate.value, estimate.low, estimate.high


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow([_six_digits(cell) if isinstance(cell, float) else cell for cell in row])


def _six_digits(value: float) -> float:
    """More than any test set supports, fewer than the last bits, which machines disagree on."""
    return float(f"{value:.6g}")
