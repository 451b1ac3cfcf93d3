"""Validation of a stage: what the network answers to the validation examples with the
weights as they are now.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.training import batchnorm, sampling, stages
from pipeline.training.batch_source import BatchSource, load_ahead
from pipeline.training.plan import autocast, to_input

if TYPE_CHECKING:
    from pipeline.training.sampling import Rows
    from pipeline.training.stage_saver import StageSaver
    from pipeline.training.stage_setup import StageSetup
    from pipeline.training.train_state import TrainState


class StageValidator:
    """Validates the network that a stage trains.

    Args:
        source: makes batches of the validation examples.
    """

    def __init__(
        self,
        setup: StageSetup,
        state: TrainState,
        source: BatchSource,
        saver: StageSaver,
    ) -> None:
        self._setup = setup
        self._state = state
        self._source = source
        self._saver = saver

    def validate(self) -> torch.Tensor:
        """Answers (N, …) to the validation examples presented plainly, in the order of
        their ids.

        Raises:
            Interrupted: a signal came; everything is saved.
        """
        self._estimate_statistics()
        setup = self._setup
        batches = sampling.same_shape_batches(
            setup.job.val.shapes, self._state.plan.batch_size
        )
        setup.model.stock.eval()
        try:
            with torch.inference_mode():
                answers = torch.cat(list(self._answers(batches)))
                order = np.argsort(np.concatenate(batches))
                return answers[torch.from_numpy(order)]
        finally:
            stages.set_modes(setup.model, setup.scope)

    def _answers(self, batches: list[Rows]) -> Iterator[torch.Tensor]:
        job = self._setup.job
        plan = self._state.plan
        work = (partial(self._source.batch, batch, None) for batch in batches)
        loaded = load_ahead(work, job.config.plan.workers)
        model = self._setup.model
        for batch, x in zip(
            batches, self._saver.save_when_interrupted(loaded), strict=True
        ):
            with autocast(plan):
                output = model.run(to_input(x, plan), self._source.start)
            targets = self._source.targets(batch, None)
            yield job.task.scorer.answers(model, output, targets).cpu()
            self._saver.pause()

    def _estimate_statistics(self) -> None:
        """BatchNorm statistics of the weights as they are now, where they move; see
        `pipeline.training.batchnorm`.
        """
        setup = self._setup
        if not setup.scope.batchnorm or not batchnorm.moving_statistics(setup.model):
            return
        job = setup.job
        source = BatchSource(job, job.train, None, 0)
        work = (
            partial(source.batch, batch, None)
            for batch in batchnorm.sample_batches(job.train.keys, job.config.seed)
        )
        loaded = load_ahead(work, job.config.plan.workers)
        batchnorm.estimate_statistics(
            setup.model, setup.scope, loaded, self._state.plan
        )
