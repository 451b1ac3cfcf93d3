"""A classifier's body, from which several feature maps are taken: built anew from
torchvision where a model is served.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn


def build_body(design: Mapping[str, Any]) -> nn.Module:
    """The body with random weights: pictures (N, 3, S, S) in, the maps by their names
    out, from fine to coarse.

    Its state dict has torchvision's own names, without the layers behind the last map.

    Args:
        design: `architecture` (torchvision's name), what `builder_arguments` reads, and
            `maps`, each with `path`.
    """
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor

    classifier = torchvision.models.get_model(
        design["architecture"], weights=None, num_classes=1, **builder_arguments(design)
    )
    nodes = {feature_map["path"]: feature_map["path"] for feature_map in design["maps"]}
    body: nn.Module = create_feature_extractor(classifier.eval(), return_nodes=nodes)
    return body


def builder_arguments(design: Mapping[str, Any]) -> dict[str, Any]:
    """What the builder of a body takes beside its name and the number of classes.

    Args:
        design: `arguments`; optionally `norm_eps`, what the body's batch normalisation
            adds to a variance.
    """
    from torch import nn

    arguments: dict[str, Any] = dict(design["arguments"])
    if "norm_eps" in design:
        arguments["norm_layer"] = partial(nn.BatchNorm2d, eps=design["norm_eps"])
    return arguments


def order_maps(
    found: Mapping[str, Tensor], maps: Sequence[Mapping[str, Any]]
) -> list[Tensor]:
    """The maps (N, C, H, W) from fine to coarse; those of networks that keep channels
    last are turned.
    """
    ordered = []
    for feature_map in maps:
        values = found[feature_map["path"]]
        ordered.append(
            values.permute(0, 3, 1, 2) if feature_map["channels_last"] else values
        )
    return ordered
