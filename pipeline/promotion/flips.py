"""Examples that the challenger answers better than the champion, and those that it
answers worse: counted, and the largest of both shown as the task shows examples. Where
answers are right or wrong these are the flips of Yan et al. (2021, "Positive-congruent
training").
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.judge import ExhibitPlace, Judge, Judged
from pipeline.evaluation.metrics import Predictions
from pipeline.files import replace_json
from pipeline.promotion.measure import JudgedPair
from pipeline.promotion.paired_gain import WHOLE, Floats
from pipeline.tasks.base import Display, Highlight

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "flips.json"
MOST_SHOWN = 6  # each way
# A share of the gain in the right class's probability, which orders flips that are as
# large.
SMALL = 1e-3


class FlipCounts(NamedTuple):
    """On how many examples the challenger is better, and worse, than the champion."""

    better: int
    worse: int


class FlipPlace(NamedTuple):
    """What showing examples needs.

    Args:
        rows: the manifest's rows (N) of the pair.
        labels: those of the pair.
        display: of the task.
        data: the data folder.
        folder: where pictures and `flips.json` are written to; what lies there is
            replaced.
    """

    rows: pa.Table
    labels: Sequence[str]
    display: Display
    data: Path
    folder: Path


def write_flips(pair: JudgedPair, judge: Judge, place: FlipPlace) -> FlipCounts:
    """Counts the examples that became better or worse, and shows the largest of both.

    Raises:
        DataError: an example cannot be read.
    """
    gains = pair.challenger.goodness.astype(np.float64) - pair.champion.goodness
    order = gains + SMALL * _certainty_gains(pair)
    is_better = gains > WHOLE
    is_worse = gains < -WHOLE
    shutil.rmtree(place.folder, ignore_errors=True)
    most_better = _find_largest(order, is_better)
    most_worse = _find_largest(-order, is_worse)
    shown = {
        "better": _show(pair, judge, place, most_better, "better"),
        "worse": _show(pair, judge, place, most_worse, "worse"),
    }
    replace_json(place.folder / FILE, shown, ensure_ascii=False)
    return FlipCounts(int(is_better.sum()), int(is_worse.sum()))


def _certainty_gains(pair: JudgedPair) -> Floats:
    """The gain in the probability of the right class (N,); 0 where answers have none."""
    ours = pair.challenger
    theirs = pair.champion
    if isinstance(ours, Predictions) and isinstance(theirs, Predictions):
        return np.asarray(
            ours.target_probability - theirs.target_probability, np.float64
        )
    return np.zeros(len(ours.units))


def _find_largest(order: Floats, among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rows of the largest values, the largest first."""
    rows = np.flatnonzero(among)
    largest_first = np.argsort(-order[rows], kind="stable")
    return rows[largest_first][:MOST_SHOWN]


def _show(
    pair: JudgedPair, judge: Judge, place: FlipPlace, rows: NDArray[np.int64], way: str
) -> list[dict[str, dict[str, Any]]]:
    """Each example with both answers, as the judge describes them; pictures are named
    below the place's folder.
    """
    sides = {"challenger": pair.challenger, "champion": pair.champion}
    described = {}
    for side, judged in sides.items():
        described[side] = _describe(judged, judge, place, rows, f"{way}/{side}")
    pairs = zip(described["challenger"], described["champion"], strict=True)
    return [{"challenger": ours, "champion": theirs} for ours, theirs in pairs]


def _describe(
    judged: Judged, judge: Judge, place: FlipPlace, rows: NDArray[np.int64], below: str
) -> list[dict[str, Any]]:
    examples = place.rows.take(rows).to_pylist()
    folder = place.folder / below
    folder.mkdir(parents=True)

    def explain(answers: Sequence[int]) -> list[list[Highlight]]:
        return [[] for _ in answers]

    exhibit = ExhibitPlace(
        examples, place.labels, place.display, place.data, folder, explain
    )
    described = judge.exhibit_worst(judged, rows, exhibit)
    for row in described:
        if row["picture"]:
            row["picture"] = f"{below}/{row['picture']}"
    return described
