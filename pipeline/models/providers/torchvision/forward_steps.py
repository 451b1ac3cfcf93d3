"""How each of torchvision's networks runs from input to output, as a list of entries.

An entry is the path of a module (`avgpool`), a path with a star (`features*`: the
module's members in order, and theirs where a member is itself a list of units), a plain
function, or a `BoundStep`, a function that reads parameters of the network itself.
Running the entries in order is the network's own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.densenet import _DenseBlock
from torchvision.models.maxvit import MaxVitBlock
from torchvision.models.regnet import AnyStage

from pipeline.errors import ConfigError

Call = Callable[[Tensor], Tensor]


class BoundStep(NamedTuple):
    """A function of the whole network and its input, with the paths of the modules and
    parameters it owns.
    """

    function: Callable[[Any, Tensor], Tensor]
    owns: tuple[str, ...]


class Step(NamedTuple):
    """One thing that happens to the activations."""

    name: str  # path of the module; empty for a function
    call: Call
    owns: tuple[str, ...] = ()


def _flatten(x: Tensor) -> Tensor:
    return torch.flatten(x, 1)


def _average_pool(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, (1, 1))


def _average_pixels(x: Tensor) -> Tensor:
    return x.mean([2, 3])


def _relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


def _check_side(x: Tensor, side: int) -> None:
    if x.shape[-2:] != (side, side):
        raise ConfigError(
            "task.input.size",
            found=f"{x.shape[-2]} × {x.shape[-1]} pixels",
            expected=f"{side} × {side} pixels",
            hint="this transformer fits one size: set task.input.size to it, or to auto",
        )


def _check_input_side(maxvit: Any, x: Tensor) -> Tensor:
    """MaxViT divides the grid it was built for; of another size it would fail within."""
    _check_side(x, 4 * maxvit.blocks[0].grid_size[0])
    return x


def _embed_patches(vit: Any, x: Tensor) -> Tensor:
    """Patches, class token and positions: (N, 3, S, S) → (N, patches + 1, width)."""
    _check_side(x, vit.image_size)
    projected = vit.conv_proj(x)
    patches = projected.flatten(2).transpose(1, 2)
    class_tokens = vit.class_token.expand(len(x), -1, -1)
    tokens = torch.cat([class_tokens, patches], dim=1)
    positioned: Tensor = tokens + vit.encoder.pos_embedding
    return positioned


def _take_class_token(x: Tensor) -> Tensor:
    return x[:, 0]


def _append_features(layer: nn.Module, x: Tensor) -> Tensor:
    """A DenseNet layer appends its features to all earlier ones."""
    # A list, since asking for a tensor's type cannot be traced.
    grown: Tensor = torch.cat([x, layer([x])], 1)
    return grown


_CONVOLUTIONAL = ("features*", "avgpool", _flatten, "classifier*")
_GOOGLENET = (
    "conv1",
    "maxpool1",
    "conv2",
    "conv3",
    "maxpool2",
    "inception3a",
    "inception3b",
    "maxpool3",
    "inception4a",
    "inception4b",
    "inception4c",
    "inception4d",
    "inception4e",
    "maxpool4",
    "inception5a",
    "inception5b",
    "avgpool",
)
_INCEPTION = (
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "maxpool1",
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
    "maxpool2",
    "Mixed_5b",
    "Mixed_5c",
    "Mixed_5d",
    "Mixed_6a",
    "Mixed_6b",
    "Mixed_6c",
    "Mixed_6d",
    "Mixed_6e",
    "Mixed_7a",
    "Mixed_7b",
    "Mixed_7c",
    "avgpool",
)
_TOKENS = BoundStep(
    _embed_patches, ("conv_proj", "class_token", "encoder.pos_embedding")
)

ForwardEntry = str | Call | BoundStep
FORWARD: dict[str, tuple[ForwardEntry, ...]] = {
    "AlexNet": _CONVOLUTIONAL,
    "VGG": _CONVOLUTIONAL,
    "MobileNetV2": ("features*", _average_pool, _flatten, "classifier*"),
    "MobileNetV3": _CONVOLUTIONAL,
    "EfficientNet": _CONVOLUTIONAL,
    "ConvNeXt": ("features*", "avgpool", "classifier*"),
    "DenseNet": ("features*", _relu, _average_pool, _flatten, "classifier"),
    "SqueezeNet": ("features*", "classifier*", _flatten),
    "MNASNet": ("layers*", _average_pixels, "classifier*"),
    "ShuffleNetV2": (
        "conv1",
        "maxpool",
        "stage2*",
        "stage3*",
        "stage4*",
        "conv5",
        _average_pixels,
        "fc",
    ),
    "ResNet": (
        "conv1",
        "bn1",
        "relu",
        "maxpool",
        "layer1*",
        "layer2*",
        "layer3*",
        "layer4*",
        "avgpool",
        _flatten,
        "fc",
    ),
    "RegNet": ("stem", "trunk_output*", "avgpool", _flatten, "fc"),
    "GoogLeNet": (*_GOOGLENET, _flatten, "dropout", "fc"),
    "Inception3": (*_INCEPTION, "dropout", _flatten, "fc"),
    "SwinTransformer": ("features*", "norm", "permute", "avgpool", "flatten", "head"),
    "VisionTransformer": (
        _TOKENS,
        "encoder.dropout",
        "encoder.layers*",
        "encoder.ln",
        _take_class_token,
        "heads*",
    ),
    "MaxVit": (BoundStep(_check_input_side, ()), "stem*", "blocks*", "classifier*"),
}


class AuxiliaryHead(NamedTuple):
    """A second classifier, on the output of a block within the network, whose loss
    helps in training.
    """

    after: str  # the block whose output it reads
    path: str
    weight: float  # of its loss
    side: int  # the smallest output it can read, in pixels


# Szegedy et al. 2016, "Rethinking the Inception Architecture", section 4; the weight is
# the customary one. GoogLeNet's are left out: torchvision's published ones are
# untrained.
AUXILIARY = {"Inception3": AuxiliaryHead("Mixed_6e", "AuxLogits", 0.4, 17)}

_UNIT_LISTS = (nn.Sequential, nn.ModuleList, AnyStage, MaxVitBlock, _DenseBlock)


def list_steps(stock: nn.Module) -> Iterator[Step]:
    """The network's forward, step by step."""
    for entry in FORWARD[type(stock).__name__]:
        if isinstance(entry, BoundStep):
            name = entry.owns[0] if entry.owns else ""
            yield Step(name, partial(entry.function, stock), entry.owns)
        elif not isinstance(entry, str):
            yield Step("", entry)
        elif entry.endswith("*"):
            path = entry.removesuffix("*")
            yield from _list_units(path, stock.get_submodule(path))
        else:
            yield Step(entry, stock.get_submodule(entry), (entry,))


def _list_units(path: str, container: nn.Module) -> Iterator[Step]:
    for name, child in container.named_children():
        child_path = f"{path}.{name}"
        if _is_list_of_units(child):
            yield from _list_units(child_path, child)
        elif isinstance(container, _DenseBlock):
            yield Step(child_path, partial(_append_features, child), (child_path,))
        else:
            yield Step(child_path, child, (child_path,))


def _is_list_of_units(module: nn.Module) -> bool:
    """A convolution with its norm and activation is one unit, though torchvision makes
    it a Sequential.
    """
    if type(module) not in _UNIT_LISTS:
        return False
    return any(_has_children(child) for child in module.children())


def _has_children(module: nn.Module) -> bool:
    first_child = next(module.children(), None)
    return first_child is not None
