"""How each class fares, and which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.bootstrap import BootstrapSettings, estimate_share
from pipeline.evaluation.metrics import Predictions, tally_classes
from pipeline.records import MetricEstimate


@dataclass(frozen=True)
class ClassScore:
    """One class on the test split; None where there is nothing to divide by."""

    label: str
    examples: int
    predicted: int
    precision: float | None
    recall: MetricEstimate | None
    f1: float | None


@dataclass(frozen=True)
class ConfusedPair:
    """How many examples of a class were given a class, the right one among them."""

    target: str
    predicted: str
    examples: int


def score_classes(
    predictions: Predictions, labels: tuple[str, ...], settings: BootstrapSettings
) -> list[ClassScore]:
    """A row a class, in the order of the label space."""
    once = np.ones((len(predictions.targets), 1))
    tallies = tally_classes(predictions, once)
    scores = []
    for code, label in enumerate(labels):
        hits = tallies.hits[code, 0]
        examples = tallies.targets[code, 0]
        predicted = tallies.predicted[code, 0]
        score = ClassScore(
            label=label,
            examples=int(examples),
            predicted=int(predicted),
            precision=_divide(hits, predicted),
            recall=_estimate_recall(predictions, code, settings),
            f1=_divide(2 * hits, examples + predicted),
        )
        scores.append(score)
    return scores


def _estimate_recall(
    predictions: Predictions, code: int, settings: BootstrapSettings
) -> MetricEstimate | None:
    within = predictions.targets == code
    if not within.any():
        return None
    return estimate_share(
        predictions.correct[within], predictions.units[within], settings
    )


def _divide(part: float, whole: float) -> float | None:
    if not whole:
        return None
    return float(part / whole)


def count_confusions(
    predictions: Predictions, labels: tuple[str, ...]
) -> list[ConfusedPair]:
    """The pairs of target and predicted class that occur, in the order of the label
    space: the matrix without its zeros, so that ten thousand classes stay a short list.
    """
    codes = np.stack([predictions.targets, predictions.predicted])
    pairs, counts = np.unique(codes, axis=1, return_counts=True)
    confusions = []
    for (target, predicted), count in zip(pairs.T, counts, strict=True):
        confusions.append(ConfusedPair(labels[target], labels[predicted], int(count)))
    return confusions
