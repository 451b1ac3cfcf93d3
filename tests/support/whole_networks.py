"""torchvision's own detectors and segmenters with random weights, and files of them as they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from pipeline.config import BackboneConfig
from pipeline.context import Context
from pipeline.models.providers.torchvision import torchvision_models
from pipeline.models.providers.torchvision.provider import TorchvisionProvider
from pipeline.models.providers.torchvision.whole_networks import WHOLE_NETWORKS
from pipeline.records import BackboneRecord

CLASSES = 5  # of the published head; of a detector, with the background


def stock_network(architecture: str, **arguments: Any) -> nn.Module:
    """torchvision's own network in eval, its normalisation as if it had been trained."""
    if WHOLE_NETWORKS[architecture].kind == "segmenter" and architecture != "lraspp_mobilenet_v3_large":
        arguments = {"aux_loss": True, **arguments}  # as published
    with torchvision_models.seed_generator(1):
        network: nn.Module = torchvision.models.get_model(
            architecture, weights=None, weights_backbone=None, num_classes=CLASSES, **arguments
        )
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                _train_statistics(module)
    return network.eval()


def _train_statistics(norm: nn.BatchNorm2d) -> None:
    with torch.no_grad():
        for values in (norm.weight, norm.running_var):
            assert values is not None
            values.uniform_(0.8, 1.2)
        for values in (norm.bias, norm.running_mean):
            assert values is not None
            values.uniform_(-0.1, 0.1)


def save_published(network: nn.Module, path: Path) -> Path:
    """The network's weights as torchvision publishes them: a state dict, pickled."""
    torch.save(network.state_dict(), path)
    return path


def fetch(architecture: str, weights: Path, root: Path) -> BackboneRecord:
    """The backbone step's record of a weights file."""
    out = root / "backbone"
    out.mkdir(parents=True)
    context = Context(root, root / "data", root / ".thaw", root / ".thaw" / "runs" / "1")
    config = BackboneConfig(name=f"torchvision/{architecture}", weights=str(weights))
    return TorchvisionProvider().fetch(config, out, context)


def used_weights(network: nn.Module) -> dict[str, Tensor]:
    """The state dict without an auxiliary classifier."""
    return {name: value for name, value in network.state_dict().items() if not name.startswith("aux_classifier.")}
