"""A network as an ordered list of blocks that can be frozen, trained and proven one by
one: what training sees.

A block is a named run of the network's layers, from input to output. It opens at a
layer that holds weights; the last block is the layer whose outputs are the classes, and
is called "head". Together the blocks own every parameter of the network exactly once.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from pipeline.tensors import Batch


class Block:
    """The parameters, buffers and modules that belong to a named run of a network's
    layers.

    Names of parameters and buffers are those of the stock network's state dict.

    Args:
        name: the block's name, a path in the stock network, or "head".
        stock: the stock network.
        owns: paths in it of the modules and parameters that belong to the block.
    """

    def __init__(self, name: str, stock: nn.Module, owns: Sequence[str]) -> None:
        self.name = name
        self.owns = list(owns)
        self._stock = stock

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}({self.name!r})"

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The block's parameters by their stock names."""
        for path, member in self._members():
            if isinstance(member, nn.Parameter):
                yield path, member
            elif isinstance(member, nn.Module):
                yield from member.named_parameters(prefix=path)

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The block's buffers by their stock names."""
        for path, member in self._members():
            if isinstance(member, nn.Module):
                yield from member.named_buffers(prefix=path)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The block's parameters."""
        for _, parameter in self.named_parameters():
            yield parameter

    def buffers(self) -> Iterator[Tensor]:
        """The block's buffers."""
        for _, buffer in self.named_buffers():
            yield buffer

    def own_modules(self) -> list[nn.Module]:
        """The modules that the block owns as a whole, without the ones nested in them."""
        return [
            member for _, member in self._members() if isinstance(member, nn.Module)
        ]

    def modules(self) -> Iterator[nn.Module]:
        """Every module of the block, nested ones too."""
        for module in self.own_modules():
            yield from module.modules()

    def train(self, mode: bool = True) -> None:
        """Sets every module of the block to training, or to evaluation."""
        for module in self.modules():
            module.training = mode

    def eval(self) -> None:
        """Sets every module of the block to evaluation."""
        self.train(False)

    def requires_grad_(self, flag: bool = True) -> None:
        """Has the block's parameters take part in training, or not."""
        for parameter in self.parameters():
            parameter.requires_grad_(flag)

    def _members(self) -> Iterator[tuple[str, Any]]:
        # Looked up each time: loading weights may replace parameters.
        for path in self.owns:
            find_member = operator.attrgetter(path)
            yield path, find_member(self._stock)


class ClassRows(NamedTuple):
    """Which rows of a tensor belong to which class.

    Args:
        first: rows before those of the first class, such as a background's.
        each: rows of each class.
    """

    first: int
    each: int

    def of(self, number: int) -> slice:
        """The rows of the class of that number."""
        start = self.first + number * self.each
        return slice(start, start + self.each)

    def count(self, classes: int) -> int:
        """How many rows there are for so many classes."""
        return self.first + classes * self.each


class BlockedNetwork(Protocol):
    """A stock network of some library, run block by block.

    N examples at a time; what the dimensions behind are, the kind of network says.
    """

    architecture: str  # the provider's name of it, as in BackboneRecord.architecture
    classes: int  # number of outputs
    stock: nn.Module  # its state dict is what is saved, so the library's own names are
    # What the library's builder needs beside architecture and classes.
    stock_kwargs: dict[str, Any]

    @property
    def blocks(self) -> Sequence[Block]:
        """From input to output; the last is "head"."""

    @property
    def names(self) -> list[str]:
        """The blocks' names."""

    def forward(self, x: Batch) -> Batch:
        """The logits (N, classes) of a network's input; the stock network's own
        forward.
        """

    def run(self, x: Batch, start: int = 0, stop: int | None = None) -> Batch:
        """Applies blocks[start:stop].

        Args:
            x: the network's input where `start` is 0, else what blocks[start - 1] gave.
            start: the first block to run.
            stop: the block before which to stop; None: run them all.

        Returns:
            What the last of them gives: the logits (N, classes) after the head.
        """

    def outputs(
        self, x: Batch, start: int = 0
    ) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        """Applies blocks[start:], and the auxiliary classifiers of those among them
        that are in training.

        Returns:
            The logits (N, classes), and for each auxiliary classifier the weight of its
            loss and its logits (N, classes).
        """

    def fuse(
        self, x: Batch, stops: Sequence[int], *, activations: bool = False
    ) -> None:
        """Runs blocks[: stops[-1]] in fewer operations from now on, with the weights
        they have now, until `unfuse`.

        They must be in eval, and neither train nor change meanwhile. Does nothing where
        there is nothing to fuse.

        Args:
            x: some input of the network that the fused blocks are tried on.
            stops: ascending; nothing is fused across one of them, so that `run` may
                stop and start there.
            activations: fuse these too; for fp32 on a CPU.
        """

    def unfuse(self) -> None:
        """Runs every block as the stock network does."""

    def compile_blocks(self) -> None:
        """Compiles what runs the blocks, with `torch.compile`."""


def state_to_save(network: BlockedNetwork) -> dict[str, Tensor]:
    """The stock state dict as `copy_state` gives it."""
    return copy_state(network.stock)


def copy_state(stock: nn.Module) -> dict[str, Tensor]:
    """A state dict as contiguous CPU tensors that share no memory, sorted by name: for
    safetensors.
    """
    state = stock.state_dict()
    saved = {}
    for name in sorted(state):
        saved[name] = state[name].detach().to("cpu", copy=True).contiguous()
    return saved
