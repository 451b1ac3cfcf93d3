"""torchvision's networks as blocks.

Blocks follow one rule for every architecture. The stock forward is a row of steps
(`forward_steps`), where each unit that a network repeats (a residual block, an encoder
layer, an Inception module) and each single layer is one step. A step that holds a
weight matrix or a convolution opens a block named by its path in the stock network;
what follows without one (norm, activation, pooling, flattening) belongs to the block
before it, except that a dropout belongs to the block after it, so that a frozen block's
output is never random. The last block is the layer whose outputs are the classes, and
is called "head".
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.models import weights
from pipeline.models.block_patterns import HEAD
from pipeline.models.network import Block
from pipeline.models.providers.torchvision import (
    forward_steps,
    fused,
    torchvision_models,
)
from pipeline.models.providers.torchvision.forward_steps import (
    AuxiliaryHead,
    Call,
    Step,
)
from pipeline.tensors import Batch, single_tensor


class SequentialBlock(Block):
    """A block that can be called by itself: a row of calls, one after the other."""

    def __init__(self, name: str, steps: Sequence[Step], stock: nn.Module) -> None:
        owns: list[str] = []
        for step in steps:
            owns.extend(step.owns)
        super().__init__(name, stock, owns)
        self.steps = list(steps)
        self.calls = [step.call for step in steps]
        self.auxiliary: AuxiliaryHead | None = None

    def __call__(self, x: Tensor) -> Tensor:
        for call in self.calls:
            x = call(x)
        return x

    def add_auxiliary(self, auxiliary: AuxiliaryHead) -> None:
        """Has the block own a classifier that reads its output."""
        self.auxiliary = auxiliary
        self.owns.append(auxiliary.path)


class FusedSegment(NamedTuple):
    """What runs some blocks in fewer operations.

    Args:
        stop: the block before which it ends.
    """

    stop: int
    calls: list[Call]


class TorchvisionNetwork(nn.Module):
    """A stock torchvision network whose forward is its blocks, called in order.

    Args:
        architecture: torchvision's name.
        classes: number of outputs.
        network: the stock network; its state dict is what is saved.
        stock_kwargs: with these, `torchvision.models.get_model(architecture,
            weights=None, num_classes=classes, **stock_kwargs)` builds the same network
            without Thaw.
    """

    def __init__(
        self,
        architecture: str,
        classes: int,
        network: nn.Module,
        stock_kwargs: dict[str, Any],
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.classes = classes
        self.stock_kwargs = stock_kwargs
        self.stock = network
        self.blocks = split_into_blocks(network)
        self._segments: dict[int, FusedSegment] = {}  # by their first block
        self.unfuse()

    @property
    def names(self) -> list[str]:
        """The blocks' names from input to output; the last is "head"."""
        return [block.name for block in self.blocks]

    def forward(self, x: Batch) -> Tensor:
        return self.run(x)

    def run(self, x: Batch, start: int = 0, stop: int | None = None) -> Tensor:
        """Applies blocks[start:stop] to images (N, 3, H, W), or to what blocks[start -
        1] gave.
        """
        activations = single_tensor(x)
        first, end, _ = slice(start, stop).indices(len(self.blocks))
        for call in self._list_calls(activations, first, end):
            activations = call(activations)
        return activations

    def fuse(
        self, x: Batch, stops: Sequence[int], *, activations: bool = False
    ) -> None:
        """Runs blocks[: stops[-1]] in fewer operations from now on, with the weights
        they have now, until `unfuse`.

        They must be in eval, and neither train nor change meanwhile. All that lie
        between two stops are tried together first; where they cannot be traced, or
        answer otherwise than before, each is tried alone, and one that fails again runs
        as it did.

        Args:
            x: some input (N, …) that they are tried on.
            stops: ascending; nothing is fused across one of them.
            activations: fuse these too; for fp32 on a CPU.
        """
        self.unfuse()
        inputs = single_tensor(x)
        with torch.inference_mode():
            for start, stop in itertools.pairwise((0, *stops)):
                calls, inputs = _fuse_blocks(
                    self.blocks[start:stop], inputs, activations=activations
                )
                self._segments[start] = FusedSegment(stop, calls)
        self._fused_stop = stops[-1]
        self._hides_nan = activations

    def unfuse(self) -> None:
        """Runs every block as the stock network does."""
        self._segments = {}
        self._fused_stop = 0
        self._hides_nan = False

    def compile_blocks(self) -> None:
        """Compiles every call of the blocks."""
        for block in self.blocks:
            block.calls = [torch.compile(call) for call in block.calls]

    def _list_calls(self, x: Tensor, start: int, stop: int) -> Sequence[Call]:
        """How blocks[start:stop] are applied. Fused activations make numbers of NaN:
        such input goes the usual way.
        """
        if start >= self._fused_stop:
            return self.blocks[start:stop]
        if self._hides_nan and not x.sum().isfinite():
            return self.blocks[start:stop]
        calls: list[Call] = []
        while start < stop:
            segment = self._segments.get(start)
            if segment is None or segment.stop > stop:
                calls.append(self.blocks[start])
                start += 1
            else:
                calls += segment.calls
                start = segment.stop
        return calls

    def outputs(
        self, x: Batch, start: int = 0
    ) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        """Applies blocks[start:], and the auxiliary classifiers of those among them
        that are in training.

        An input so small that an auxiliary classifier cannot read its block's output
        goes without it.

        Returns:
            The logits (N, classes), and for each auxiliary classifier the weight of its
            loss and its logits.
        """
        auxiliary_logits = []
        # No auxiliary classifier of a fused block is in training.
        behind = start or self._fused_stop
        activations = self.run(x, start, behind)
        for block in self.blocks[behind:]:
            activations = block(activations)
            auxiliary = block.auxiliary
            if auxiliary is None or min(activations.shape[-2:]) < auxiliary.side:
                continue
            classifier = self.stock.get_submodule(auxiliary.path)
            if classifier.training:
                auxiliary_logits.append((auxiliary.weight, classifier(activations)))
        return activations, auxiliary_logits


