"""Saving a stage while it trains: checkpoints when they are due, and at an
interruption.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import Interrupted
from pipeline.training import optimizers

if TYPE_CHECKING:
    import torch

    from pipeline.models.network import BlockedNetwork
    from pipeline.training.progress import TrainingProgress
    from pipeline.training.session import TrainingSession

T = TypeVar("T")


class StageSaver:
    """Writes the checkpoints of a stage."""

    def __init__(
        self,
        session: TrainingSession,
        model: BlockedNetwork,
        optimizer: torch.optim.Optimizer,
        progress: TrainingProgress,
    ) -> None:
        self._session = session
        self._model = model
        self._optimizer = optimizer
        self._progress = progress

    def save(self, *, start: bool = False) -> bool:
        """Writes a checkpoint of this very moment; False where the disk refused.

        Args:
            start: the stage is over: this is what the next one begins with, and it has
                an optimiser of its own.
        """
        optimizer_state = {} if start else optimizers.optimizer_state(self._optimizer)
        parts = {
            "model": self._model.stock.state_dict(),
            "optimizer": optimizer_state,
            "best": self._progress.best_state,
        }
        tensors: dict[str, torch.Tensor] = {}
        for part, named in parts.items():
            for name, tensor in named.items():
                tensors[f"{part}/{name}"] = tensor
        return self._session.checkpoints.save(
            self._progress.state.dump(), tensors, start=start
        )

    def pause(self) -> None:
        """Saves where a checkpoint is due.

        Raises:
            Interrupted: a signal came; everything is saved.
        """
        stop = self._session.stop
        if stop.asked.is_set():
            saved = self.save()
            raise Interrupted(
                f"training '{self._session.name}'",
                found=stop.reason,
                expected=""
                if saved
                else "room for a checkpoint; the one before it is kept",
                hint="thaw run goes on from here",
            )
        if self._session.checkpoints.due():
            self.save()

    def save_when_interrupted(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches; where a signal came while one was made, everything is saved
        first.
        """
        try:
            yield from batches
        except Interrupted:
            self.pause()
            raise
