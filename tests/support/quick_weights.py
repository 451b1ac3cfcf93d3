"""torchvision's classifiers with weights that are made in a moment."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.models.providers.torchvision import blocks
from pipeline.models.providers.torchvision.blocks import TorchvisionNetwork

# So many random numbers, a prime of them, that the rows of no matrix are alike.
COUNT = 8191


def build_quickly(architecture: str, classes: int) -> TorchvisionNetwork:
    """A network whose weights repeat a few thousand random numbers. Drawing each of
    tens of millions anew takes ten times as long as the network's answer.
    """
    network = blocks.build_network(architecture, classes, meta=True)
    numbers = torch.randn(COUNT, generator=torch.Generator().manual_seed(1))
    state = network.stock.state_dict()
    for name, tensor in state.items():
        if tensor.is_meta:  # constants hold their values already
            state[name] = _fill(name, tensor, numbers)
    network.stock.load_state_dict(state, assign=True)
    return network


def _fill(name: str, tensor: Tensor, numbers: Tensor) -> Tensor:
    """The weights of a layer by the size of its inputs; a normalisation as it begins."""
    if tensor.ndim > 1:
        repeated = numbers.repeat(math.ceil(tensor.numel() / COUNT))
        scale = math.sqrt(2 / max(1, tensor[0].numel()))
        return repeated[: tensor.numel()].mul_(scale).view(tensor.shape)
    if name.endswith(("weight", "running_var")):
        return torch.ones(tensor.shape)
    return torch.zeros(tensor.shape, dtype=tensor.dtype)
