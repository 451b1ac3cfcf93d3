"""torchvision's own detectors and segmenters with random weights, and files of them as
they are published.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from pipeline.config import BackboneConfig
from pipeline.context import Context
from pipeline.models.providers.torchvision import torchvision_models
from pipeline.models.providers.torchvision.provider import TorchvisionProvider
from pipeline.models.providers.torchvision.whole_networks import WHOLE_NETWORKS
from pipeline.records import BackboneRecord

State = dict[str, Tensor]
# Of the published heads; of a detector, with the background.
CLASSES = {"segmenter": 21, "detector": 91}


def published_state(architecture: str) -> State:
    """Random weights in the form in which torchvision publishes them, their
    normalisation as if it had been trained; the last few are kept for the next test.
    """
    return dict(_make_state(architecture))


@lru_cache(maxsize=3)
def _make_state(architecture: str) -> State:
    kind = WHOLE_NETWORKS[architecture].kind
    has_auxiliary = kind == "segmenter" and architecture != "lraspp_mobilenet_v3_large"
    arguments = {"aux_loss": True} if has_auxiliary else {}
    with torchvision_models.seed_generator(1):
        network: nn.Module = torchvision.models.get_model(
            architecture,
            weights=None,
            weights_backbone=None,
            num_classes=CLASSES[kind],
            **arguments,
        )
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                _train_statistics(module)
    state: State = network.state_dict()
    # Published with normalisations that count no batches.
    if WHOLE_NETWORKS[architecture].norm_eps is not None:
        state = {
            name: value
            for name, value in state.items()
            if not name.endswith("num_batches_tracked")
        }
    return state


def _train_statistics(norm: nn.BatchNorm2d) -> None:
    """Small variances, so that what a normalisation adds to them shows in the answers."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_var.uniform_(0.01, 0.04)
        norm.weight.uniform_(0.1, 0.2)
        norm.bias.uniform_(-0.1, 0.1)
        norm.running_mean.uniform_(-0.01, 0.01)


def stock_network(architecture: str, state: State, **arguments: Any) -> nn.Module:
    """What torchvision's own builder makes of its published weights, which are these;
    in eval.
    """
    with patch.object(WeightsEnum, "get_state_dict", lambda *_, **__: state):
        network: nn.Module = torchvision.models.get_model(
            architecture, weights="DEFAULT", **arguments
        )
    return network.eval()


def fetch(architecture: str, state: State, root: Path) -> BackboneRecord:
    """The backbone step's record of weights that a file holds."""
    weights = root / "published.pth"
    torch.save(state, weights)
    out = root / "backbone"
    out.mkdir(parents=True)
    context = Context(
        root, root / "data", root / ".thaw", root / ".thaw" / "runs" / "1"
    )
    config = BackboneConfig(name=f"torchvision/{architecture}", weights=str(weights))
    return TorchvisionProvider().fetch(config, out, context)


def used_weights(architecture: str, state: State) -> State:
    """The tensors by their names here, without an auxiliary classifier and without
    counts of batches.
    """
    whole = WHOLE_NETWORKS[architecture]
    used = {}
    for name, value in state.items():
        if not name.startswith("aux_classifier.") and not name.endswith(
            "num_batches_tracked"
        ):
            used[whole.rename(name)] = value
    return used
