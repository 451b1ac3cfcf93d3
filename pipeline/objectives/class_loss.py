"""The loss of class targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from pipeline.config import FinetuneConfig
    from pipeline.models.network import BlockedNetwork
    from pipeline.tensors import Batch


@dataclass(frozen=True)
class ClassLoss:
    """Cross-entropy with label smoothing (Szegedy et al. 2016, section 7) and class
    weights.

    Args:
        smoothing: share of the target spread over all classes.
        weights: (C,) weight of an example of each class, or None. It weighs all of the
            example's loss, what smoothing spreads over the other classes too: were that
            part weighed by those classes, as PyTorch does, a rare one would draw the
            examples of all others to it.
    """

    smoothing: float
    weights: torch.Tensor | None

    def total_weight(self, targets: torch.Tensor) -> float:
        """What the losses of these targets (N,) are divided by for their mean."""
        if self.weights is None:
            return float(len(targets))
        return float(self.weights[targets].sum())

    def __call__(
        self, model: BlockedNetwork, x: Batch, start: int, targets: torch.Tensor
    ) -> torch.Tensor:
        """The summed loss of a piece of a batch, in float32; divide by the whole
        batch's `total_weight`.

        An auxiliary classifier's loss is added with its own weight.
        """
        logits, extra = model.outputs(x, start)
        loss = self._sum(logits, targets)
        for weight, others in extra:
            loss = loss + weight * self._sum(others, targets)
        return loss

    def _sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        targets = targets.to(logits.device)
        losses = functional.cross_entropy(
            logits.float(), targets, reduction="none", label_smoothing=self.smoothing
        )
        if self.weights is not None:
            losses = losses * self.weights.to(logits.device)[targets]
        return losses.sum()


def build_loss(
    config: FinetuneConfig, targets: torch.Tensor, classes: int
) -> ClassLoss:
    """The configured loss; balanced weights are N / (C · count), 1 on average over the
    examples (N,).
    """
    import torch

    weights = None
    if config.class_weights == "balanced":
        counts = torch.bincount(targets, minlength=classes).clamp_min(1)
        weights = len(targets) / (classes * counts.float())
    return ClassLoss(config.label_smoothing, weights)
