"""What the page says of boxes and masks: classes, and the worst pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.modalities.image.class_colours import COLOURS
from pipeline.records import EvaluateRecord, MetricEstimate
from pipeline.report import files
from pipeline.report.result_sections import (
    LISTED_CLASSES,
    ScaledInterval,
    place_on_scale,
    scale_start,
)


@dataclass(frozen=True)
class DenseClassRow:
    """One class.

    Args:
        counts: of boxes objects and answers, of masks pictures and pixels.
        shares: of boxes AP at 0.5, precision, recall and F1; of masks Dice, precision
            and recall.
        score: average precision, or IoU; None where the test split does not have the
            class.
        interval: of that, on the table's scale.
    """

    label: str
    counts: tuple[int, ...]
    shares: tuple[float | None, ...]
    score: MetricEstimate | None
    interval: ScaledInterval | None


@dataclass(frozen=True)
class DenseClasses:
    """Rows a class, the weakest first; of very many classes, the weakest.

    Args:
        score: what the classes are ordered by.
        headers: of the counts and shares.
        low: where the scale of the score begins.
        more: how many classes are not listed.
    """

    score: str
    count_headers: tuple[str, ...]
    share_headers: tuple[str, ...]
    rows: list[DenseClassRow]
    low: float
    more: int


@dataclass(frozen=True)
class ErrorRow:
    """A kind of a detector's mistakes.

    Args:
        mistakes: how many, of the answers that are shown.
        cost: by how much average precision at 0.5 would rise without them.
    """

    kind: str
    meaning: str
    mistakes: int
    cost: float


@dataclass(frozen=True)
class ClassColour:
    """The colour that a class has in the pictures of masks."""

    label: str
    colour: str


MEANINGS = {
    "localization": "the right class, not quite the right place",
    "classification": "the right place, the wrong class",
    "duplicate": "an object that another answer has already",
    "background": "nothing is there",
    "both": "class and place are wrong",
    "missed": "an object that no answer means",
}


@dataclass(frozen=True)
class WorstPicture:
    """A picture with truth and answer drawn.

    Args:
        picture: a data URI.
        facts: what is said of it.
    """

    path: str
    picture: str | None
    facts: Mapping[str, Any]


def classes_section(evaluated: EvaluateRecord) -> DenseClasses:
    if evaluated.targets == "boxes":
        return _classes(
            evaluated,
            "ap",
            "AP",
            ("objects", "answers"),
            ("ap_50", "precision", "recall", "f1"),
        )
    return _classes(
        evaluated, "iou", "IoU", ("pictures", "pixels"), ("dice", "precision", "recall")
    )


TITLES = {
    "objects": "Objects",
    "answers": "Answers",
    "pictures": "Pictures",
    "pixels": "Pixels",
    "ap_50": "AP at 0.5",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "dice": "Dice",
}


def _classes(
    evaluated: EvaluateRecord,
    column: str,
    title: str,
    counts: tuple[str, ...],
    shares: tuple[str, ...],
) -> DenseClasses:
    lines = files.read_csv(evaluated.folder / "per_class.csv")
    lines.sort(key=lambda line: float(line[column] or 2.0))
    low = scale_start(float(line[f"{column}_low"]) for line in lines if line[column])
    rows = []
    for line in lines:
        score = files.read_estimate(line, column)
        row = DenseClassRow(
            label=line["label"],
            counts=tuple(int(line[name]) for name in counts),
            shares=tuple(files.read_number(line, name) for name in shares),
            score=score,
            interval=place_on_scale(score, low, 1.0) if score else None,
        )
        rows.append(row)
    count_titles = tuple(TITLES[name] for name in counts)
    share_titles = tuple(TITLES[name] for name in shares)
    more = max(0, len(rows) - LISTED_CLASSES)
    return DenseClasses(
        title, count_titles, share_titles, rows[:LISTED_CLASSES], low, more
    )


def errors_section(evaluated: EvaluateRecord) -> list[ErrorRow]:
    """A detector's mistakes by kind, the dearest first; none for masks."""
    if evaluated.targets != "boxes":
        return []
    rows = []
    for line in files.read_csv(evaluated.folder / "errors.csv"):
        kind = line["kind"]
        rows.append(
            ErrorRow(kind, MEANINGS[kind], int(line["mistakes"]), float(line["cost"]))
        )
    return sorted(rows, key=lambda row: -row.cost)


def worst_section(evaluated: EvaluateRecord) -> list[WorstPicture]:
    """The worst pictures, with the drawings inside."""
    folder = evaluated.folder / "worst"
    rows = json.loads((folder / "worst.json").read_text(encoding="utf-8"))
    pictures = []
    for row in rows:
        picture = None
        if row["picture"]:
            picture = files.data_uri(folder / row["picture"])
        pictures.append(WorstPicture(row["path"], picture, row))
    return pictures


def colours_section(labels: Sequence[str]) -> list[ClassColour]:
    """The colours of the classes behind the background, which has none."""
    section = []
    for number, label in enumerate(labels[1:]):
        red, green, blue = COLOURS[number % len(COLOURS)]
        section.append(ClassColour(label, f"#{red:02x}{green:02x}{blue:02x}"))
    return section
