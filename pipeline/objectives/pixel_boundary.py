"""How well outlines agree: the boundary F-score.

Csurka, Larlus and Perronnin 2013, "What is a good evaluation measure for semantic segmentation?", section 3: precision is the
share of the answer's outline that lies near the truth's, recall the reverse; near is within 0.75 % of the picture's diagonal.
Kept as counts of pixels for every picture and class, so that any example weights apply.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.objectives.box_metrics import mean_of_known
from pipeline.objectives.pixel_targets import IGNORED, Masks

NEAR = 0.0075  # of the diagonal

Floats = NDArray[np.float64]


class BoundaryCounts(NamedTuple):
    """Pixels of outlines by class, (C,) each.

    Args:
        answer_near: of the answer, near the truth's.
        answer: of the answer.
        truth_near: of the truth, near the answer's.
        truth: of the truth.
    """

    answer_near: NDArray[np.int64]
    answer: NDArray[np.int64]
    truth_near: NDArray[np.int64]
    truth: NDArray[np.int64]


def count_boundaries(truth: Masks, answer: Masks, classes: int) -> BoundaryCounts:
    """The outlines of one picture's regions (H, W); what is ignored has none."""
    counts = np.zeros((4, classes), np.int64)
    reach = max(1, round(NEAR * float(np.hypot(*truth.shape))))
    counted = truth != IGNORED
    for number in range(classes):
        truth_line = find_outline(truth == number) & counted
        answer_line = find_outline(answer == number) & counted
        near_truth = _widen(truth_line, reach)
        near_answer = _widen(answer_line, reach)
        counts[0, number] = int((answer_line & near_truth).sum())
        counts[1, number] = int(answer_line.sum())
        counts[2, number] = int((truth_line & near_answer).sum())
        counts[3, number] = int(truth_line.sum())
    return BoundaryCounts(*counts)


def find_outline(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a region (H, W) beside a pixel that is not of it; the picture's edge is no outline."""
    inner: NDArray[np.bool_] = ndimage.binary_erosion(region, border_value=1)
    return region & ~inner


def _widen(line: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """The pixels within `reach` of a line."""
    if not line.any():
        return line
    near: NDArray[np.bool_] = ndimage.distance_transform_edt(~line) <= reach
    return near


def boundary_f1(counts: NDArray[np.int64], weights: Floats) -> Floats:
    """The F-score (R,), averaged over the classes that have outlines.

    Args:
        counts: (N, 4, C) of pictures, in the order of `BoundaryCounts`.
        weights: (N, R).
    """
    answer_near, answer, truth_near, truth = (counts[:, place].T @ weights for place in range(4))
    precision = _divide(answer_near, answer)
    recall = _divide(truth_near, truth)
    scores = _divide(2 * precision * recall, precision + recall)
    has_outline = answer + truth > 0
    return mean_of_known(np.where(has_outline, scores, np.nan))


def _divide(values: Floats, by: Floats) -> Floats:
    """The quotients; where there is nothing to divide by, 0."""
    quotients: Floats = np.divide(values, by, out=np.zeros(np.shape(values)), where=by > 0)
    return quotients
