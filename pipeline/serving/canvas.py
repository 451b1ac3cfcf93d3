"""The square that a network is shown instead of a picture, and the way back from it to
the picture's own pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray


class Canvas(NamedTuple):
    """How a picture lies on its square: x ↦ scale_x · x + left, y ↦ scale_y · y + top.

    Args:
        scale_x, scale_y: pixels of the square for a pixel of the picture.
        left, top: where the picture begins, in pixels of the square.
        width, height: what the picture takes, in pixels of the square.
    """

    scale_x: float
    scale_y: float
    left: int
    top: int
    width: int
    height: int


def place(width: int, height: int, side: int, fit: str) -> Canvas:
    """Where a picture of `width` × `height` pixels lies on a square of `side` × `side`
    pixels.

    It is what `image_pixels.to_square` does to the pixels.

    Args:
        fit: "squash" changes the ratio of the sides, "pad" shows the whole picture in
            the middle of the background.
    """
    if fit == "squash":
        return Canvas(side / width, side / height, 0, 0, side, side)
    scale = side / max(width, height)
    shown_width = max(1, round(width * scale))
    shown_height = max(1, round(height * scale))
    left = (side - shown_width) // 2
    top = (side - shown_height) // 2
    return Canvas(
        shown_width / width, shown_height / height, left, top, shown_width, shown_height
    )


def lift(
    answer: NDArray[np.float64], width: int, height: int, side: int, fit: str
) -> NDArray[np.float64]:
    """Answered boxes on the square in pixels of the picture, cut off at its edges.

    Args:
        answer: (K, 6): left, top, right, bottom, score, class.
    """
    laid = place(width, height, side, fit)
    across = (answer[:, [0, 2]] - laid.left) / laid.scale_x
    down = (answer[:, [1, 3]] - laid.top) / laid.scale_y
    lifted = answer.copy()
    lifted[:, [0, 2]] = across.clip(0, width)
    lifted[:, [1, 3]] = down.clip(0, height)
    return lifted


def lift_logits(
    logits: torch.Tensor, width: int, height: int, side: int, fit: str
) -> NDArray[np.uint8]:
    """The likeliest class (height, width) of each pixel of the picture.

    Args:
        logits: (C, side, side) on the square.
    """
    enlarged = enlarge_logits(logits, width, height, side, fit)
    answer = enlarged.argmax(dim=0).to(torch.uint8)
    classes: NDArray[np.uint8] = answer.cpu().numpy()
    return classes


def enlarge_logits(
    logits: torch.Tensor, width: int, height: int, side: int, fit: str
) -> torch.Tensor:
    """Logits (C, height, width) of the picture's pixels.

    Args:
        logits: (C, side, side) on the square.
    """
    laid = place(width, height, side, fit)
    shown = logits[
        None, :, laid.top : laid.top + laid.height, laid.left : laid.left + laid.width
    ].float()
    size = (height, width)
    return torch.nn.functional.interpolate(
        shown, size=size, mode="bilinear", align_corners=False
    )[0]
