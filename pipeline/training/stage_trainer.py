"""One stage of a training from its beginning, or from the middle of it, to its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, TrainingError
from pipeline.records import SolvedHead, StageResult
from pipeline.training import (
    freeze,
    head_stage,
    lr_find,
    optimizers,
    validation_metrics,
)
from pipeline.training.batch_gradients import BatchGradients
from pipeline.training.crash_points import crash_point
from pipeline.training.progress import ANSWERS
from pipeline.training.stage_epochs import EpochTrainer, repeat_epoch
from pipeline.training.stage_saver import StageSaver
from pipeline.training.stage_setup import StageSetup, set_up
from pipeline.training.stage_validation import StageValidator
from pipeline.training.train_state import BestResult, Row, TrainState

if TYPE_CHECKING:
    import torch

    from pipeline.config import StageConfig
    from pipeline.models.network import BlockedNetwork
    from pipeline.training.batch_source import StageBatches
    from pipeline.training.progress import TrainingProgress
    from pipeline.training.session import TrainingSession


def train_stage(
    session: TrainingSession,
    stage: StageConfig,
    model: BlockedNetwork,
    progress: TrainingProgress,
    optimizer_state: dict[str, torch.Tensor],
    later_stages: Sequence[StageConfig] = (),
) -> StageTrainer:
    """Trains a stage to its end, or solves it where it is a linear head's.

    Args:
        progress: where the training is; kept up to date as it goes.
        optimizer_state: where the stage goes on in the middle; else empty.
        later_stages: those that will go on from it, in their order.

    Returns:
        The stage as it was trained, its best weights in the model.

    Raises:
        Interrupted: a signal came; everything is saved.
        NonFiniteError: the loss, or a weight, is NaN or infinite.
        TrainingError: a frozen tensor changed, or an example cannot be loaded.
    """
    trainer = open_stage(session, stage, model, progress, optimizer_state, later_stages)
    trainer.run()
    return trainer


def open_stage(
    session: TrainingSession,
    stage: StageConfig,
    model: BlockedNetwork,
    progress: TrainingProgress,
    optimizer_state: dict[str, torch.Tensor],
    later_stages: Sequence[StageConfig] = (),
) -> StageTrainer:
    """A stage that is ready to train, at its beginning or where it was interrupted; see
    `train_stage`.
    """
    state = progress.state
    times = progress.times[stage.name]
    begins = not state.opened
    if begins and stage.init == "random":
        model.stock.load_state_dict(session.job.build(False).stock.state_dict())
        progress.best_state = {}
    first_epoch = state.epoch if begins else state.epochs_before
    setup = set_up(session.job, stage, state.plan, model, later_stages, first_epoch)
    if begins:
        with times.timed("prove"):
            state.frozen_checksums = freeze.checksums(model, setup.scope)
        _note_head_solver(session, setup, state)
    with times.timed("prepare"):
        batches = setup.open_batches(state.plan, session.raise_if_stopped)
    gradients = BatchGradients(session, setup, state, batches.train.start)
    if begins:
        state.lr = _head_lr(session, setup, progress, batches, gradients)
    trainer = StageTrainer(session, setup, progress, batches, gradients)
    if begins:
        trainer.begin()
    else:
        trainer.resume(optimizer_state)
    return trainer


class StageTrainer:
    """A stage being trained.

    Args:
        batches: of the stage's training and validation examples.
        gradients: computes those of a batch.

    Attributes:
        progress: where the training is; kept up to date as it goes.
    """

    def __init__(
        self,
        session: TrainingSession,
        setup: StageSetup,
        progress: TrainingProgress,
        batches: StageBatches,
        gradients: BatchGradients,
    ) -> None:
        self.session = session
        self.setup = setup
        self.progress = progress
        self.batches = batches
        self._times = progress.times[setup.stage.name]
        max_lrs = setup.max_lrs(progress.state.lr)
        self._optimizer = setup.build_optimizer(max_lrs)
        self._max_lrs = {} if setup.is_solved else max_lrs
        self._solved: SolvedHead | None = None
        self._saver = StageSaver(session, setup.model, self._optimizer, progress)
        self._validator = StageValidator(
            setup, progress.state, batches.val, self._saver
        )
        self._epochs = EpochTrainer(
            session,
            setup,
            progress,
            batches.train,
            self._optimizer,
            gradients,
            self._saver,
        )

    def begin(self) -> None:
        """Notes the beginning of the stage in the training's state."""
        state = self.progress.state
        state.layout = optimizers.group_layout(self._optimizer)
        state.opened = True
        state.epochs_before = state.epoch
        if state.results and self.setup.stage.init == "keep":
            last = state.results[-1]
            state.best = BestResult(last.best_epoch, last.val)
            self._keep_best(self.progress.best_state[ANSWERS])

    def resume(self, optimizer_state: dict[str, torch.Tensor]) -> None:
        """Gives the optimiser the state of a checkpoint.

        Raises:
            TrainingError: the checkpoint's optimiser groups are others.
        """
        if optimizers.group_layout(self._optimizer) != self.progress.state.layout:
            raise TrainingError(
                f"stage '{self.setup.stage.name}'",
                found="a checkpoint whose optimiser groups are others",
                expected="the same parameters in the same groups",
                hint=f"remove {self.session.checkpoints.folder}",
            )
        optimizers.load_optimizer_state(self._optimizer, optimizer_state)

    def run(self) -> None:
        """Trains or solves the stage, restores its best weights and proves that what
        was frozen did not change; see `train_stage`.
        """
        with self.session.stop.deferred():
            if self.setup.is_solved:
                self._solve()
            else:
                self._train()
            self._close()

    def _train(self) -> None:
        while not self._is_finished():
            with self._times.timed("train"):
                self._epochs.train_epoch()
            with self._times.timed("validate"):
                self._end_epoch()

    def _is_finished(self) -> bool:
        state = self.progress.state
        patience = self.setup.job.config.patience
        if patience and state.epochs_without_improvement >= patience:
            return True
        return state.stage_epochs >= self.setup.stage.epochs

    def _solve(self) -> None:
        """The head at once, from nothing but the data: where this is interrupted, it is
        simply done again.
        """
        setup = self.setup
        state = self.progress.state
        with self._times.timed("solve"):
            solved = head_stage.solve_head(
                setup.job,
                setup.model,
                self.batches,
                setup.objective,
                state.plan,
                self.session.raise_if_stopped,
            )
        examples = len(setup.job.train)
        state.loss_sum = solved.loss * examples
        state.examples_seen = examples
        self._solved = solved
        with self._times.timed("validate"):
            self._end_epoch()

    def _end_epoch(self) -> None:
        """Validates, and keeps the weights where they are the best so far."""
        state = self.progress.state
        primary = self.setup.job.config.primary
        job = self.setup.job
        answers = self._validator.validate()
        metrics = job.task.scorer.validation_metrics(answers, job.val.targets)
        self._record_curves(metrics)
        score = validation_metrics.score(metrics, primary)
        state.epochs_without_improvement += 1
        if state.best_stage_score is None or score > state.best_stage_score:
            state.best_stage_score = (score.primary, score.tie_breaker)
            state.epochs_without_improvement = 0
        if state.best is None or score > validation_metrics.score(
            state.best.metrics, primary
        ):
            state.best = BestResult(state.epoch + 1, metrics)
            self._keep_best(answers)
        state.end_epoch()

    def _keep_best(self, answers: torch.Tensor) -> None:
        """Keeps the weights as they are now, with the answers (N, …) that they give to
        the validation examples.
        """
        best_state = self.setup.trained_weights()
        best_state[ANSWERS] = answers
        self.progress.best_state = best_state

    def _record_curves(self, metrics: dict[str, float]) -> None:
        """Adds the epoch's points to the curves: the mean loss, the rates of its last
        step, and validation metrics.
        """
        state = self.progress.state
        setup = self.setup
        # From the step alone: an optimiser that was just resumed has not been given its
        # rates yet.
        last_step = (state.stage_epochs + 1) * setup.batches_per_epoch - 1
        multiplier = optimizers.lr_multiplier(
            last_step, setup.steps, setup.stage.warmup
        )
        training = {"loss": state.loss_sum / state.examples_seen}
        for block, max_lr in self._max_lrs.items():
            training[f"lr/{block}"] = max_lr * multiplier
        rows: list[Row] = []
        for split, values in (("train", training), ("val", metrics)):
            for metric, value in values.items():
                rows.append(
                    Row(
                        setup.stage.name,
                        state.epoch + 1,
                        state.steps,
                        split,
                        metric,
                        value,
                    )
                )
        state.rows += rows
        self.session.report(rows)

    def _close(self) -> None:
        setup = self.setup
        state = self.progress.state
        best = state.best
        assert best is not None  # a stage has at least one epoch
        setup.restore_weights(self.progress.best_state)
        setup.model.unfuse()
        with self._times.timed("prove"):
            freeze_digest = freeze.verify_frozen(
                state.frozen_checksums, setup.model, setup.scope, setup.stage.name
            )
        closed = StageResult(
            name=setup.stage.name,
            epochs=state.stage_epochs,
            best_epoch=best.epoch,
            trained=setup.scope.trained,
            frozen=setup.scope.frozen,
            freeze_digest=freeze_digest,
            lr=self._max_lrs,
            val=best.metrics,
            solved=self._solved,
        )
        state.close_stage(closed)
        self.progress.best_state = {ANSWERS: self.progress.best_state[ANSWERS]}
        self._saver.save(start=True)
        crash_point("between-stages")


