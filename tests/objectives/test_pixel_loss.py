"""The loss of a segmenter: what counts of a picture, and each picture alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from pipeline.objectives.pixel_loss import PixelLoss
from pipeline.objectives.pixel_targets import IGNORED

SIDE = 6
CLASSES = 3


class Given:
    """A network that answers what it is given."""

    def run(self, x: torch.Tensor, start: int) -> torch.Tensor:
        return x


def compute_loss(
    logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    network: Any = Given()
    return PixelLoss(weights)(network, logits, 0, masks)


def loss_by_definition(
    logits: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """Pixel by pixel: cross-entropy and soft Dice loss of one picture."""
    counted = mask != IGNORED
    rows = logits.permute(1, 2, 0)[counted]
    classes = mask[counted].long()
    probabilities = rows.softmax(1)
    overlaps = []
    for number in classes.unique().tolist():
        truth = (classes == number).float()
        shared = (probabilities[:, number] * truth).sum()
        sizes = probabilities[:, number].sum() + truth.sum()
        overlaps.append(2 * shared / sizes)
    entropy = functional.cross_entropy(rows, classes, weight=weights)
    return entropy + 1 - torch.stack(overlaps).mean()


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0])])
@pytest.mark.parametrize("ignored", [0, 7, SIDE * SIDE])
def test_the_loss_is_that_of_the_pixels_that_count(
    weights: torch.Tensor | None, ignored: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, CLASSES, SIDE, SIDE), generator=generator)
    # The last class is in neither picture.
    masks = torch.randint(0, CLASSES - 1, (2, SIDE, SIDE), generator=generator)
    masks[0].flatten()[:ignored] = IGNORED
    expected = loss_by_definition(logits[1], masks[1], weights)
    if ignored < SIDE * SIDE:
        expected = expected + loss_by_definition(logits[0], masks[0], weights)
    found = compute_loss(logits, masks.to(torch.uint8), weights)
    torch.testing.assert_close(found, expected)


def test_ignored_pixels_have_no_gradient() -> None:
    logits = torch.randn((1, CLASSES, SIDE, SIDE)).requires_grad_()
    masks = torch.zeros((1, SIDE, SIDE), dtype=torch.uint8)
    masks[0, 0] = IGNORED
    compute_loss(logits, masks, None).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad[0, :, 0].any()
    assert logits.grad[0, :, 1:].all()
