"""Does the model know how sure it may be: reliability bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.bootstrap import proportion
from pipeline.evaluation.metrics import BINS, Predictions, bin_of
from pipeline.records import MetricEstimate


@dataclass(frozen=True)
class ReliabilityBin:
    """The examples whose confidence lies in (low, high]."""

    low: float
    high: float
    examples: int
    confidence: float  # mean
    accuracy: MetricEstimate


def reliability(made: Predictions, *, count: int, confidence: float, seed: int) -> list[ReliabilityBin]:
    """The bins of equal width that hold examples (DeGroot and Fienberg 1983)."""
    bins = bin_of(made.confidence)
    found = []
    for number in np.unique(bins):
        within = bins == number
        found.append(
            ReliabilityBin(
                low=float(number / BINS),
                high=float((number + 1) / BINS),
                examples=int(within.sum()),
                confidence=float(made.confidence[within].mean()),
                accuracy=proportion(
                    made.correct[within], made.units[within], count=count, confidence=confidence, seed=seed
                ),
            )
        )
    return found
