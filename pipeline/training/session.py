"""What the stages of one training share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import Interrupted

if TYPE_CHECKING:
    from pipeline.training.batch_source import FinetuneJob
    from pipeline.training.checkpoints import Checkpoints
    from pipeline.training.interruption import StopSignal
    from pipeline.training.train_state import Row


@dataclass(frozen=True)
class TrainingSession:
    """The training of one candidate in this process.

    Args:
        name: the candidate's.
        report: given the curves as they grow; the same points may come again.
    """

    job: FinetuneJob
    name: str
    checkpoints: Checkpoints
    stop: StopSignal
    report: Callable[[list[Row]], None]

    def info(self, text: str) -> None:
        """Tells the user something about this candidate."""
        self.job.console.info(f"{self.name}: {text}")

    def raise_if_stopped(self) -> None:
        """Ends a long piece of work inside a batch, in whatever thread does it.

        Raises:
            Interrupted: a signal came.
        """
        if not self.stop.asked.is_set():
            return
        raise Interrupted(f"training '{self.name}'", found=self.stop.reason)
