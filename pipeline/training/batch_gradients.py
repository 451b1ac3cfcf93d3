"""The gradient of a stage's batches, in smaller parts from the moment that memory runs
out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.errors import TrainingError
from pipeline.training import sampling
from pipeline.training.determinism import set_random_state
from pipeline.training.gradient_accumulation import OutOfMemory, accumulate

if TYPE_CHECKING:
    from pipeline.objectives.base import Targets
    from pipeline.training.batch_source import Piece
    from pipeline.training.session import TrainingSession
    from pipeline.training.stage_setup import StageSetup
    from pipeline.training.train_state import TrainState


class BatchGradients:
    """Computes gradients; halves the plan's batch size where memory asks for it.

    Args:
        state: where the training is; its plan is obeyed and kept up to date.
        start: index of the block that batches are the input of.
    """

    def __init__(
        self, session: TrainingSession, setup: StageSetup, state: TrainState, start: int
    ) -> None:
        self._session = session
        self._setup = setup
        self._state = state
        self._start = start

    def __call__(self, pieces: list[Piece], targets: Targets) -> float:
        """Adds a batch's gradient to the parameters and returns its mean loss.

        Args:
            pieces: the batch, in parts of one shape each.
            targets: (N) of the whole batch.

        Raises:
            TrainingError: there is no memory for a single example.
        """
        setup = self._setup
        state = self._state
        while True:
            # Dropout follows from the step alone, wherever the training was
            # interrupted.
            seed = sampling.derive_seed(
                setup.job.config.seed, "step", state.stage, state.epoch, state.batch
            )
            set_random_state(seed, state.plan.device)
            try:
                return accumulate(
                    setup.model,
                    setup.objective,
                    state.plan,
                    self._start,
                    pieces,
                    targets,
                )
            except OutOfMemory as fault:
                size = fault.size
            self._halve(size)

    def _halve(self, size: int) -> None:
        if size == 1:
            raise TrainingError(
                f"stage '{self._setup.stage.name}'",
                found="no memory for a batch of one example",
                expected="room for at least one",
                hint="a smaller task.input.size, a smaller backbone, or more memory",
            )
        half = size // 2
        self._state.plan = self._state.plan.model_copy(update={"batch_size": half})
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._session.info(
            f"no memory for {size} examples at once; {half} at a time from here, "
            "their gradients added up to the same batch"
        )
