"""The files an evaluation leaves: the same bytes for the same inputs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.evaluation.calibration import ReliabilityBin
from pipeline.evaluation.metrics import Predictions
from pipeline.evaluation.per_class import ClassScore, ConfusedPair
from pipeline.evaluation.slices import SliceScore
from pipeline.manifest import write_table
from pipeline.records import MetricEstimate
from pipeline.tasks.base import Display


def predictions(made: Predictions, table: pa.Table, labels: Sequence[str], path: Path) -> None:
    """id, path, content (of rows of a table), target, predicted, confidence and `p.<label>` for each class, in the
    manifest's order."""
    columns: dict[str, Any] = {}
    for name in ("id", "path", "content", "target"):
        if name in table.column_names:
            columns[name] = table[name]
    columns["predicted"] = pa.array([labels[code] for code in made.predicted], type=pa.string())
    columns["confidence"] = pa.array(made.confidence)
    columns |= {f"p.{label}": pa.array(made.probabilities[:, code]) for code, label in enumerate(labels)}
    write_table(pa.table(columns), path)


def per_class(rows: Iterable[ClassScore], path: Path) -> None:
    header = ("label", "examples", "predicted", "precision", "recall", "recall_low", "recall_high", "f1")
    _write(path, header, [(r.label, r.examples, r.predicted, r.precision, *_parts(r.recall), r.f1) for r in rows])


def confusion(rows: Iterable[ConfusedPair], path: Path) -> None:
    _write(path, ("target", "predicted", "examples"), [(r.target, r.predicted, r.examples) for r in rows])


def slices(rows: Iterable[SliceScore], path: Path) -> None:
    header = ("column", "value", "examples", "accuracy", "accuracy_low", "accuracy_high", "verdict")
    _write(path, header, [(r.column, r.value, r.examples, *_parts(r.accuracy), r.verdict) for r in rows])


def reliability(rows: Iterable[ReliabilityBin], path: Path) -> None:
    header = ("low", "high", "examples", "confidence", "accuracy", "accuracy_low", "accuracy_high")
    _write(path, header, [(r.low, r.high, r.examples, r.confidence, *_parts(r.accuracy)) for r in rows])


def worst(
    made: Predictions, table: pa.Table, labels: Sequence[str], display: Display, data: Path, folder: Path, most: int
) -> None:
    """The most confident mistakes, shown as the task shows an example, and listed in worst.json."""
    folder.mkdir()
    wrong = np.flatnonzero(~made.correct)
    ordered = wrong[np.argsort(-made.confidence[wrong], kind="stable")][:most]
    columns = [name for name in ("id", "path", "target", "content") if name in table.column_names]
    rows = table.select(columns).take(ordered).to_pylist()
    for number, (row, at) in enumerate(zip(rows, ordered, strict=True), start=1):
        row["predicted"] = labels[made.predicted[at]]
        row["confidence"] = _short(float(made.confidence[at]))
        row["target_probability"] = _short(float(made.right[at]))
        exhibit = display.exhibit(row, data, folder, f"{number:02d}")
        row.pop("content", None)
        row["picture"] = exhibit.content if exhibit is not None and exhibit.kind == "picture" else None
        if exhibit is not None and exhibit.kind == "text":
            row["text"] = exhibit.content
    (folder / "worst.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _parts(estimate: MetricEstimate | None) -> tuple[float | None, float | None, float | None]:
    return (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_short(value) if isinstance(value, float) else value for value in row] for row in rows)


def _short(value: float) -> float:
    """Six digits: more than any test set supports, fewer than the last bits, which machines disagree on."""
    return float(f"{value:.6g}")
