"""A detector's loss: each picture's own, finite whatever the truth is, and blind to
what does not count.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dense_networks import SIDE, detector
from pipeline.objectives.box_loss import BoxLoss
from pipeline.objectives.box_targets import BoxTargets, PictureBoxes

LOSS = BoxLoss()


def picture(
    *boxes: tuple[float, float, float, float], ignored: bool = False, seed: int = 0
) -> PictureBoxes:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(corners), np.int64)
    return PictureBoxes(
        corners, labels, np.full(len(corners), ignored), SIDE, SIDE, seed
    )


def pixels(count: int) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_a_batch_costs_what_its_pictures_cost_alone() -> None:
    network = detector("mobilenet_v2")
    x = pixels(3)
    targets = BoxTargets(
        [
            picture((4, 4, 30, 30), seed=1),
            picture(seed=2),
            picture((10, 20, 60, 50), seed=3),
        ]
    )
    with torch.no_grad():
        together = LOSS(network, x, 0, targets)
        alone = [
            LOSS(network, x[row : row + 1], 0, targets[row : row + 1])
            for row in range(3)
        ]
    assert LOSS.total_weight(targets) == 3
    assert together.item() == pytest.approx(sum(one.item() for one in alone), rel=1e-4)


def test_the_global_generator_changes_nothing() -> None:
    network = detector("mobilenet_v2")
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            losses.append(
                LOSS(
                    network, pixels(1), 0, BoxTargets([picture((4, 4, 30, 30))])
                ).item()
            )
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "truth", [picture(), picture((0, 0, SIDE, SIDE), ignored=True)]
)
def test_a_picture_without_an_object_that_counts_has_a_finite_loss_and_gradient(
    truth: PictureBoxes,
) -> None:
    network = detector("mobilenet_v2")
    LOSS(network, pixels(1), 0, BoxTargets([truth])).backward()
    for name, parameter in network.stock.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_what_lies_on_an_ignored_object_is_no_background() -> None:
    network = detector("mobilenet_v2")
    x = pixels(1)
    with torch.no_grad():
        empty = LOSS(network, x, 0, BoxTargets([picture()])).item()
        covered = LOSS(
            network, x, 0, BoxTargets([picture((0, 0, SIDE, SIDE), ignored=True)])
        ).item()
    assert covered < empty / 2
