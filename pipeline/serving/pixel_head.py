"""The head of a segmenter: a decoder that goes from the coarsest feature map back to the finest.

The expanding path of a U-Net (Ronneberger, Fischer and Brox 2015): at each level the coarser map is doubled in size, put
beside the map of the body and convolved. Group normalisation (Wu and He 2018) has no statistics that move, so that small
batches and frozen stages need no care.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 8


class PixelHead(nn.Module):
    """Feature maps in, a logit of each class for each pixel out.

    Args:
        classes: number of classes.
        design: `side` of the input in pixels; `maps`, each with its `channels`, from fine to coarse; `widths`: channels of
            the decoder at each of them.
    """

    def __init__(self, classes: int, design: Mapping[str, Any]) -> None:
        super().__init__()
        self.side = int(design["side"])
        channels = [int(one["channels"]) for one in design["maps"]]
        widths = [int(width) for width in design["widths"]]
        self.bottom = _convolve(channels[-1], widths[-1])
        self.levels = nn.ModuleList()
        for level in reversed(range(len(channels) - 1)):
            self.levels.append(_convolve(widths[level + 1] + channels[level], widths[level]))
        self.classifier = nn.Conv2d(widths[0], classes, 1)

    class_rows: ClassVar[dict[str, tuple[int, int]]] = {
        "classifier.weight": (0, 1),
        "classifier.bias": (0, 1),
    }  # as in `box_head`

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (N, classes, S, S) from maps (N, C, H, W), fine to coarse."""
        values = self.bottom(maps[-1])
        for level, beside in zip(self.levels, reversed(maps[:-1]), strict=True):
            larger = functional.interpolate(values, size=beside.shape[-2:], mode="nearest")
            values = level(torch.cat([larger, beside.to(larger.dtype)], dim=1))
        logits = self.classifier(values)
        size = (self.side, self.side)
        return functional.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


def _convolve(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, outputs),
        nn.ReLU(inplace=True),
    )
