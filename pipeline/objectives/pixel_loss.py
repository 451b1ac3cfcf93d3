"""The loss of a segmenter: is each pixel's class right, and do the regions overlap?

Cross-entropy tells pixels apart, the soft Dice loss (Milletari, Navab and Ahmadi 2016,
section 3) sees to small classes. Both are those of one picture, so that a batch may be
cut anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.objectives.pixel_targets import IGNORED
from pipeline.tensors import single_tensor

if TYPE_CHECKING:
    from pipeline.models.network import BlockedNetwork
    from pipeline.objectives.pixel_targets import StoredMasks
    from pipeline.tensors import Batch


@dataclass(frozen=True)
class PixelLoss:
    """Mean cross-entropy and soft Dice loss of each picture, summed over pictures.

    Args:
        class_weights: (C,) weight of a pixel of each class, or None.
    """

    class_weights: Tensor | None = None

    def total_weight(self, targets: Tensor) -> float:
        """The number of pictures."""
        return float(len(targets))

    def __call__(
        self, model: BlockedNetwork, x: Batch, start: int, targets: Tensor
    ) -> Tensor:
        """The summed loss of some pictures.

        Args:
            targets: (n, S, S) uint8: the class of each pixel, `IGNORED` where it does
                not count.
        """
        logits = single_tensor(model.run(x, start)).float()
        masks = targets.to(logits.device).long()
        total = logits.sum() * 0
        for values, mask in zip(logits, masks, strict=True):
            total = total + self._of_picture(values, mask)
        return total

    def _of_picture(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The loss of logits (C, S, S) against a mask (S, S); 0 where all of it is
        ignored.
        """
        counted = mask != IGNORED
        if not counted.any():
            return logits.sum() * 0
        if counted.all():  # the usual picture, whose pixels need no picking out
            chosen = logits.flatten(1)
            classes = mask.flatten()
        else:
            chosen = logits[:, counted]
            classes = mask[counted]
        if self.class_weights is None:
            weights = None
        else:
            weights = self.class_weights.to(logits.device)
        # As one example of many places: several times as fast as as many examples.
        entropy = functional.cross_entropy(chosen[None], classes[None], weight=weights)
        return entropy + _dice_loss(chosen.softmax(0), classes)


def _dice_loss(probabilities: Tensor, classes: Tensor) -> Tensor:
    """1 less the mean overlap of the classes that the picture has.

    Args:
        probabilities: (C, P) of each pixel.
        classes: (P,) of each pixel.
    """
    truth = torch.zeros_like(probabilities).scatter_(0, classes[None], 1.0)
    pixels = truth.sum(1)
    shared = (probabilities * truth).sum(1)
    sizes = probabilities.sum(1) + pixels
    present = pixels > 0
    overlap = 2 * shared[present] / sizes[present]
    return 1 - overlap.mean()


def balanced_weights(targets: StoredMasks, classes: int) -> Tensor:
    """The weight (C,) of a pixel of each class: the inverse of its share of the counted
    pixels, the mean pixel weighing 1.
    """
    counts = np.zeros(classes)
    for number in range(len(targets)):
        mask = targets[number : number + 1].load()
        counted = mask[mask != IGNORED]
        counts += np.bincount(counted, minlength=classes)[:classes]
    present = max(1, int((counts > 0).sum()))
    weights = counts.sum() / (present * np.maximum(counts, 1))
    return torch.from_numpy(weights).float()
