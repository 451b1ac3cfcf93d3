"""How each class fares, and which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.bootstrap import proportion
from pipeline.evaluation.metrics import Predictions, tallies
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


def per_class(
    made: Predictions, labels: tuple[str, ...], *, count: int, confidence: float, seed: int
) -> list[ClassScore]:
    """A row a class, in the order of the label space."""
    hits, true, given = (found[:, 0] for found in tallies(made, np.ones((len(made.targets), 1))))
    rows = []
    for code, label in enumerate(labels):
        within = made.targets == code
        recall = (
            proportion(made.correct[within], made.units[within], count=count, confidence=confidence, seed=seed)
            if within.any()
            else None
        )
        either = true[code] + given[code]
        rows.append(
            ClassScore(
                label=label,
                examples=int(true[code]),
                predicted=int(given[code]),
                precision=float(hits[code] / given[code]) if given[code] else None,
                recall=recall,
                f1=float(2 * hits[code] / either) if either else None,
            )
        )
    return rows


def confusion(made: Predictions, labels: tuple[str, ...]) -> list[ConfusedPair]:
    """The pairs of target and predicted class that occur, in the order of the label space: the matrix without its
    zeros, so that ten thousand classes stay a short list."""
    pairs, counts = np.unique(np.stack([made.targets, made.predicted]), axis=1, return_counts=True)
    return [ConfusedPair(labels[t], labels[p], int(n)) for (t, p), n in zip(pairs.T, counts, strict=True)]
