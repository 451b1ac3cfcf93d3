"""A network as an ordered list of blocks that can be called, frozen and proven one by one.

Blocks follow one rule for every architecture. The stock forward is a row of steps (`routes`), where each unit
that a network repeats (a residual block, an encoder layer, an Inception module) and each single layer is one
step. A step that holds a weight matrix or a convolution opens a block named by its path in the stock network;
what follows without one (norm, activation, pooling, flattening) belongs to the block before it, except that a
dropout belongs to the block after it, so that a frozen block's output is never random. The last block is the
layer whose outputs are the classes, and is called "head".
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models import weights
from pipeline.models.block_patterns import HEAD
from pipeline.models.network import Block
from pipeline.models.providers.torchvision import forward_steps, fused, torchvision_models
from pipeline.tensors import Batch


class SequentialBlock(Block):
    """A block that can be called by itself: a row of calls, one after the other."""

    def __init__(self, name: str, steps: Sequence[forward_steps.Step], stock: nn.Module) -> None:
        super().__init__(name, stock, [path for step in steps for path in step.owns])
        self.calls = [step.call for step in steps]
        self.auxiliary: forward_steps.AuxiliaryHead | None = None

    def __call__(self, x: Tensor) -> Tensor:
        for call in self.calls:
            x = call(x)
        return x


class TorchvisionNetwork(nn.Module):
    """A stock torchvision network whose forward is its blocks, called in order.

    Args:
        architecture: torchvision's name.
        classes: number of outputs.
        network: the stock network; its state dict is what is saved.
        stock_kwargs: with these, `torchvision.models.get_model(architecture, weights=None, num_classes=classes,
            **stock_kwargs)` builds the same network without Thaw.
    """

    def __init__(self, architecture: str, classes: int, network: nn.Module, stock_kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.architecture, self.classes, self.stock_kwargs = architecture, classes, stock_kwargs
        self.stock = network
        self.blocks = _blocks(network)
        self.unfuse()

    @property
    def names(self) -> list[str]:
        """The blocks' names from input to output; the last is "head"."""
        return [block.name for block in self.blocks]

    def forward(self, x: Batch) -> Tensor:
        return self.run(x)

    def run(self, x: Batch, start: int = 0, stop: int | None = None) -> Tensor:
        """Applies blocks[start:stop] to images (N, 3, H, W), or to what blocks[start - 1] gave."""
        activations = _tensor(x)
        first, end, _ = slice(start, stop).indices(len(self.blocks))
        for apply in self._ways(activations, first, end):
            activations = apply(activations)
        return activations

    def fuse(self, x: Batch, stop: int, *, activations: bool = False) -> None:
        """Runs blocks[:stop] in fewer operations from now on, with the weights they have now, until `unfuse`.

        They must be in eval, and neither train nor change meanwhile. All together are tried first; where they cannot
        be traced, or answer otherwise than before, each is tried alone, and one that fails again runs as it did.

        Args:
            x: some input (N, …) that they are tried on.
            activations: fuse these too; for fp32 on a CPU.
        """
        self.unfuse()
        self._hides_nan = activations
        x = _tensor(x)
        with torch.inference_mode():
            together, _ = _faster(self.blocks[:stop], x, activations=activations)
            if together is not None:
                self._fused.append(together)
            else:
                for block in self.blocks[:stop]:
                    faster, x = _faster([block], x, activations=activations)
                    self._fused.append(faster or block)
        self._fused_stop = stop

    def unfuse(self) -> None:
        """Runs every block as the stock network does."""
        self._fused: list[fused.Call] = []
        self._fused_stop = 0
        self._hides_nan = False

    def compile_blocks(self) -> None:
        """Compiles every call of the blocks."""
        for block in self.blocks:
            block.calls = [torch.compile(call) for call in block.calls]

    def _ways(self, x: Tensor, start: int, stop: int) -> Sequence[fused.Call]:
        """How blocks[start:stop] are applied. Fused activations make numbers of NaN: such input goes the usual way."""
        whole = start == 0 and stop >= self._fused_stop > 0
        if not whole or (self._hides_nan and not x.sum().isfinite()):
            return self.blocks[start:stop]
        return [*self._fused, *self.blocks[self._fused_stop : stop]]

    def outputs(self, x: Batch, start: int = 0) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        """Applies blocks[start:], and the auxiliary classifiers of those among them that are in training.

        An input so small that an auxiliary classifier cannot read its block's output goes without it.

        Returns:
            The logits (N, classes), and for each auxiliary classifier the weight of its loss and its logits.
        """
        extra = []
        behind = start or self._fused_stop  # no auxiliary classifier of a fused block is in training
        x = self.run(x, start, behind)
        for block in self.blocks[behind:]:
            x = block(x)
            if block.auxiliary is not None and min(x.shape[-2:]) >= block.auxiliary.side:
                classifier = self.stock.get_submodule(block.auxiliary.path)
                extra += [(block.auxiliary.weight, classifier(x))] if classifier.training else []
        return x, extra


