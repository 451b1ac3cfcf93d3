"""Two models on the same examples: the difference, its interval, and what may be said of it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import Units, interval, resamples
from pipeline.records import Comparison, Estimate

Verdict = Literal["better", "worse", "cannot-tell"]


def mcnemar(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """The two-sided exact McNemar test (McNemar 1947; exact as in Dietterich 1998, section 2): were as many examples
    right only for one model as only for the other? `ours` and `theirs` are (N,), whether each was right."""
    from scipy.stats import binomtest

    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    if not only_ours + only_theirs:
        return 1.0
    return float(binomtest(only_ours, only_ours + only_theirs, 0.5).pvalue)


def difference(
    ours: NDArray[np.bool_], theirs: NDArray[np.bool_], units: Units, *, count: int, confidence: float, seed: int
) -> Estimate:
    """How much more of the examples ours got right, with a bootstrap interval over pairs, whole units at a time."""
    gains = ours.astype(np.float64) - theirs
    samples = [(gains @ weights) / weights.sum(axis=0) for _, weights in resamples(units, count, seed)]
    return interval(float(gains.mean()), np.concatenate(samples), confidence)


def verdict(found: Estimate, p_value: float, confidence: float) -> Verdict:
    """What may be said of a difference where more is better: only what interval and test both support. The test
    takes examples as independent; the interval does not, and keeps it honest where they come in groups."""
    if p_value > 1 - confidence:
        return "cannot-tell"
    if found.low > 0:
        return "better"
    return "worse" if found.high < 0 else "cannot-tell"


def compare(
    other: str,
    ours: NDArray[np.bool_],
    theirs: NDArray[np.bool_],
    units: Units,
    *,
    count: int,
    confidence: float,
    seed: int,
) -> Comparison:
    """Compares accuracies; `ours` and `theirs` (N,) say whether each of the same examples was right."""
    found = difference(ours, theirs, units, count=count, confidence=confidence, seed=seed)
    p_value = mcnemar(ours, theirs)
    return Comparison(
        other=other, metric="accuracy", difference=found, p_value=p_value, verdict=verdict(found, p_value, confidence)
    )
