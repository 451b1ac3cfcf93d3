"""torchvision's own networks: which there are, and how one is built without touching
the global random state.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.errors import ConfigError
from pipeline.models import weights
from pipeline.models.providers.torchvision.whole_networks import Kind


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, of values in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@lru_cache(maxsize=1)
def list_architectures() -> tuple[str, ...]:
    """The classifiers torchvision offers."""
    names = torchvision.models.list_models(module=torchvision.models)
    return tuple(names)


def check_architecture(architecture: str) -> str:
    """The architecture itself, if torchvision has it.

    Raises:
        ConfigError: it has not; the nearest names are given.
    """
    known = list_architectures()
    if architecture in known:
        return architecture
    _refuse_whole_network(architecture)
    near = difflib.get_close_matches(architecture, known, 3)
    expected = "one of " + ", ".join(known)
    if near:
        expected = "did you mean " + " or ".join(near) + "?"
    raise ConfigError(
        f"backbone.name: torchvision/{architecture}",
        found="no classifier of that name in torchvision",
        expected=expected,
    )


def find_kind(architecture: str) -> Kind | None:
    """Whether it is one of torchvision's detectors or segmenters, used here or not;
    None where it is neither.
    """
    kinds: dict[Kind, Any] = {
        "detector": torchvision.models.detection,
        "segmenter": torchvision.models.segmentation,
    }
    for kind, module in kinds.items():
        if architecture in torchvision.models.list_models(module=module):
            return kind
    return None


def _refuse_whole_network(architecture: str) -> None:
    """Says of torchvision's detectors and segmenters what they are, instead of listing
    what resembles their names.
    """
    kind = find_kind(architecture)
    if kind is None:
        return
    raise ConfigError(
        f"backbone.name: torchvision/{architecture}",
        found=f"a {kind} of torchvision",
        expected="a classifier of torchvision",
        hint="choose one, such as torchvision/resnet50 or torchvision/mobilenet_v3_large",
    )


def find_stock_kwargs(architecture: str, size: int | None = None) -> dict[str, Any]:
    """What `torchvision.models.get_model` needs beside the architecture and the number
    of classes.

    Args:
        architecture: torchvision's name.
        size: input side in pixels, which shapes vision transformers and MaxViT; None:
            torchvision's default.
    """
    if architecture == "inception_v3":
        return {"aux_logits": True, "init_weights": False, "transform_input": False}
    if architecture == "googlenet":
        return {"aux_logits": False, "init_weights": False, "transform_input": False}
    if size is not None and architecture.startswith("vit_"):
        return {"image_size": size}
    if size is not None and architecture.startswith("maxvit_"):
        return {"input_size": [size, size]}
    return {}


def remove_untrained_heads(
    architecture: str, state: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """A state dict without GoogLeNet's auxiliary classifiers: torchvision's published
    ones are untrained.
    """
    if architecture != "googlenet":
        return state
    return {
        name: value
        for name, value in state.items()
        if not name.startswith(("aux1.", "aux2."))
    }


def find_normalisation(architecture: str) -> Normalisation | None:
    """The normalisation of the networks whose published weights torchvision feeds
    otherwise than it says.

    Inception v3 and GoogLeNet came from TensorFlow, with inputs in [-1, 1]; torchvision
    converts to that inside the network (`transform_input`), where Thaw normalises so
    from the start.
    """
    if architecture not in ("inception_v3", "googlenet"):
        return None
    return Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def build_stock(
    architecture: str,
    classes: int,
    stock_kwargs: dict[str, Any],
    *,
    meta: bool = False,
    seed: int = 0,
) -> nn.Module:
    """The stock network with `classes` outputs.

    Args:
        stock_kwargs: as `find_stock_kwargs` gives them.
        meta: shapes without memory; only constant buffers hold values.
        seed: of the random weights otherwise, which torchvision initialises in the
            manner of each paper.

    Raises:
        ConfigError: there is no such architecture, or it cannot be built for that size.
    """
    check_architecture(architecture)
    kwargs = dict(stock_kwargs)
    if "init_weights" in kwargs:
        kwargs["init_weights"] = not meta
    allocation = ShapesOnly() if meta else nullcontext()
    try:
        with seed_generator(seed), allocation:
            network: nn.Module = torchvision.models.get_model(
                architecture, weights=None, num_classes=classes, **kwargs
            )
    except (AssertionError, ValueError) as fault:
        lines = str(fault).splitlines()
        raise ConfigError(
            f"backbone.size, for torchvision/{architecture}",
            found=lines[0],
            expected="a size that its patches and windows divide",
            hint="set it to a multiple of 224, or to null",
        ) from fault
    return network


def fill_network(network: nn.Module, state: Mapping[str, Tensor], subject: str) -> None:
    """Gives a network, which may be on the meta device, exactly these weights, as
    copies.

    Args:
        subject: where the weights are from, for the message.

    Raises:
        BackboneError: a name is missing, unexpected or of another shape; all kinds are
            listed.
    """
    weights.fill_network(network, _rename_old_layers(state), subject)


# DenseNet files from before layer names had to be free of dots.
_OLD_DENSENET_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def _rename_old_layers(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    renamed = OrderedDict()
    for name, value in state.items():
        current_name = _OLD_DENSENET_NAME.sub(r"\1\2", name)
        renamed[current_name] = value
    return weights.keep_versions(renamed, state)


def find_image_side(state: Mapping[str, Tensor]) -> int | None:
    """The input side in pixels that a vision transformer's positions fit; None for
    other networks.
    """
    if "encoder.pos_embedding" not in state or "conv_proj.weight" not in state:
        return None
    class_tokens = 1
    patches = state["encoder.pos_embedding"].shape[1] - class_tokens
    patch_side = int(state["conv_proj.weight"].shape[-1])
    return math.isqrt(patches) * patch_side


@contextmanager
def seed_generator(seed: int) -> Iterator[None]:
    """Draws from the CPU's global generator start at `seed` inside and leave no trace
    outside.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


_ALLOCATE = (torch.empty, torch.zeros, torch.ones)
_RANDOM = (
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    nn.init.kaiming_uniform_,
    nn.init.kaiming_normal_,
)


class ShapesOnly(TorchFunctionMode):
    """Puts what layers allocate on the meta device, and draws no random numbers for it.

    `torch.device("meta")` would also take the small tensors that RegNet's constructor
    computes its widths with, and those must hold values.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        if func in _ALLOCATE and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@lru_cache(maxsize=128)
def class_dependent_names(architecture: str) -> frozenset[str]:
    """The state dict's names whose shape follows from the number of classes: what a new
    head replaces.
    """
    stock_kwargs = find_stock_kwargs(architecture)
    of_two = build_stock(architecture, 2, stock_kwargs, meta=True).state_dict()
    of_three = build_stock(architecture, 3, stock_kwargs, meta=True).state_dict()
    names = []
    for name, tensor in of_two.items():
        if tensor.shape != of_three[name].shape:
            names.append(name)
    return frozenset(names)
