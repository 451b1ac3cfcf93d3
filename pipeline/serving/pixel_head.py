"""The heads of segmenters.

`PixelHead`, a decoder that goes from the coarsest feature map back to the finest: the
expanding path of a U-Net (Ronneberger, Fischer and Brox 2015). At each level the
coarser map is doubled in size, put beside the map of the body and convolved. Group
normalisation (Wu and He 2018) has no statistics that move, so that small batches and
frozen stages need no care.

`PublishedPixelHead`, one of torchvision's own, which its published weights fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead

GROUPS = 8
LRASPP_CHANNELS = 128  # between its two layers, as in torchvision's builder


def build_head(
    classes: int, design: Mapping[str, Any]
) -> PixelHead | PublishedPixelHead:
    """The head that a design asks for: torchvision's where it has `head`, else the
    decoder.
    """
    if "head" in design:
        return PublishedPixelHead(classes, design)
    return PixelHead(classes, design)


class PixelHead(nn.Module):
    """Feature maps in, a logit of each class for each pixel out.

    Args:
        classes: number of classes.
        design: `side` of the input in pixels; `maps`, each with its `channels`, from
            fine to coarse; `widths`: channels of the decoder at each of them.
    """

    def __init__(self, classes: int, design: Mapping[str, Any]) -> None:
        super().__init__()
        self.side = int(design["side"])
        channels = [int(feature_map["channels"]) for feature_map in design["maps"]]
        widths = [int(width) for width in design["widths"]]
        self.bottom = _convolve(channels[-1], widths[-1])
        self.levels = nn.ModuleList()
        for level in reversed(range(len(channels) - 1)):
            joined = widths[level + 1] + channels[level]
            self.levels.append(_convolve(joined, widths[level]))
        self.classifier = nn.Conv2d(widths[0], classes, 1)

    class_rows: ClassVar[dict[str, tuple[int, int]]] = {
        "classifier.weight": (0, 1),
        "classifier.bias": (0, 1),
    }  # as in `box_head`

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (N, classes, S, S) from maps (N, C, H, W), fine to coarse."""
        values = self.bottom(maps[-1])
        for level, beside in zip(self.levels, reversed(maps[:-1]), strict=True):
            larger = functional.interpolate(
                values, size=beside.shape[-2:], mode="nearest"
            )
            values = level(torch.cat([larger, beside.to(larger.dtype)], dim=1))
        logits = self.classifier(values)
        size = (self.side, self.side)
        return functional.interpolate(
            logits.float(), size=size, mode="bilinear", align_corners=False
        )


def _convolve(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, outputs),
        nn.ReLU(inplace=True),
    )


class PublishedPixelHead(nn.Module):
    """A head of torchvision's segmenters: feature maps in, a logit of each class for
    each pixel out.

    Fully convolutional (`fcn`: Long, Shelhamer and Darrell 2015), with pyramid pooling
    by dilation (`deeplab`: Chen et al. 2017), or light with a gate (`lraspp`: Howard et
    al. 2019, section 6.4). The first two have a dropout.

    Args:
        classes: number of classes.
        design: `side` of the input in pixels; `maps`, each with its `channels`, two for
            `lraspp` and else one; `head`.
    """

    def __init__(self, classes: int, design: Mapping[str, Any]) -> None:
        super().__init__()
        self.side = int(design["side"])
        self.kind = str(design["head"])
        channels = [int(feature_map["channels"]) for feature_map in design["maps"]]
        self.classifier: nn.Module
        if self.kind == "lraspp":
            low, high = channels
            self.classifier = LRASPPHead(low, high, classes, LRASPP_CHANNELS)
        elif self.kind == "deeplab":
            self.classifier = _build_deeplab(channels[0], classes)
        else:
            self.classifier = FCNHead(channels[0], classes)
        last_layers = (
            ["low_classifier", "high_classifier"] if self.kind == "lraspp" else ["4"]
        )
        self.class_rows: dict[str, tuple[int, int]] = {}  # as in `box_head`
        for layer in last_layers:
            self.class_rows[f"classifier.{layer}.weight"] = (0, 1)
            self.class_rows[f"classifier.{layer}.bias"] = (0, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (N, classes, S, S) from maps (N, C, H, W), fine to coarse."""
        if self.kind == "lraspp":
            low, high = maps
            logits = self.classifier({"low": low, "high": high})
        else:
            logits = self.classifier(maps[0])
        size = (self.side, self.side)
        return functional.interpolate(
            logits.float(), size=size, mode="bilinear", align_corners=False
        )


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch normalisation behind a pooling to a point.

    A batch of one picture then has one value for each channel and no variance: it is
    normalised by the running statistics, in training too, where PyTorch stops with an
    error.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, 1, 1) to the same shape."""
        if self.training and x.numel() == self.num_features:
            return functional.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=False,
                eps=self.eps,
            )
        return super().forward(x)


def _build_deeplab(channels: int, classes: int) -> nn.Module:
    """torchvision's head, with the normalisation behind the pooling to a point
    replaced.
    """
    head: nn.Module = DeepLabHead(channels, classes)
    layers: Any = head
    pooling = layers[0].convs[-1]
    pooling[2] = PooledBatchNorm(pooling[2].num_features)
    return head