def sweep_lr(
    session: TrainingSession,
    stage: StageConfig,
    model: BlockedNetwork,
    progress: TrainingProgress,
) -> lr_find.Sweep:
    """Tries learning rates on a stage's own batches, from the weights the model has
    now; changes none of them.

    Raises:
        ConfigError: the stage is a linear head's, which is solved and has no rate.
    """
    setup = set_up(session.job, stage, progress.state.plan, model)
    if setup.is_solved:
        raise ConfigError(
            f"stage '{stage.name}'",
            found="a linear head, which is solved",
            expected="a stage that has a learning rate",
            hint="choose another stage, or set finetune.head_solver: optimizer",
        )
    batches = setup.open_batches(progress.state.plan, session.raise_if_stopped)
    gradients = BatchGradients(session, setup, progress.state, batches.train.start)
    return _sweep(setup, progress.state, batches, gradients)


def _sweep(
    setup: StageSetup,
    state: TrainState,
    batches: StageBatches,
    gradients: BatchGradients,
) -> lr_find.Sweep:
    optimizer = setup.build_optimizer(setup.relative_lrs())
    epoch = repeat_epoch(setup, batches.train, state.epoch)
    return lr_find.sweep_rates(setup.model.stock, optimizer, epoch, gradients)


def _head_lr(
    session: TrainingSession,
    setup: StageSetup,
    progress: TrainingProgress,
    batches: StageBatches,
    gradients: BatchGradients,
) -> float:
    """The head's peak rate: as configured, or as a sweep suggests, whose curve joins
    the others.
    """
    if setup.is_solved:
        return 0.0
    if setup.stage.lr != "auto":
        return setup.stage.lr
    name = setup.stage.name
    state = progress.state
    with progress.times[name].timed("sweep"):
        sweep = _sweep(setup, state, batches, gradients)
    for kind, values in (("rate", sweep.rates), ("loss", sweep.losses)):
        for step, value in enumerate(values):
            state.rows.append(
                Row(name, step, step, lr_find.SPLIT, f"{name}/{kind}", value)
            )
    rate = sweep.suggestion or lr_find.FALLBACK
    reason = (
        "by a sweep"
        if sweep.suggestion
        else "since no rate lowered the loss in the sweep"
    )
    state.notes.append(f"stage '{name}': lr {rate:.2g}, {reason}")
    session.info(f"{name}: lr {rate:.2g}, {reason}")
    return rate


def _note_head_solver(
    session: TrainingSession, setup: StageSetup, state: TrainState
) -> None:
    """Notes how a head's stage is trained, where the settings leave that open."""
    name = setup.stage.name
    if setup.is_solved:
        note = f"stage '{name}': solved; epochs, lr, warmup and patience do not apply"
    elif setup.solver_refusal:
        note = f"stage '{name}': trained by {setup.job.config.optimizer}, since {setup.solver_refusal}"
    else:
        return
    state.notes.append(note)
    session.info(note)
