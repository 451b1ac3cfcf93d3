"""A few named tensors that travel together: what a network takes, or hands from one
block to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TensorGroup:
    """Named tensors with the same first dimension, that of the examples.

    Args:
        tensors: name → tensor (N, …).
    """

    tensors: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        """The number of examples, N."""
        first = next(iter(self.tensors.values()))
        return len(first)

    def __getitem__(self, rows: slice | torch.Tensor) -> TensorGroup:
        """The examples of a slice, or of an index tensor (n,) of int64."""
        return self.map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> TensorGroup:
        """The same tensors on a device."""
        return self.map(lambda tensor: tensor.to(device))

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> TensorGroup:
        """The function's results by the same names."""
        return TensorGroup(
            {name: function(tensor) for name, tensor in self.tensors.items()}
        )


Batch = torch.Tensor | TensorGroup


def single_tensor(batch: Batch) -> torch.Tensor:
    """A batch as the one tensor that it is where only one can be: a network's logits, a
    head's input.
    """
    assert isinstance(batch, torch.Tensor)
    return batch


def example_shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    """The shape of one example, by the tensor's name; "" where there is one tensor
    alone.
    """
    if isinstance(batch, torch.Tensor):
        return {"": tuple(batch.shape[1:])}
    shapes = {}
    for name, tensor in batch.tensors.items():
        shapes[name] = tuple(tensor.shape[1:])
    return shapes


def map_tensors(
    function: Callable[[torch.Tensor], torch.Tensor], batch: Batch
) -> Batch:
    """A function's result for the tensor, or for each of the group."""
    if isinstance(batch, torch.Tensor):
        return function(batch)
    return batch.map(function)
