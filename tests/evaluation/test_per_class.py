"""Per class, confusions, and reliability bins."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from pipeline.evaluation.bootstrap import BootstrapSettings
from pipeline.evaluation.calibration import reliability_bins
from pipeline.evaluation.metrics import BINS, Predictions, find_bin
from pipeline.evaluation.per_class import count_confusions, score_classes

SETTINGS = BootstrapSettings(resamples=100, confidence=0.95, seed=0)
LABELS = ("a", "b", "c", "never")


def answers() -> Predictions:
    dice = np.random.default_rng(2)
    targets = dice.integers(0, 3, 200)
    probabilities = dice.dirichlet(np.ones(4) * 0.7, 200)
    probabilities[np.arange(200), targets] += 0.5
    probabilities[:, 3] = 0
    return Predictions(
        probabilities / probabilities.sum(axis=1, keepdims=True),
        targets,
        np.arange(200),
    )


def test_per_class_equals_scikit_learns() -> None:
    made = answers()
    precision, recall, f1, support = precision_recall_fscore_support(
        made.targets, made.predicted
    )
    for code, row in enumerate(score_classes(made, LABELS, SETTINGS)[:3]):
        assert row.recall is not None
        assert (row.precision, row.recall.value, row.f1, row.examples) == pytest.approx(
            (precision[code], recall[code], f1[code], support[code])
        )
        assert row.recall.low < row.recall.value < row.recall.high


def test_a_class_that_does_not_occur_has_nothing_to_say() -> None:
    row = score_classes(answers(), LABELS, SETTINGS)[3]
    assert (row.examples, row.predicted, row.precision, row.recall, row.f1) == (
        0,
        0,
        None,
        None,
        None,
    )


def test_confusion_is_the_matrix_without_its_zeros() -> None:
    made = answers()
    matrix = confusion_matrix(made.targets, made.predicted, labels=range(4))
    found = {
        (LABELS.index(c.target), LABELS.index(c.predicted)): c.examples
        for c in count_confusions(made, LABELS)
    }
    assert found == {
        (t, p): matrix[t, p] for t in range(4) for p in range(4) if matrix[t, p]
    }


def test_bins_are_open_below_and_closed_above() -> None:
    assert find_bin(np.array([0.0, 1 / BINS, 1 / BINS + 1e-9, 1.0])).tolist() == [
        0,
        0,
        1,
        BINS - 1,
    ]


def test_reliability_bins_hold_every_example_once() -> None:
    made = answers()
    bins = reliability_bins(made, SETTINGS)
    assert sum(one.examples for one in bins) == 200
    assert all(one.low < one.confidence <= one.high for one in bins)
    hits = sum(one.accuracy.value * one.examples for one in bins)
    assert hits == pytest.approx(made.correct.sum())
