"""torchvision's classifiers as bodies of other networks: their feature maps, one for
each resolution.

Which layers give them is not listed but tried: the classifier's own forward is walked
through without memory, and of each resolution the last map is taken, so that any
convolutional network of the library, and Swin, can be a body.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.network import Block
from pipeline.models.providers.torchvision import blocks
from pipeline.models.providers.torchvision.forward_steps import Step

FEWEST_MAPS = 2


class FeatureMap(NamedTuple):
    """One of a body's maps.

    Args:
        path: of the module in the classifier that gives it.
        channels: how many it has.
        stride: pixels of the input for one of the map, a power of two.
        channels_last: whether it is (N, H, W, C) instead of (N, C, H, W).
    """

    path: str
    channels: int
    stride: int
    channels_last: bool


class MappedStep(NamedTuple):
    """A step of the body's forward, and the map that it gives, if it is one of the
    maps.
    """

    step: Step
    map: FeatureMap | None


def find_maps(classifier: nn.Module, side: int) -> list[FeatureMap]:
    """The last map of each resolution, from fine to coarse.

    Args:
        classifier: one without memory.
        side: of the input, in pixels.
    """
    last: dict[int, FeatureMap] = {}
    for step, shape in _walk(classifier, side):
        feature_map = _read_map(step, shape, side)
        if feature_map is not None:
            last[feature_map.stride] = feature_map
    return [last[stride] for stride in sorted(last)]


def choose_maps(
    architecture: str, classifier: nn.Module, side: int, strides: Sequence[int]
) -> list[FeatureMap]:
    """The maps of these strides, or those of them that there are.

    Raises:
        ConfigError: the architecture has fewer than two of them.
    """
    all_maps = find_maps(classifier, side)
    chosen = [feature_map for feature_map in all_maps if feature_map.stride in strides]
    if len(chosen) < FEWEST_MAPS:
        had = ", ".join(str(feature_map.stride) for feature_map in all_maps) or "none"
        wanted = ", ".join(str(stride) for stride in strides)
        raise ConfigError(
            f"backbone.name: torchvision/{architecture}",
            found=f"feature maps at strides {had}",
            expected=f"maps at two or more of the strides {wanted}",
            hint="choose a convolutional network, such as torchvision/resnet50 or torchvision/mobilenet_v2, or Swin",
        )
    return chosen


def read_maps(
    architecture: str, classifier: nn.Module, side: int, paths: Sequence[str]
) -> list[FeatureMap]:
    """The maps that these layers give.

    Args:
        architecture: what reads them, for the message.
        classifier: one without memory.
        side: of the input, in pixels.
        paths: of the layers, in the order in which they are computed.

    Raises:
        ConfigError: the input is so small that there is a point instead of a map.
    """
    by_step: dict[str, FeatureMap] = {}
    for step, shape in _walk(classifier, side):
        feature_map = _read_map(step, shape, side)
        if feature_map is not None:
            by_step[step.name] = feature_map
    if any(path not in by_step for path in paths):
        raise ConfigError(
            "task.input.size",
            found=f"{side} pixels, of which torchvision/{architecture} makes a single point",
            expected="maps of two or more points a side",
            hint="a larger task.input.size, such as 256",
        )
    return [by_step[path] for path in paths]


class BodyBlock(Block):
    """A block of a body: like the classifier's, and giving maps on the way.

    Args:
        steps: of the block, each with the map that it gives, if any.
        stock: the whole network.
        prefix: of the classifier's paths in it.
    """

    def __init__(
        self, name: str, steps: Sequence[MappedStep], stock: nn.Module, prefix: str
    ) -> None:
        owns: list[str] = []
        for mapped in steps:
            owns.extend(prefix + path for path in mapped.step.owns)
        super().__init__(name, stock, owns)
        self.steps = list(steps)

    @property
    def ends_in_map(self) -> bool:
        """Whether what the block gives is a map itself."""
        return self.steps[-1].map is not None


def split_body(
    classifier: nn.Module, maps: Sequence[FeatureMap], stock: nn.Module, prefix: str
) -> list[BodyBlock]:
    """The body's blocks: those of the classifier, up to the last map. What lies behind
    is taken out of the classifier.

    Args:
        stock: the whole network, which holds the classifier.
        prefix: what stands before the paths of the classifier's modules in the whole
            network.
    """
    by_path = {feature_map.path: feature_map for feature_map in maps}
    last = maps[-1].path
    body_blocks: list[BodyBlock] = []
    is_behind = False
    for block in blocks.split_into_blocks(classifier):
        steps: list[MappedStep] = []
        for step in block.steps:
            if is_behind:
                _take_out(classifier, step)
            else:
                steps.append(MappedStep(step, by_path.get(step.name)))
                is_behind = step.name == last
        if steps:
            body_blocks.append(BodyBlock(block.name, steps, stock, prefix))
    return body_blocks


def _take_out(classifier: nn.Module, step: Step) -> None:
    for path in step.owns:
        parent, _, name = path.rpartition(".")
        setattr(classifier.get_submodule(parent), name, nn.Identity())


def _walk(classifier: nn.Module, side: int) -> list[tuple[Step, tuple[int, ...]]]:
    """The steps before the head, with the shape that each gives."""
    shapes: list[tuple[Step, tuple[int, ...]]] = []
    values: Tensor = torch.empty(1, 3, side, side, device="meta")
    body = blocks.split_into_blocks(classifier)[:-1]
    with torch.no_grad():
        for block in body:
            for step in block.steps:
                if isinstance(step.call, nn.AdaptiveAvgPool2d):
                    # What comes behind reads one size whatever the input's.
                    return shapes
                values = step.call(values)
                shapes.append((step, tuple(values.shape)))
    return shapes


def _read_map(step: Step, shape: Sequence[int], side: int) -> FeatureMap | None:
    """The map that a step gives; None where its output is none, or that of a function
    or a pooling to a point.
    """
    if len(shape) != 4 or not isinstance(step.call, nn.Module):
        return None
    _, second, third, fourth = shape
    channels_last = second == third != fourth
    channels = fourth if channels_last else second
    length = second if channels_last else fourth
    if length < 2:
        return None
    stride = 2 ** round(math.log2(side / length))
    return FeatureMap(step.name, channels, stride, channels_last)
