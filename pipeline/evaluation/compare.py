"""Two models on the same examples: the difference, its interval, and what may be said
of it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import (
    BootstrapSettings,
    Units,
    estimate_statistic,
    weighted_mean,
)
from pipeline.records import Comparison, MetricEstimate

Verdict = Literal["better", "worse", "cannot-tell"]


def sign_flip_test(
    ours: NDArray[np.bool_], theirs: NDArray[np.bool_], units: Units
) -> float:
    """The two-sided p-value of the exact sign-flip test: are two models equally often
    right?

    If they are, a unit in which one gained so many examples might as well have been one
    in which the other did. Every way to swap the models within whole units is counted
    (Winkler et al. 2014, "Permutation inference for the general linear model", section
    on exchangeability blocks). Where every unit is a single example this is McNemar's
    test (McNemar 1947).

    Args:
        ours, theirs: (N,), whether each model was right.
        units: (N,), which examples are one piece of evidence.
    """
    from scipy.stats import binomtest

    gains = np.bincount(units, weights=ours.astype(np.float64) - theirs)
    sizes = np.abs(gains).astype(np.int64)
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return 1.0
    if sizes.max() == 1:
        won = int((gains > 0).sum())
        return float(binomtest(won, len(sizes), 0.5).pvalue)
    return _share_at_least(int(abs(gains.sum())), sizes)


def _share_at_least(total: int, sizes: NDArray[np.int64]) -> float:
    """The share of the sign patterns of `sizes` (U,) whose sum is at least `total` away
    from 0.
    """
    probabilities = signed_sum_probabilities(sizes)
    points = len(probabilities)
    # A negative sum stands at its complement.
    sums = np.minimum(np.arange(points), points - np.arange(points))
    share = float(probabilities[sums >= total].sum())
    # What is observed, and its mirror image; below lie rounding errors.
    least = 0.5 ** (len(sizes) - 1)
    return min(max(share, least), 1.0)


def signed_sum_probabilities(sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """How probable each sum of independent ± sizes (U,) is, where both signs are: (2 T
    + 1,) for a total of T, the sum s at index s, a negative one counted from the end.

    The sum has the product of the sizes' cosines as its characteristic function, and as
    it takes whole numbers only, a discrete Fourier transform of that gives the
    probability of each.
    """
    points = 2 * int(sizes.sum()) + 1
    angles = 2 * np.pi * np.arange(points) / points
    function = np.ones(points)
    distinct, counts = np.unique(sizes, return_counts=True)
    for size, count in zip(distinct, counts, strict=True):
        cosines = np.cos(size * angles)
        function *= cosines**count
    probabilities: NDArray[np.float64] = np.fft.ifft(function).real
    return probabilities


def paired_difference(
    ours: NDArray[np.bool_],
    theirs: NDArray[np.bool_],
    units: Units,
    settings: BootstrapSettings,
) -> MetricEstimate:
    """How much more of the examples (N,) ours got right, with a bootstrap interval over
    pairs, whole units at a time.
    """
    gains = ours.astype(np.float64) - theirs
    return estimate_statistic(
        lambda weights: weighted_mean(gains, weights), units, settings
    )


def judge_difference(
    difference: MetricEstimate, p_value: float, confidence: float
) -> Verdict:
    """What may be said of a difference where more is better: only what interval and
    test both support.
    """
    if p_value > 1 - confidence:
        return "cannot-tell"
    if difference.low > 0:
        return "better"
    if difference.high < 0:
        return "worse"
    return "cannot-tell"


def compare_accuracies(
    other: str,
    ours: NDArray[np.bool_],
    theirs: NDArray[np.bool_],
    units: Units,
    settings: BootstrapSettings,
) -> Comparison:
    """Compares the accuracy of the best candidate with that of another; `ours` and
    `theirs` (N,) say whether each of the same examples was right.
    """
    difference = paired_difference(ours, theirs, units, settings)
    p_value = sign_flip_test(ours, theirs, units)
    verdict = judge_difference(difference, p_value, settings.confidence)
    return Comparison(
        other=other,
        metric="accuracy",
        difference=difference,
        p_value=p_value,
        verdict=verdict,
    )
