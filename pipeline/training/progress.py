"""How far a training has come: its state, the best weights so far, and the time that it
took.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from pipeline.training.train_state import TrainState


class StageTimes(defaultdict[str, float]):
    """Seconds that a stage took in this process by what was done, and `examples`
    trained on.

    `train` includes `step`, the computing of gradients and the update of weights.
    """

    def __init__(self) -> None:
        super().__init__(float)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the time that the block takes, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            self[what] += time.monotonic() - began


# The name in checkpoints, from the time when all targets were classes.
ANSWERS = "probabilities"


@dataclass
class TrainingProgress:
    """What changes while a training runs, besides weights and optimiser; handed on from
    stage to stage.

    Args:
        state: where the training is.
        best_state: tensors of the best result: weights and buffers of the trained
            blocks as `weights/…`, and the validation answers (N, …) as `ANSWERS`. Empty
            before the first validation.
        times: by stage.
    """

    state: TrainState
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    times: defaultdict[str, StageTimes] = field(
        default_factory=lambda: defaultdict(StageTimes)
    )
