"""What a stage trains and what it leaves alone, and putting a model into that state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config import FinetuneConfig, StageConfig
from pipeline.errors import ConfigError, TrainingError
from pipeline.models.block_patterns import select_blocks

if TYPE_CHECKING:
    import torch

    from pipeline.models.network import BlockedNetwork


@dataclass(frozen=True)
class StageScope:
    """The blocks of one stage, both from input to output.

    Args:
        trained: blocks whose parameters train.
        frozen: all others.
        boundary: index of the first trained block; all before it are frozen.
        batchnorm: whether BatchNorm statistics move in the trained blocks.
    """

    trained: tuple[str, ...]
    frozen: tuple[str, ...]
    boundary: int
    batchnorm: bool


def count_views(config: FinetuneConfig, scope: StageScope) -> int:
    """How many views of each training example a stage of this scope shows."""
    if scope.boundary:
        return count_frozen_views(config)
    return config.views


def count_frozen_views(config: FinetuneConfig) -> int:
    """How many views a stage shows that has frozen blocks below: each costs a pass
    through them, and those that are kept disk.
    """
    return min(config.views, config.frozen_views)


def resolve_scope(model: BlockedNetwork, stage: StageConfig) -> StageScope:
    """Resolves what a stage trains.

    Raises:
        ConfigError: a pattern matches no block.
        TrainingError: a parameter belongs to a block that trains and to one that does
            not.
    """
    names = [block.name for block in model.blocks]
    chosen = set(select_blocks(names, stage.train))
    if stage.frozen:
        chosen -= set(select_blocks(names, stage.frozen))
    if not chosen:
        raise ConfigError(
            f"stage '{stage.name}'",
            found="every block that it trains is among those that stay frozen",
            expected="at least one block to train",
            hint="correct `train` or `frozen`",
        )
    scope = StageScope(
        trained=tuple(n for n in names if n in chosen),
        frozen=tuple(n for n in names if n not in chosen),
        boundary=min(names.index(n) for n in chosen),
        batchnorm=stage.batchnorm == "train",
    )
    _refuse_ties(model, scope)
    return scope


def apply_scope(model: BlockedNetwork, scope: StageScope) -> None:
    """Puts every block into the state the scope asks for: gradients and, by
    `set_modes`, train or eval.
    """
    for block in model.blocks:
        for parameter in block.parameters():
            parameter.requires_grad_(block.name in scope.trained)
            parameter.grad = None
    set_modes(model, scope)


def set_modes(model: BlockedNetwork, scope: StageScope) -> None:
    """Frozen blocks wholly in eval (BatchNorm and dropout); in the others BatchNorm as
    the scope says.
    """
    wanted = {id(module): training for module, training in _modes(model, scope)}
    for module in model.stock.modules():
        training = wanted.get(id(module), False)
        # Setting it takes longer than looking, and this is done twice an epoch.
        if module.training != training:
            module.training = training


def wrong_modes(model: BlockedNetwork, scope: StageScope) -> list[str]:
    """Blocks that have a module in train that belongs in eval, or the other way round."""
    wrong: set[int] = set()
    for module, training in _modes(model, scope):
        if module.training != training:
            wrong.add(id(module))
    names: list[str] = []
    for block in model.blocks:
        if wrong.intersection(map(id, block.modules())):
            names.append(block.name)
    return names


def _modes(
    model: BlockedNetwork, scope: StageScope
) -> list[tuple[torch.nn.Module, bool]]:
    """Every module of the blocks, and whether the scope has it in training mode."""
    from torch.nn.modules.batchnorm import _NormBase

    pairs: list[tuple[torch.nn.Module, bool]] = []
    for block in model.blocks:
        trains = block.name in scope.trained
        for module in block.modules():
            moves = scope.batchnorm or not isinstance(module, _NormBase)
            pairs.append((module, trains and moves))
    return pairs


def block_tensors(
    model: BlockedNetwork, blocks: tuple[str, ...], *, buffers: bool = True
) -> dict[str, torch.Tensor]:
    """Parameters (and buffers) of some blocks, by the stock network's names."""
    tensors: dict[str, torch.Tensor] = {}
    for block in model.blocks:
        if block.name in blocks:
            tensors.update(block.named_parameters())
            tensors.update(block.named_buffers() if buffers else ())
    return tensors


def _refuse_ties(model: BlockedNetwork, scope: StageScope) -> None:
    """A tensor cannot train and be frozen. Shared memory counts too: two parameters may
    be views of one storage.
    """
    frozen: dict[int, str] = {}
    for name, tensor in block_tensors(model, scope.frozen).items():
        if tensor.numel():
            frozen[tensor.untyped_storage().data_ptr()] = name
    tied: dict[str, str] = {}
    for name, tensor in block_tensors(model, scope.trained).items():
        address = tensor.untyped_storage().data_ptr()
        if tensor.numel() and address in frozen:
            tied[name] = frozen[address]
    if tied:
        raise TrainingError(
            "tied weights",
            found=f"{len(tied)} shared by a block that trains and one that is frozen",
            expected="blocks that share weights to train together",
            hint="name both blocks in the stage's `train`",
            details=[f"{name} is {other}" for name, other in tied.items()],
        )
