"""How confidence and accuracy go together: reliability bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.bootstrap import BootstrapSettings, estimate_share
from pipeline.evaluation.metrics import BINS, Predictions, find_bin
from pipeline.records import MetricEstimate


@dataclass(frozen=True)
class ReliabilityBin:
    """The examples whose confidence lies in (low, high]."""

    low: float
    high: float
    examples: int
    confidence: float  # mean
    accuracy: MetricEstimate


def reliability_bins(
    predictions: Predictions, settings: BootstrapSettings
) -> list[ReliabilityBin]:
    """The bins of equal width that hold examples (DeGroot and Fienberg 1983)."""
    numbers = find_bin(predictions.confidence)
    bins = []
    for number in np.unique(numbers):
        within = numbers == number
        accuracy = estimate_share(
            predictions.correct[within], predictions.units[within], settings
        )
        bins.append(
            ReliabilityBin(
                low=float(number / BINS),
                high=float((number + 1) / BINS),
                examples=int(within.sum()),
                confidence=float(predictions.confidence[within].mean()),
                accuracy=accuracy,
            )
        )
    return bins
