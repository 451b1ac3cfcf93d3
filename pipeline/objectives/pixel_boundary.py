"""How well outlines agree: the boundary F-score.

Csurka, Larlus and Perronnin 2013, "What is a good evaluation measure for semantic
segmentation?", section 3: precision is the share of the answer's outline that lies near
the truth's, recall the reverse; near is within 0.75 % of the picture's diagonal. Kept
as counts of pixels for every picture and class, so that any example weights apply.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

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


class _Outlines(NamedTuple):
    """The outlines of all regions of a mask.

    Args:
        points: (P, 2) row and column of each pixel.
        classes: (P,) what region it is of.
    """

    points: NDArray[np.int64]
    classes: NDArray[np.integer[Any]]

    def of_class(self, number: int) -> NDArray[np.int64]:
        points: NDArray[np.int64] = self.points[self.classes == number]
        return points


def count_boundaries(truth: Masks, answer: Masks, classes: int) -> BoundaryCounts:
    """The outlines of one picture's regions (H, W).

    Where the truth is ignored, it is taken to be as answered: an outline that runs
    through an ignored seam around an object is right, and one that ends at the seam's
    edge lies near it. What is farther than "near" from all that counts is left out.
    """
    reach = max(1, round(NEAR * float(np.hypot(*truth.shape))))
    is_counted = truth != IGNORED
    shown = _widen(is_counted, reach)
    truth_lines = _list_outlines(np.where(is_counted, truth, answer), shown)
    answer_lines = _list_outlines(answer, shown)
    counts = np.zeros((4, classes), np.int64)
    for number in range(classes):
        truth_points = truth_lines.of_class(number)
        answer_points = answer_lines.of_class(number)
        counts[0, number] = _count_near(answer_points, truth_points, reach)
        counts[1, number] = len(answer_points)
        counts[2, number] = _count_near(truth_points, answer_points, reach)
        counts[3, number] = len(truth_points)
    return BoundaryCounts(*counts)


def find_outlines(mask: Masks) -> NDArray[np.bool_]:
    """The pixels (H, W) beside a pixel of another class, in a row or column; the
    picture's edge is no outline.
    """
    outlines = np.zeros(mask.shape, np.bool_)
    differs_below = mask[1:] != mask[:-1]
    differs_right = mask[:, 1:] != mask[:, :-1]
    outlines[1:] |= differs_below
    outlines[:-1] |= differs_below
    outlines[:, 1:] |= differs_right
    outlines[:, :-1] |= differs_right
    return outlines


def _list_outlines(mask: Masks, shown: NDArray[np.bool_]) -> _Outlines:
    outlines = find_outlines(mask) & shown
    points = np.argwhere(outlines)
    classes = mask[points[:, 0], points[:, 1]]
    return _Outlines(points, classes)


def _widen(region: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """The pixels within `reach` of a region."""
    if region.all() or not region.any():
        return region
    near: NDArray[np.bool_] = ndimage.distance_transform_edt(~region) <= reach
    return near


def _count_near(
    points: NDArray[np.int64], others: NDArray[np.int64], reach: int
) -> int:
    """How many of the points (P, 2) lie within `reach` of one of the others (Q, 2)."""
    if not len(points) or not len(others):
        return 0
    tree = KDTree(others)
    distances, _ = tree.query(points, distance_upper_bound=reach + 1)
    is_near = distances <= reach
    return int(is_near.sum())


def boundary_f1(counts: NDArray[np.int64], weights: Floats) -> Floats:
    """The F-score (R,), averaged over the classes that have outlines.

    Args:
        counts: (N, 4, C) of pictures, in the order of `BoundaryCounts`.
        weights: (N, R).
    """
    answer_near, answer, truth_near, truth = (
        counts[:, place].T @ weights for place in range(4)
    )
    precision = _divide(answer_near, answer)
    recall = _divide(truth_near, truth)
    scores = _divide(2 * precision * recall, precision + recall)
    has_outline = answer + truth > 0
    return mean_of_known(np.where(has_outline, scores, np.nan))


def _divide(values: Floats, by: Floats) -> Floats:
    """The quotients; where there is nothing to divide by, 0."""
    quotients: Floats = np.divide(
        values, by, out=np.zeros(np.shape(values)), where=by > 0
    )
    return quotients
