"""Warm start: the champion's weights under a head for this run's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import TrainingError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from pipeline.models.network import BlockedNetwork


@dataclass(frozen=True)
class Champion:
    """The registered model a training starts from.

    Args:
        weights: its stock state dict, as safetensors.
        labels: its label space, in order.
        sha256: of the weights file.
        members: what it learnt from; see `pipeline.training.members`.
    """

    weights: Path
    labels: tuple[str, ...]
    sha256: str
    members: pa.Table


def load_champion(model: BlockedNetwork, champion: Champion, labels: Sequence[str]) -> None:
    """Gives a freshly built network the champion's weights; see `warm_start`."""
    from safetensors.torch import load_file

    head = [name for name, _ in model.blocks[-1].named_parameters()]
    state = warm_start(model.stock.state_dict(), load_file(champion.weights), labels, champion.labels, head)
    model.stock.load_state_dict(state)


def warm_start(
    fresh: Mapping[str, torch.Tensor],
    champion: Mapping[str, torch.Tensor],
    labels: Sequence[str],
    known: Sequence[str],
    head: Sequence[str],
) -> dict[str, torch.Tensor]:
    """A state dict with the champion's weights: in the head, the rows of classes that stay, matched by name, and
    fresh rows for new ones.

    Args:
        fresh: the new model's state, its head initialised for `labels`.
        champion: the champion's state, its head for `known`.
        labels: the label space now, in order.
        known: the champion's, in order.
        head: names of the head's tensors.

    Raises:
        TrainingError: the champion is another network; names the tensors that do not fit.
    """
    misfits: list[str] = []
    for name in dict.fromkeys([*fresh, *champion]):
        if not _fits(name, fresh, champion, len(labels), len(known), head):
            misfits.append(name)
    if misfits:
        raise TrainingError(
            "finetune.warm_start",
            found=f"a champion in which {len(misfits)} tensors do not fit this network",
            expected="a champion of the same backbone",
            hint="set finetune.warm_start: none",
            details=misfits,
        )
    kept = [label for label in labels if label in known]
    new_rows = [labels.index(label) for label in kept]
    old_rows = [known.index(label) for label in kept]
    state: dict[str, torch.Tensor] = {}
    for name, tensor in fresh.items():
        learnt = champion[name].to(tensor.dtype)
        is_by_class = tensor.ndim and tensor.shape[0] == len(labels) and learnt.shape[0] == len(known)
        if name in head and is_by_class:
            state[name] = tensor.clone()
            state[name][new_rows] = learnt[old_rows]
        else:
            state[name] = learnt.clone()
    return state


def _fits(
    name: str,
    fresh: Mapping[str, torch.Tensor],
    champion: Mapping[str, torch.Tensor],
    labels: int,
    known: int,
    head: Sequence[str],
) -> bool:
    if name not in fresh or name not in champion:
        return False
    ours = tuple(fresh[name].shape)
    theirs = tuple(champion[name].shape)
    if ours == theirs:
        return True
    if name not in head or not ours:
        return False
    inner = ours[1:]
    return ours == (labels, *inner) and theirs == (known, *inner)
