"""Flips: examples that became better or worse, counted and shown both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from example_run import Pictures, Quotations
from pipeline.config import EvaluateConfig
from pipeline.evaluation.class_judge import ClassJudge
from pipeline.evaluation.metrics import Predictions
from pipeline.promotion.flips import FILE, MOST_SHOWN, FlipPlace, write_flips
from pipeline.promotion.measure import JudgedPair
from pipeline.records import PromoteRecord
from pipeline.report.flip_section import describe_answer, flips_section

LABELS = ("ant", "bee")


def predictions(right: list[float]) -> Predictions:
    """Predictions that give the right class, the first, these probabilities."""
    first = np.array(right)
    targets = np.zeros(len(right), np.int64)
    return Predictions(
        np.stack([first, 1 - first], axis=1), targets, np.arange(len(right))
    )


def place(folder: Path, count: int, display: Any) -> FlipPlace:
    rows = [
        {
            "id": str(n),
            "path": f"{n}.png",
            "target": "ant",
            "content": json.dumps({"text": f"text {n}\nmore"}),
        }
        for n in range(count)
    ]
    return FlipPlace(pa.Table.from_pylist(rows), LABELS, display, Path(), folder)


def record(**values: Any) -> PromoteRecord:
    facts = {
        "evaluation": "e",
        "key": "k",
        "model": "m",
        "version": "2",
        "champion": "1",
        "decision": "cannot-tell",
    }
    return PromoteRecord(
        **{**facts, "reason": "r", "negative_flips": 0.1, "flips": "flips", **values}
    )


def test_both_ways_are_counted_and_the_surest_are_shown_first(tmp_path: Path) -> None:
    ours = predictions([0.9, 0.6, 0.4, 0.1, 0.7, 0.2])
    theirs = predictions([0.2, 0.4, 0.6, 0.9, 0.8, 0.1])
    pair = JudgedPair(ours, theirs, "accuracy", "accuracy", 0.01)
    counts = write_flips(
        pair, ClassJudge(EvaluateConfig()), place(tmp_path / "flips", 6, Pictures())
    )
    assert counts == (2, 2)
    better, worse = flips_section(record(better=2, worse=2), tmp_path)
    assert [flip.path for flip in better.shown] == ["0.png", "1.png"]
    assert [flip.path for flip in worse.shown] == ["3.png", "2.png"]
    assert (better.title, worse.title) == ("Newly right", "Newly wrong")
    assert better.shown[0].before.startswith("bee (80")
    assert better.shown[0].after.startswith("ant (90")
    assert len(better.shown[0].pictures) == 1
    assert better.shown[0].pictures[0].startswith("data:image/jpeg")


def test_a_long_list_is_cut_with_its_count_and_texts_are_quoted(tmp_path: Path) -> None:
    count = MOST_SHOWN + 5
    pair = JudgedPair(
        predictions([0.9] * count),
        predictions([0.1] * count),
        "accuracy",
        "accuracy",
        0.01,
    )
    counts = write_flips(
        pair,
        ClassJudge(EvaluateConfig()),
        place(tmp_path / "flips", count, Quotations()),
    )
    assert counts == (count, 0)
    better, worse = flips_section(record(better=count, worse=0), tmp_path)
    assert (better.count, len(better.shown), worse.shown) == (count, MOST_SHOWN, ())
    assert better.shown[0].lines == ("text 0", "more")
    assert not better.shown[0].pictures


def test_what_was_shown_is_replaced_and_may_be_lost(tmp_path: Path) -> None:
    pair = JudgedPair(
        predictions([0.9]), predictions([0.1]), "accuracy", "accuracy", 0.01
    )
    judge, where = (
        ClassJudge(EvaluateConfig()),
        place(tmp_path / "flips", 1, Pictures()),
    )
    write_flips(pair, judge, where)
    before = (tmp_path / "flips" / FILE).read_bytes()
    write_flips(pair, judge, where)
    assert (tmp_path / "flips" / FILE).read_bytes() == before
    (tmp_path / "flips" / FILE).unlink()
    assert flips_section(record(better=1, worse=0), tmp_path) == ()
    assert flips_section(record(), tmp_path) == ()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"predicted": "ant", "confidence": 0.5}, "ant (50 %)"),
        ({"objects": 3, "right": 2, "wrong": 1}, "2 of 3 objects found, 1 wrong"),
        ({"mean_iou": 0.25}, "IoU 25 %"),
    ],
)
def test_an_answer_is_described_for_every_kind_of_target(
    row: dict[str, Any], said: str
) -> None:
    assert describe_answer(row).replace("\u202f", " ") == said
