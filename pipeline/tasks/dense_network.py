"""A network that answers for places of a picture, shared by detection and segmentation:
a classifier's body under a new head, or one of torchvision's detectors or segmenters
under new last layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import BackboneConfig
    from pipeline.models.providers.torchvision.dense_network import (
        DenseNetwork,
        HeadKind,
    )
    from pipeline.models.providers.torchvision.whole_networks import Kind
    from pipeline.records import BackboneRecord, CandidateRecord, InputSpec


def check_body(
    backbone: BackboneConfig, side: int, strides: Sequence[int], kind: Kind
) -> str:
    """What of the backbone is used, in words; no weights are read.

    Args:
        side: of the canvas, in pixels.
        strides: those that a new head can read.
        kind: what of torchvision's may be used whole.

    Raises:
        ConfigError: the backbone is no network for pictures, has no such maps, or
            answers otherwise.
    """
    from pipeline.models.providers.torchvision import backbones

    _require_torchvision(backbone.name)
    architecture = backbones.find_architecture(backbone)
    design = _find_design(architecture, side, strides, kind)
    if "network" in design:
        return f"all of {architecture} but the layers that depend on classes"
    there = [str(one["stride"]) for one in design["maps"]]
    return "feature maps at strides " + ", ".join(there)


def find_body_design(
    backbone: BackboneRecord, spec: InputSpec, strides: Sequence[int], kind: Kind
) -> dict[str, Any]:
    """What rebuilds the body, and of a network that is used whole the head, which
    `network` then names; see `pipeline.models.providers.torchvision.dense_network`.

    Args:
        strides, kind: as for `check_body`.

    Raises:
        ConfigError: the backbone is no network for pictures, has no such maps, or
            answers otherwise.
    """
    from pipeline.records import image_spec

    _require_torchvision(backbone.name)
    return _find_design(backbone.architecture, image_spec(spec).size, strides, kind)


def _find_design(
    architecture: str, side: int, strides: Sequence[int], kind: Kind
) -> dict[str, Any]:
    from pipeline.models.providers.torchvision import dense_network, whole_networks

    whole = whole_networks.WHOLE_NETWORKS.get(architecture)
    if whole is None:
        return dense_network.find_design(architecture, side, strides)
    if whole.kind != kind:
        raise ConfigError(
            f"backbone.name: torchvision/{architecture}",
            found=f"a {whole.kind} of torchvision",
            expected=f"one of its classifiers, or a {kind}",
            hint="choose one of "
            + ", ".join(
                [*whole_networks.list_names(kind), "torchvision/resnet50 and the like"]
            ),
        )
    return dense_network.find_whole_design(architecture, side)


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
    kind: HeadKind,
    backbone: BackboneRecord,
    classes: int,
    design: Mapping[str, Any],
    *,
    pretrained: bool,
    seed: int,
) -> DenseNetwork:
    """The network with the backbone's weights, all but those of new layers, or with
    random ones.
    """
    from pipeline.models.providers.torchvision import dense_network, whole_weights

    network = dense_network.build_network(design, classes, kind, seed=seed)
    if not pretrained:
        return network
    if "network" in design:
        whole_weights.load_pretrained(network, backbone.weights)
    else:
        dense_network.load_pretrained(network, backbone.weights)
    return network


def load(kind: HeadKind, candidate: CandidateRecord) -> DenseNetwork:
    """The network of a finished candidate with its weights."""
    from pipeline.models.providers.torchvision import dense_network

    network = dense_network.build_network(
        candidate.design, len(candidate.labels), kind, seed=0
    )
    dense_network.load_finetuned(network, candidate.model)
    return network
