"""The gradient of a batch, in pieces where memory asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.training import batchnorm
from pipeline.training.numerics import is_out_of_memory
from pipeline.training.plan import TrainingPlan, autocast, to_input

if TYPE_CHECKING:
    from pipeline.models.network import BlockedNetwork
    from pipeline.objectives.base import Targets, TrainingLoss
    from pipeline.training.batch_source import Piece


class OutOfMemory(Exception):
    """A piece of this many examples did not fit."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def accumulate(
    model: BlockedNetwork,
    objective: TrainingLoss,
    plan: TrainingPlan,
    start: int,
    pieces: Sequence[Piece],
    targets: Targets,
) -> float:
    """Adds the gradient of a batch's mean loss to the parameters, at most
    `plan.batch_size` examples at a time.

    Args:
        start: index of the block that the pieces are the input of.
        pieces: the batch, in parts of one shape each.
        targets: (N) of the whole batch.

    Returns:
        The mean loss.

    Raises:
        OutOfMemory: a part did not fit; no gradient is left behind, and BatchNorm
            statistics are as they were.
    """
    total_weight = objective.total_weight(targets)
    total = 0.0
    size = min(plan.batch_size, max(len(piece.x) for piece in pieces))
    statistics = [
        (buffer, buffer.clone()) for buffer in batchnorm.moving_statistics(model)
    ]
    try:
        for piece in pieces:
            own = targets[piece.places]
            for at in range(0, len(piece.x), size):
                part = slice(at, at + size)
                with autocast(plan):
                    loss = (
                        objective(
                            model, to_input(piece.x[part], plan), start, own[part]
                        )
                        / total_weight
                    )
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
    except (RuntimeError, MemoryError) as fault:
        if not is_out_of_memory(fault):
            raise
        model.stock.zero_grad(set_to_none=True)
        for buffer, before in statistics:
            buffer.copy_(before)
        raise OutOfMemory(size) from None
    return total
