"""The epochs of a stage: which examples one shows, and its optimiser steps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pipeline.training import freeze, optimizers, sampling, stages
from pipeline.training.batch_source import load_ahead
from pipeline.training.crash_points import crash_point
from pipeline.training.numerics import NonFiniteError

if TYPE_CHECKING:
    from pipeline.objectives.base import Targets
    from pipeline.training.batch_gradients import BatchGradients
    from pipeline.training.batch_source import BatchSource, FinetuneJob, Piece
    from pipeline.training.progress import TrainingProgress
    from pipeline.training.sampling import Rows
    from pipeline.training.session import TrainingSession
    from pipeline.training.stage_saver import StageSaver
    from pipeline.training.stage_setup import StageSetup

SECONDS_BETWEEN_UPDATES = 0.2  # of the progress line


class EpochOrder(NamedTuple):
    """What an epoch shows.

    Args:
        rows: (N,) positions of the examples, in the epoch's order.
        views: (N,) the view that each is shown in.
        batches: positions in `rows`, batch by batch.
    """

    rows: Rows
    views: Rows
    batches: list[Rows]


class LoadedBatch(NamedTuple):
    """A batch as a step takes it.

    Args:
        pieces: its input, in parts of one shape each.
        targets: (N) of the whole batch.
    """

    pieces: list[Piece]
    targets: Targets


def order_epoch(job: FinetuneJob, epoch: int, views: int) -> EpochOrder:
    """What an epoch shows, from settings and ids alone.

    Args:
        epoch: from 0, over the whole recipe.
        views: how many there are of each example.
    """
    train = job.train
    config = job.config
    rows, repeats = sampling.epoch_rows(
        train.keys, train.classes, config.sampling, config.seed, epoch
    )
    shown = sampling.views(train.keys[rows], epoch, views, repeats)
    shapes = train.shapes[rows]
    if (shapes == shapes[0]).all():
        batches = sampling.batches(np.arange(len(rows)), config.batch_size)
    else:
        batches = sampling.shape_batches(shapes, config.batch_size, config.seed, epoch)
    return EpochOrder(rows, shown, batches)


def repeat_epoch(
    setup: StageSetup, source: BatchSource, epoch: int
) -> Iterator[LoadedBatch]:
    """An epoch's batches over and over: input of the stage's first trained block, and
    targets.
    """
    stages.set_modes(setup.model, setup.scope)
    order = order_epoch(setup.job, epoch, setup.views)
    for batch in itertools.cycle(order.batches):
        yield load_batch(source, order.rows[batch], order.views[batch])


def load_batch(source: BatchSource, rows: Rows, views: Rows) -> LoadedBatch:
    """A batch of the examples at these positions (n,), each in its view."""
    pieces = source.pieces(rows, views)
    targets = source.targets(rows, views)
    return LoadedBatch(pieces, targets)


class EpochTrainer:
    """Trains the epochs of a stage.

    Args:
        source: makes batches of the training examples.
    """

    def __init__(
        self,
        session: TrainingSession,
        setup: StageSetup,
        progress: TrainingProgress,
        source: BatchSource,
        optimizer: torch.optim.Optimizer,
        gradients: BatchGradients,
        saver: StageSaver,
    ) -> None:
        self._session = session
        self._setup = setup
        self._state = progress.state
        self._times = progress.times[setup.stage.name]
        self._source = source
        self._optimizer = optimizer
        self._gradients = gradients
        self._saver = saver
        self._shown_at = 0.0

    def train_epoch(self) -> None:
        """Trains what is left of the running epoch.

        Raises:
            Interrupted: a signal came; everything is saved.
            NonFiniteError: the loss or the gradient is NaN or infinite.
            TrainingError: an example cannot be loaded, or memory does not hold one.
        """
        setup = self._setup
        order = order_epoch(setup.job, self._state.epoch, setup.views)
        remaining = order.batches[self._state.batch :]
        stages.set_modes(setup.model, setup.scope)
        work = (
            partial(load_batch, self._source, order.rows[batch], order.views[batch])
            for batch in remaining
        )
        loaded = load_ahead(work, setup.job.config.plan.workers)
        for batch, loaded_batch in zip(
            remaining, self._saver.save_when_interrupted(loaded), strict=True
        ):
            with self._times.timed("step"):
                self._step(loaded_batch, order.rows[batch])
            self._show_progress()
            self._saver.pause()
        freeze.check_modes(setup.model, setup.scope, setup.stage.name)
        crash_point("last-batch")

    def _step(self, batch: LoadedBatch, rows: Rows) -> None:
        """One optimiser step; nothing of the step is left behind where it raises."""
        state = self._state
        optimizers.set_rates(
            self._optimizer,
            self._steps_done(),
            self._setup.steps,
            self._setup.stage.warmup,
        )
        loss = self._gradients(batch.pieces, batch.targets)
        norm = self._clip_gradients()
        if not np.isfinite([loss, norm]).all():
            raise self._not_finite(loss, norm, rows)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        state.batch += 1
        state.steps += 1
        state.loss_sum += loss * len(rows)
        state.examples_seen += len(rows)
        self._times["examples"] += len(rows)

    def _steps_done(self) -> int:
        """Optimiser steps of this stage."""
        in_whole_epochs = self._state.stage_epochs * self._setup.batches_per_epoch
        return in_whole_epochs + self._state.batch

    def _clip_gradients(self) -> float:
        """Limits the gradient's norm where the settings say so, and returns what it
        was.
        """
        parameters: list[torch.Tensor] = []
        for group in self._optimizer.param_groups:
            parameters += group["params"]
        limit = self._setup.job.config.clip_norm
        if limit is None:
            limit = float("inf")
        return torch.nn.utils.clip_grad_norm_(parameters, limit).item()

    def _not_finite(self, loss: float, norm: float, rows: Rows) -> NonFiniteError:
        ids = self._setup.job.train.ids
        return NonFiniteError(
            f"stage '{self._setup.stage.name}', epoch {self._state.epoch + 1}, batch {self._state.batch + 1}",
            found=f"a loss of {loss:g} with a gradient of norm {norm:g}",
            expected="finite numbers",
            hint="look at these examples; lower the learning rate, or set finetune.plan.precision: fp32",
            details=[ids[row] for row in rows.tolist()],
        )

    def _show_progress(self) -> None:
        done = self._steps_done()
        total = self._setup.steps
        moment = time.monotonic()
        if moment - self._shown_at < SECONDS_BETWEEN_UPDATES or done >= total:
            return
        self._shown_at = moment
        best = self._state.best
        primary = self._setup.job.config.primary
        if best is None:
            note = ""
        else:
            note = f"{primary} {best.metrics[primary]:.4f}"
        self._session.job.console.progress(
            f"{self._session.name}: {self._setup.stage.name}", done, total, note
        )
