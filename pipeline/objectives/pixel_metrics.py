"""How good answered masks are: overlap of regions, by any example weights.

All are tallies over the pixels of all pictures, not means over pictures. A class that
neither truth nor answer has, in the data or in a resample, has no value and is left out
of the mean.

| metric | is |
|---|---|
| mean_iou | shared pixels of truth and answer over those that either has (Jaccard's index), averaged over classes |
| mean_dice | twice the shared pixels over the sum of both, averaged over classes |
| pixel_accuracy | share of the pixels given the right class |
| mean_class_accuracy | share of each class's pixels given it, averaged over the classes that occur |
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.objectives.box_metrics import mean_of_known

Floats = NDArray[np.float64]
Confusions = NDArray[np.int64]  # (pictures, classes, classes): rows are the truth
Weights = NDArray[np.float64]  # (pictures, resamples)


class PixelTallies(NamedTuple):
    """Weighted pixels by class and column of weights, (C, R) each.

    Args:
        shared: of truth and answer.
        truth, answer: of each.
    """

    shared: Floats
    truth: Floats
    answer: Floats


def tally_pixels(confusions: Confusions, weights: Weights) -> PixelTallies:
    """The tallies of N pictures."""
    shared = np.diagonal(confusions, axis1=1, axis2=2)
    of_truth = confusions.sum(axis=2)
    of_answer = confusions.sum(axis=1)
    return PixelTallies(
        shared=shared.T @ weights,
        truth=of_truth.T @ weights,
        answer=of_answer.T @ weights,
    )


def class_iou(tallies: PixelTallies) -> Floats:
    """(C, R)."""
    union = tallies.truth + tallies.answer - tallies.shared
    return _divide(tallies.shared, union)


def class_dice(tallies: PixelTallies) -> Floats:
    """(C, R)."""
    both = tallies.truth + tallies.answer
    return _divide(2 * tallies.shared, both)


def mean_iou(tallies: PixelTallies) -> Floats:
    return mean_of_known(class_iou(tallies))


def mean_dice(tallies: PixelTallies) -> Floats:
    return mean_of_known(class_dice(tallies))


def pixel_accuracy(tallies: PixelTallies) -> Floats:
    right = tallies.shared.sum(axis=0)
    pixels = tallies.truth.sum(axis=0)
    return _divide(right, pixels)


def mean_class_accuracy(tallies: PixelTallies) -> Floats:
    return mean_of_known(_divide(tallies.shared, tallies.truth))


def picture_iou(confusions: Confusions) -> Floats:
    """Mean IoU (N,) of each picture over the classes that it has in truth or answer; 1
    where all of it is ignored.
    """
    shared = np.diagonal(confusions, axis1=1, axis2=2).T
    of_truth = confusions.sum(axis=2).T
    of_answer = confusions.sum(axis=1).T
    union = of_truth + of_answer - shared
    of_class = _divide(shared.astype(np.float64), union.astype(np.float64))
    return np.nan_to_num(mean_of_known(of_class), nan=1.0)


def _divide(values: Floats, by: Floats) -> Floats:
    quotients: Floats = np.divide(
        values, by, out=np.full(np.shape(values), np.nan), where=by > 0
    )
    return quotients
