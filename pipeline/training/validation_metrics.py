"""Metrics of a validation, and which of two results is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pipeline import metric_registry
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch


def check_primary(primary: str) -> None:
    """Raises ConfigError where validation has no such metric."""
    known = metric_registry.validation_names()
    if primary not in known:
        raise ConfigError(
            "finetune.primary",
            found=primary,
            expected="one of " + ", ".join(known),
            hint=metric_registry.suggest(primary, known),
        )


def higher_is_better(primary: str) -> bool:
    return metric_registry.find(primary).higher_is_better


def compute_metrics(probabilities: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """All metrics of (N, C) float64 probabilities against (N,) class indices.

    Balanced accuracy is the mean recall of the classes that occur; macro F1 is over those that occur or were
    predicted; log loss clips at the smallest positive float32.
    """
    import torch

    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    hits = torch.bincount(targets[predicted == targets], minlength=classes).double()
    actual = torch.bincount(targets, minlength=classes).double()
    claimed = torch.bincount(predicted, minlength=classes).double()
    right = probabilities.gather(1, targets[:, None]).clamp_min(torch.finfo(torch.float32).tiny)
    return {
        "accuracy": (predicted == targets).double().mean().item(),
        "balanced_accuracy": (hits / actual)[actual > 0].mean().item(),
        "macro_f1": (2 * hits / (actual + claimed))[actual + claimed > 0].mean().item(),
        "log_loss": -right.log().mean().item(),
    }


class Score(NamedTuple):
    """Results in the order they are preferred in: the greater tuple is the better result."""

    primary: float
    negative_log_loss: float


def score(metrics: dict[str, float], primary: str) -> Score:
    """Ties in the primary metric go to the lower log loss; a tie in both leaves the earlier result standing."""
    value = metrics[primary] if higher_is_better(primary) else -metrics[primary]
    return Score(value, -metrics["log_loss"])
