"""Warm start: the champion's weights under a head for this run's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import TrainingError
from pipeline.models.network import ClassRows

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


def load_champion(
    model: BlockedNetwork, champion: Champion, labels: Sequence[str]
) -> None:
    """Gives a freshly built network the champion's weights; see `warm_start`."""
    from safetensors.torch import load_file

    fresh = model.stock.state_dict()
    rows = find_class_rows(model, fresh, len(labels))
    model.stock.load_state_dict(
        warm_start(fresh, load_file(champion.weights), labels, champion.labels, rows)
    )


def find_class_rows(
    model: BlockedNetwork, fresh: Mapping[str, torch.Tensor], classes: int
) -> dict[str, ClassRows]:
    """Which rows of which tensors belong to classes: as the network says, else those of
    its head that have a row a class.
    """
    stated: dict[str, ClassRows] | None = getattr(model, "class_rows", None)
    if stated is not None:
        return stated
    class_rows = {}
    for name, _ in model.blocks[-1].named_parameters():
        tensor = fresh[name]
        if tensor.ndim and tensor.shape[0] == classes:
            class_rows[name] = ClassRows(0, 1)
    return class_rows


def warm_start(
    fresh: Mapping[str, torch.Tensor],
    champion: Mapping[str, torch.Tensor],
    labels: Sequence[str],
    known: Sequence[str],
    rows: Mapping[str, ClassRows],
) -> dict[str, torch.Tensor]:
    """A state dict with the champion's weights: of what belongs to classes, the rows of
    those that stay, matched by name, and fresh rows for new ones.

    Args:
        fresh: the new model's state, its head initialised for `labels`.
        champion: the champion's state, its head for `known`.
        labels: the label space now, in order.
        known: the champion's, in order.
        rows: of the tensors that have rows for classes.

    Raises:
        TrainingError: the champion is another network; names the tensors that do not
            fit.
    """
    misfits: list[str] = []
    for name in dict.fromkeys([*fresh, *champion]):
        if not _fits(name, fresh, champion, len(labels), len(known), rows):
            ours = _describe_shape(fresh, name)
            theirs = _describe_shape(champion, name)
            misfits.append(f"{name}: {ours} here, {theirs} in the champion")
    if misfits:
        raise TrainingError(
            "finetune.warm_start",
            found=f"a champion in which {len(misfits)} tensors do not fit this network",
            expected="a champion of the same backbone, with a head of the same size",
            hint="set back `backbone` and `task.head`, or set finetune.warm_start: none",
            details=misfits,
        )
    state: dict[str, torch.Tensor] = {}
    for name, tensor in fresh.items():
        learnt = champion[name].to(tensor.dtype)
        state[name] = (
            _by_class(tensor, learnt, labels, known, rows[name])
            if name in rows
            else learnt.clone()
        )
    return state


def _describe_shape(state: Mapping[str, torch.Tensor], name: str) -> str:
    if name not in state:
        return "missing"
    return " × ".join(map(str, state[name].shape)) or "a number"


def _by_class(
    tensor: torch.Tensor,
    learnt: torch.Tensor,
    labels: Sequence[str],
    known: Sequence[str],
    rows: ClassRows,
) -> torch.Tensor:
    """The fresh tensor with the learnt rows of the classes that stay, and of what
    belongs to no class.
    """
    state = tensor.clone()
    state[: rows.first] = learnt[: rows.first]
    for position, label in enumerate(labels):
        if label in known:
            state[rows.of(position)] = learnt[rows.of(known.index(label))]
    return state


def _fits(
    name: str,
    fresh: Mapping[str, torch.Tensor],
    champion: Mapping[str, torch.Tensor],
    labels: int,
    known: int,
    rows: Mapping[str, ClassRows],
) -> bool:
    if name not in fresh or name not in champion:
        return False
    ours = tuple(fresh[name].shape)
    theirs = tuple(champion[name].shape)
    if name not in rows:
        return ours == theirs
    own = rows[name]
    inner = ours[1:]
    if ours != (own.count(labels), *inner):
        return False
    return theirs == (own.count(known), *inner)