def _tensor(x: Batch) -> Tensor:
    assert isinstance(x, Tensor)  # images come as one tensor
    return x


def _faster(blocks: Sequence[SequentialBlock], x: Tensor, *, activations: bool) -> tuple[fused.Call | None, Tensor]:
    """The blocks as one call of fewer operations, None where there is none that agrees; and their output."""
    expected = x.clone()  # blocks may write into what they are given
    for block in blocks:
        expected = block(expected)
    modules = [module for block in blocks for module in block.own_modules()]
    found = fused.fused([call for block in blocks for call in block.calls], modules, activations=activations)
    return (found if found is not None and fused.agree(found, x.clone(), expected) else None), expected


def build(
    architecture: str, classes: int, *, size: int | None = None, meta: bool = False, seed: int = 0
) -> TorchvisionNetwork:
    """A network with random weights, initialised as torchvision does; the global random state stays as it is.

    Args:
        architecture: any classifier of `torchvision.models.list_models(module=torchvision.models)`.
        classes: number of outputs.
        size: input side in pixels, for the networks whose weights or windows fit one size (ViT, MaxViT).
        meta: without memory, to learn names and shapes, or to load weights into.
        seed: of the random weights.

    Raises:
        ConfigError: there is no such architecture, or it cannot be built for that size.
    """
    kwargs = torchvision_models.stock_kwargs(torchvision_models.check(architecture), size)
    return TorchvisionNetwork(
        architecture, classes, torchvision_models.construct(architecture, classes, kwargs, meta=meta, seed=seed), kwargs
    )


def _blocks(network: nn.Module) -> list[SequentialBlock]:
    groups: list[list[forward_steps.Step]] = []
    waiting: list[forward_steps.Step] = []  # what comes before the first block, or a dropout and what follows it
    for step in forward_steps.steps(network):
        if _opens(network, step):
            groups.append([*waiting, step])
            waiting = []
        elif waiting or not groups or isinstance(step.call, nn.Dropout):
            waiting.append(_harmless(step))
        else:
            groups[-1].append(step)
    groups[-1] += waiting
    blocks = [SequentialBlock(_name(network, group), group, network) for group in groups]
    blocks[-1].name = HEAD
    _attach_auxiliary(network, blocks)
    return blocks


def _opens(network: nn.Module, step: forward_steps.Step) -> bool:
    block = SequentialBlock("", [step], network)
    return any(parameter.ndim > 1 for parameter in block.parameters())


def _name(network: nn.Module, group: list[forward_steps.Step]) -> str:
    return next(step.name for step in group if _opens(network, step))


def _harmless(step: forward_steps.Step) -> forward_steps.Step:
    """A dropout that opens a block must not write into the features it is given: they may be cached."""
    if isinstance(step.call, nn.Dropout):
        step.call.inplace = False
    return step


def _attach_auxiliary(network: nn.Module, blocks: list[SequentialBlock]) -> None:
    auxiliary = forward_steps.AUXILIARY.get(type(network).__name__)
    if auxiliary is not None:
        block = next(block for block in blocks if block.name == auxiliary.after)
        block.auxiliary = auxiliary
        block.owns.append(auxiliary.path)


def load_pretrained(model: TorchvisionNetwork, source: Path | Mapping[str, Tensor], *, seed: int = 0) -> None:
    """Gives the model all weights but those whose shape follows from the number of classes, which start anew.

    The new layers are initialised as PyTorch initialises such layers (He et al. 2015 bounds), from `seed`.
    Building the model with `meta=True` saves initialising what is then overwritten.

    Args:
        source: a weights file, or a stock state dict; its own head may have any number of classes.

    Raises:
        BackboneError: a name is missing, unexpected or of another shape, or the file cannot be read.
    """
    state = weights.read(source).state if isinstance(source, Path) else source
    dependent = torchvision_models.class_dependent(model.architecture)
    _reset(model.stock, {key.rpartition(".")[0] for key in dependent}, seed)
    fresh = {key: value for key, value in model.stock.state_dict().items() if key in dependent}
    body = copy.copy(state)  # keeps the format versions a state dict may carry
    body.update({key: value for key, value in fresh.items() if key in state})  # type: ignore[attr-defined]
    torchvision_models.fill(model.stock, body, str(source) if isinstance(source, Path) else model.architecture)


def load_finetuned(architecture: str, classes: int, path: Path, *, size: int | None = None) -> TorchvisionNetwork:
    """The network with exactly the weights that `state` gave and safetensors saved.

    Args:
        size: input side in pixels where the network fits one size; read from the weights of a ViT.

    Raises:
        BackboneError: the file is not that of this architecture with that many classes.
    """
    saved = weights.read(path).state
    model = build(architecture, classes, size=torchvision_models.image_side(saved) or size, meta=True)
    torchvision_models.fill(model.stock, saved, str(path))
    return model


def _reset(network: nn.Module, paths: set[str], seed: int) -> None:
    with torchvision_models.seeded(seed):
        for path in sorted(paths):
            layer: Any = network.get_submodule(path)
            layer.to_empty(device="cpu")
            layer.reset_parameters()
