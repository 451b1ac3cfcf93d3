"""The published weights of whole detectors and segmenters: verified in torchvision's
own network, put into ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torchvision
from torch import Tensor, nn

from pipeline.models import weights
from pipeline.models.block_patterns import HEAD, NECK
from pipeline.models.providers.torchvision import (
    dense_network,
    feature_maps,
    torchvision_models,
)
from pipeline.models.providers.torchvision.dense_network import TorchvisionDenseNetwork
from pipeline.models.providers.torchvision.whole_networks import (
    AUXILIARY,
    WHOLE_NETWORKS,
)

# Of an input, in pixels, by which the blocks are found; which there are does not depend
# on it.
SIDE = 256


def build_stock(architecture: str, classes: int) -> nn.Module:
    """torchvision's own network without memory, and without an auxiliary classifier.

    Args:
        classes: of its head; of a detector, the background among them.
    """
    whole = WHOLE_NETWORKS[architecture]
    with torchvision_models.ShapesOnly():
        network: nn.Module = torchvision.models.get_model(
            architecture,
            weights=None,
            weights_backbone=None,
            num_classes=classes,
            **whole.arguments_of_whole,
        )
    return network


def fit_network(
    architecture: str, state: Mapping[str, Tensor], subject: str
) -> nn.Module:
    """torchvision's own network holding a state dict, whose auxiliary classifier is
    left out.

    Args:
        subject: where the weights are from, for the message.

    Raises:
        BackboneError: a name is missing, unexpected or of another shape; all kinds are
            listed.
    """
    used = {}
    for name, value in state.items():
        if not name.startswith(AUXILIARY):
            used[name] = value
    network = build_stock(architecture, count_classes(architecture, used))
    weights.fill_network(network, weights.keep_versions(used, state), subject)
    return network


def count_classes(architecture: str, state: Mapping[str, Tensor]) -> int:
    """How many classes a state dict's head has; 2 where it has no such head."""
    weight = state.get(WHOLE_NETWORKS[architecture].class_weight)
    if weight is None or not weight.ndim:
        return 2
    return int(weight.shape[0])


def list_blocks(architecture: str) -> list[str]:
    """The names of the network's blocks: those of the body are the classifier's."""
    design = dense_network.find_whole_design(architecture, SIDE)
    classifier = dense_network.build_body(design, meta=True)
    body = feature_maps.split_body(
        classifier, dense_network.read_maps(design), classifier, ""
    )
    if WHOLE_NETWORKS[architecture].kind == "detector":
        behind = [NECK, HEAD]
    else:
        behind = [HEAD]
    return [*[block.name for block in body], *behind]


def load_pretrained(network: TorchvisionDenseNetwork, source: Path) -> None:
    """Gives a network all weights but those that belong to classes, which stay as they
    are.

    Args:
        source: weights by torchvision's names; its own head may have any number of
            classes.

    Raises:
        BackboneError: a name is missing, unexpected or of another shape, or the file
            cannot be read.
    """
    whole = WHOLE_NETWORKS[network.architecture]
    fresh = network.stock.state_dict()
    state: dict[str, Tensor] = {}
    for name, value in weights.read_weights(source).state.items():
        own_name = whole.rename(name)
        is_new = own_name in network.class_rows
        state[own_name] = fresh[own_name] if is_new else value
    torchvision_models.fill_network(network.stock, state, str(source))
