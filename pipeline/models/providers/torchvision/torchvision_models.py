"""torchvision's own networks: which there are, and how one is built without touching the global random state."""

from __future__ import annotations

import difflib
import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.errors import ConfigError
from pipeline.models import weights


@lru_cache(maxsize=1)
def architectures() -> tuple[str, ...]:
    """The classifiers torchvision offers."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


def check(architecture: str) -> str:
    """The architecture itself, if torchvision has it.

    Raises:
        ConfigError: it has not; the nearest names are given.
    """
    known = architectures()
    if architecture in known:
        return architecture
    near = difflib.get_close_matches(architecture, known, 3)
    raise ConfigError(
        f"backbone.name: torchvision/{architecture}",
        found="no classifier of that name in torchvision",
        expected="did you mean " + " or ".join(near) + "?" if near else "one of " + ", ".join(known),
    )


def stock_kwargs(architecture: str, size: int | None = None) -> dict[str, Any]:
    """What `torchvision.models.get_model` needs beside the architecture and the number of classes.

    Args:
        architecture: torchvision's name.
        size: input side in pixels, which shapes vision transformers and MaxViT; None: torchvision's default.
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


def without_discarded(architecture: str, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict without GoogLeNet's auxiliary classifiers: torchvision's published ones are untrained."""
    if architecture != "googlenet":
        return state
    return {key: value for key, value in state.items() if not key.startswith(("aux1.", "aux2."))}


def normalisation(architecture: str) -> dict[str, tuple[float, float, float]] | None:
    """The mean and std of the networks whose published weights torchvision feeds otherwise than it says.

    Inception v3 and GoogLeNet came from TensorFlow, with inputs in [-1, 1]; torchvision converts to that inside
    the network (`transform_input`), where Thaw normalises so from the start.
    """
    if architecture not in ("inception_v3", "googlenet"):
        return None
    return {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def construct(
    architecture: str, classes: int, kwargs: dict[str, Any], *, meta: bool = False, seed: int = 0
) -> nn.Module:
    """The stock network with `classes` outputs.

    Args:
        meta: shapes without memory; only constant buffers hold values.
        seed: of the random weights otherwise, which torchvision initialises in the manner of each paper.

    Raises:
        ConfigError: there is no such architecture, or it cannot be built for that size.
    """
    if "init_weights" in kwargs:
        kwargs = {**kwargs, "init_weights": not meta}
    try:
        with seeded(seed), _Shapes() if meta else _nothing():
            network: nn.Module = torchvision.models.get_model(
                check(architecture), weights=None, num_classes=classes, **kwargs
            )
    except (AssertionError, ValueError) as fault:
        raise ConfigError(
            f"backbone.size, for torchvision/{architecture}", found=str(fault).splitlines()[0],
            expected="a size that its patches and windows divide", hint="set it to a multiple of 224, or to null",
        ) from fault  # fmt: skip
    return network


def fill(network: nn.Module, state: Mapping[str, Tensor], subject: str) -> None:
    """Gives a network, which may be on the meta device, exactly these weights, as copies.

    Raises:
        BackboneError: a name is missing, unexpected or of another shape; all kinds are listed.
    """
    weights.fill(network, _with_current_names(state), subject)


# DenseNet files from before layer names had to be free of dots.
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def _with_current_names(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    renamed = OrderedDict((_DENSENET.sub(r"\1\2", name), value) for name, value in state.items())
    return weights.with_versions(renamed, state)


def image_side(state: Mapping[str, Tensor]) -> int | None:
    """The input side in pixels that a vision transformer's positions fit; None for other networks."""
    if "encoder.pos_embedding" not in state or "conv_proj.weight" not in state:
        return None
    patches = state["encoder.pos_embedding"].shape[1] - 1
    return math.isqrt(patches) * int(state["conv_proj.weight"].shape[-1])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws from the CPU's global generator start at `seed` inside and leave no trace outside."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield


_ALLOCATE = (torch.empty, torch.zeros, torch.ones)
_RANDOM = (torch.Tensor.normal_, torch.Tensor.uniform_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_)


class _Shapes(TorchFunctionMode):
    """Puts what layers allocate on the meta device, and draws no random numbers for it.

    `torch.device("meta")` would also take the small tensors that RegNet's constructor computes its widths with,
    and those must hold values.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        if func in _ALLOCATE and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@lru_cache(maxsize=128)
def class_dependent(architecture: str) -> frozenset[str]:
    """The state dict's keys whose shape follows from the number of classes: what a new head replaces."""
    kwargs = stock_kwargs(architecture)
    two, three = (construct(architecture, n, kwargs, meta=True).state_dict() for n in (2, 3))
    return frozenset(key for key in two if two[key].shape != three[key].shape)
