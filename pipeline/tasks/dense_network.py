"""A classifier's body under a head that answers for places of a picture: shared by detection and segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.config import BackboneConfig
    from pipeline.models.providers.torchvision.dense_network import DenseNetwork
    from pipeline.records import BackboneRecord, CandidateRecord, InputSpec


class HeadKind(NamedTuple):
    """What differs between heads.

    Args:
        make: from classes and design to the head.
        find_answer: from the head to what makes the network's output of the maps.
    """

    make: Callable[[int, Mapping[str, Any]], nn.Module]
    find_answer: Callable[[nn.Module], Callable[[Sequence[Tensor]], Tensor]]


def check_body(backbone: BackboneConfig, side: int, strides: Sequence[int]) -> str:
    """The strides of the maps that a body has, in words; no weights are read.

    Args:
        side: of the canvas, in pixels.
        strides: those that the head can read.

    Raises:
        ConfigError: the backbone is no network for pictures, or has no such maps.
    """
    from pipeline.models.providers.torchvision import backbones, dense_network

    _require_torchvision(backbone.name)
    design = dense_network.find_design(backbones.find_architecture(backbone), side, strides)
    there = [str(one["stride"]) for one in design["maps"]]
    return "feature maps at strides " + ", ".join(there)


def find_body_design(backbone: BackboneRecord, spec: InputSpec, strides: Sequence[int]) -> dict[str, Any]:
    """What rebuilds the body; see `pipeline.models.providers.torchvision.dense_network.find_design`.

    Raises:
        ConfigError: the backbone is no network for pictures, or has no such maps.
    """
    from pipeline.models.providers.torchvision import dense_network
    from pipeline.records import image_spec

    _require_torchvision(backbone.name)
    return dense_network.find_design(backbone.architecture, image_spec(spec).size, strides)


def _require_torchvision(name: str) -> None:
    provider, _, _ = name.partition("/")
    if provider != "torchvision":
        raise ConfigError(
            "backbone.name",
            found=name,
            expected="a network of torchvision",
            hint="choose one, such as torchvision/resnet50",
        )


def build(
    kind: HeadKind, backbone: BackboneRecord, classes: int, design: Mapping[str, Any], *, pretrained: bool, seed: int
) -> DenseNetwork:
    """The body with the backbone's weights, or random ones, and a new head."""
    from pipeline.models.providers.torchvision import dense_network

    network = dense_network.build_network(design, classes, kind.make, kind.find_answer, seed=seed)
    if pretrained:
        dense_network.load_pretrained(network, backbone.weights)
    return network


def load(kind: HeadKind, candidate: CandidateRecord) -> DenseNetwork:
    """The network of a finished candidate with its weights."""
    from pipeline.models.providers.torchvision import dense_network

    network = dense_network.build_network(candidate.design, len(candidate.labels), kind.make, kind.find_answer, seed=0)
    dense_network.load_finetuned(network, candidate.model)
    return network