def _fuse_blocks(
    blocks: Sequence[SequentialBlock], x: Tensor, *, activations: bool
) -> tuple[list[Call], Tensor]:
    """What runs the blocks in fewer operations where they can be, and their output."""
    together, output = _fuse_together(blocks, x, activations=activations)
    if together is not None:
        return [together], output
    calls: list[Call] = []
    for block in blocks:
        alone, x = _fuse_together([block], x, activations=activations)
        calls.append(block if alone is None else alone)
    return calls, output


def _fuse_together(
    blocks: Sequence[SequentialBlock], x: Tensor, *, activations: bool
) -> tuple[Call | None, Tensor]:
    """The blocks as one call of fewer operations, None where there is none that agrees;
    and their output.
    """
    expected = x.clone()  # blocks may write into what they are given
    calls: list[Call] = []
    modules: list[nn.Module] = []
    for block in blocks:
        expected = block(expected)
        calls.extend(block.calls)
        modules.extend(block.own_modules())
    call = fused.fuse_calls(calls, modules, activations=activations)
    if call is None or not fused.is_equivalent(call, x.clone(), expected):
        return None, expected
    return call, expected


def build_network(
    architecture: str,
    classes: int,
    *,
    size: int | None = None,
    meta: bool = False,
    seed: int = 0,
) -> TorchvisionNetwork:
    """A network with random weights, initialised as torchvision does; the global random
    state stays as it is.

    Args:
        architecture: any classifier of
            `torchvision.models.list_models(module=torchvision.models)`.
        classes: number of outputs.
        size: input side in pixels, for the networks whose weights or windows fit one
            size (ViT, MaxViT).
        meta: without memory, to learn names and shapes, or to load weights into.
        seed: of the random weights.

    Raises:
        ConfigError: there is no such architecture, or it cannot be built for that size.
    """
    stock_kwargs = torchvision_models.find_stock_kwargs(architecture, size)
    stock = torchvision_models.build_stock(
        architecture, classes, stock_kwargs, meta=meta, seed=seed
    )
    return TorchvisionNetwork(architecture, classes, stock, stock_kwargs)


