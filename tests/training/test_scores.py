"""Validation metrics, and which result is better."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.objectives import class_validation
from pipeline.training import validation_metrics

PROBABILITIES = torch.tensor(
    [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]],
    dtype=torch.double,
)
TARGETS = torch.tensor([0, 1, 1, 2])


def test_the_metrics_are_what_their_names_say() -> None:
    found = class_validation.compute_metrics(PROBABILITIES, TARGETS)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["log_loss"] == pytest.approx(
        -sum(map(math.log, (0.7, 0.3, 0.5, 0.7))) / 4
    )


def test_a_class_that_neither_occurs_nor_is_predicted_counts_for_nothing() -> None:
    found = class_validation.compute_metrics(
        PROBABILITIES[:, :2] / PROBABILITIES[:, :2].sum(1, keepdim=True),
        torch.tensor([0, 0, 0, 0]),
    )
    assert found["balanced_accuracy"] == found["accuracy"] == 0.5


def test_a_certain_mistake_has_a_finite_loss() -> None:
    assert math.isfinite(
        class_validation.compute_metrics(
            torch.tensor([[1.0, 0.0]]).double(), torch.tensor([1])
        )["log_loss"]
    )


def test_ties_go_to_the_lower_log_loss() -> None:
    sure, unsure = (
        {"accuracy": 0.9, "log_loss": 0.1},
        {"accuracy": 0.9, "log_loss": 0.2},
    )
    assert validation_metrics.score(sure, "accuracy") > validation_metrics.score(
        unsure, "accuracy"
    )
    assert validation_metrics.score(sure, "log_loss") > validation_metrics.score(
        unsure, "log_loss"
    )


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean accuracy"):
        validation_metrics.check_primary("acuracy")
