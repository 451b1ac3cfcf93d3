"""What a validation says of class targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def compute_metrics(
    probabilities: torch.Tensor, targets: torch.Tensor
) -> dict[str, float]:
    """All metrics of (N, C) float64 probabilities against (N,) class indices.

    Balanced accuracy is the mean recall of the classes that occur; macro F1 is over
    those that occur or were predicted; log loss clips at the smallest positive float32.
    """
    import torch

    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    hits = torch.bincount(targets[predicted == targets], minlength=classes).double()
    actual = torch.bincount(targets, minlength=classes).double()
    claimed = torch.bincount(predicted, minlength=classes).double()
    right = probabilities.gather(1, targets[:, None]).clamp_min(
        torch.finfo(torch.float32).tiny
    )
    return {
        "accuracy": (predicted == targets).double().mean().item(),
        "balanced_accuracy": (hits / actual)[actual > 0].mean().item(),
        "macro_f1": (2 * hits / (actual + claimed))[actual + claimed > 0].mean().item(),
        "log_loss": -right.log().mean().item(),
    }