def split_into_blocks(network: nn.Module) -> list[SequentialBlock]:
    """A stock network's forward as blocks, by the rule above."""
    groups: list[list[Step]] = []
    # What comes before the first block, or a dropout and what follows it.
    waiting: list[Step] = []
    for step in forward_steps.list_steps(network):
        if _opens_block(network, step):
            groups.append([*waiting, step])
            waiting = []
        elif waiting or not groups or isinstance(step.call, nn.Dropout):
            _forbid_writing(step)
            waiting.append(step)
        else:
            groups[-1].append(step)
    groups[-1].extend(waiting)
    blocks = [
        SequentialBlock(_find_name(network, group), group, network) for group in groups
    ]
    blocks[-1].name = HEAD
    _attach_auxiliary(network, blocks)
    return blocks


def _opens_block(network: nn.Module, step: Step) -> bool:
    block = SequentialBlock("", [step], network)
    return any(parameter.ndim > 1 for parameter in block.parameters())


def _find_name(network: nn.Module, group: Sequence[Step]) -> str:
    return next(step.name for step in group if _opens_block(network, step))


def _forbid_writing(step: Step) -> None:
    """A dropout that opens a block must not write into the features it is given: they
    may be cached.
    """
    if isinstance(step.call, nn.Dropout):
        step.call.inplace = False


def _attach_auxiliary(network: nn.Module, blocks: Sequence[SequentialBlock]) -> None:
    auxiliary = forward_steps.AUXILIARY.get(type(network).__name__)
    if auxiliary is None:
        return
    for block in blocks:
        if block.name == auxiliary.after:
            block.add_auxiliary(auxiliary)


def load_pretrained(
    network: TorchvisionNetwork, source: Path | Mapping[str, Tensor], *, seed: int = 0
) -> None:
    """Gives the network all weights but those whose shape follows from the number of
    classes, which start anew.

    The new layers are initialised as PyTorch initialises such layers (He et al. 2015
    bounds), from `seed`. Building the network with `meta=True` saves initialising what
    is then overwritten.

    Args:
        source: a weights file, or a stock state dict; its own head may have any number
            of classes.

    Raises:
        BackboneError: a name is missing, unexpected or of another shape, or the file
            cannot be read.
    """
    if isinstance(source, Path):
        state: Mapping[str, Tensor] = weights.read_weights(source).state
        subject = str(source)
    else:
        state = source
        subject = network.architecture
    new_names = torchvision_models.class_dependent_names(network.architecture)
    new_layers = {name.rpartition(".")[0] for name in new_names}
    _reset_layers(network.stock, new_layers, seed)
    initial = network.stock.state_dict()
    combined: Any = copy.copy(state)  # keeps the format versions a state dict may carry
    for name in initial:
        if name in new_names and name in state:
            combined[name] = initial[name]
    torchvision_models.fill_network(network.stock, combined, subject)


def load_finetuned(
    architecture: str, classes: int, path: Path, *, size: int | None = None
) -> TorchvisionNetwork:
    """The network with exactly the weights that were saved in a safetensors file.

    Args:
        size: input side in pixels where the network fits one size; read from the
            weights of a ViT.

    Raises:
        BackboneError: the file is not that of this architecture with that many classes.
    """
    state = weights.read_weights(path).state
    size = torchvision_models.find_image_side(state) or size
    network = build_network(architecture, classes, size=size, meta=True)
    torchvision_models.fill_network(network.stock, state, str(path))
    return network


def _reset_layers(network: nn.Module, paths: set[str], seed: int) -> None:
    with torchvision_models.seed_generator(seed):
        for path in sorted(paths):
            layer: Any = network.get_submodule(path)
            layer.to_empty(device="cpu")
            layer.reset_parameters()
