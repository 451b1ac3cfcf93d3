"""One stage of a training: its epochs, its validation, its early stop, and going on in the middle of any of them."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from pipeline.config import StageConfig
from pipeline.errors import ConfigError, Interrupted, TrainingError
from pipeline.records import SolvedHead, StageResult
from pipeline.tensors import single_tensor
from pipeline.training import batchnorm, freeze, head_stage, optimizers, sampling, stages, validation_metrics
from pipeline.training.batch_source import BatchSource, FinetuneJob, Piece, ahead, feeds
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.crash_points import crash_point
from pipeline.training.determinism import seed
from pipeline.training.gradient_accumulation import OutOfMemory, accumulate
from pipeline.training.interruption import StopSignal
from pipeline.training.losses import objective
from pipeline.training.numerics import NonFiniteError
from pipeline.training.plan import TrainingPlan, autocast, place, to_input
from pipeline.training.train_state import BestResult, Row, TrainState

if TYPE_CHECKING:
    from pipeline.models.network import BlockedNetwork
    from pipeline.training.lr_find import Sweep
    from pipeline.training.sampling import Rows

Tensors = dict[str, torch.Tensor]
T = TypeVar("T")
SECONDS_BETWEEN_WORDS = 0.2


@dataclass(frozen=True)
class Session:
    """What the stages of one training share.

    Args:
        name: the candidate's.
        report: told the curves as they grow; the same points may come again.
    """

    job: FinetuneJob
    name: str
    checkpoints: Checkpoints
    stop: StopSignal
    report: Callable[[list[Row]], None]


@dataclass
class StageTrainer:
    """A stage being trained.

    Args:
        position: where the training is; kept up to date as it goes.
        kept: weights and buffers of the trained blocks at the best result, and the probabilities (N, C) that this
            result's validation gave, as `weights/…` and `probabilities`.
        spent: seconds by what was done, and `examples` trained on; `train` includes `step`, the computing.
        solved: how the stage's head was solved, once it is.
    """

    session: Session
    stage: StageConfig
    plan: TrainingPlan
    model: BlockedNetwork
    position: TrainState
    kept: Tensors
    spent: Counter[str] = field(default_factory=Counter)
    solved: SolvedHead | None = None

    @property
    def job(self) -> FinetuneJob:
        return self.session.job

    def run(self, optimizer_state: Tensors) -> None:
        """Trains the stage to its end, or solves it where it is a linear head's, restores its best and proves that what was frozen did not change.

        Args:
            moments: the optimiser's state where the stage goes on in the middle.

        Raises:
            Interrupted: a signal came; everything is saved.
            NotFinite: the loss, or a weight, is NaN or infinite.
            TrainingError: a frozen tensor changed, or an example cannot be loaded.
        """
        self._open(optimizer_state)
        with self._timed("prepare"):
            self._set_feeds()
        with self.session.stop.deferred():
            if self.solves:
                self._solve()
            else:
                self._train()
            self._close()

    def _train(self) -> None:
        while not self._finished():
            with self._timed("train"):
                self._train_epoch()
            with self._timed("validate"):
                self._end_epoch()

    # --- beginning and end ------------------------------------------------------------------------------
    def _open(self, optimizer_state: Tensors) -> None:
        job, position, stage = self.job, self.position, self.stage
        if not position.opened and stage.init == "random":
            self.model.stock.load_state_dict(job.build(False).stock.state_dict())
            self.kept = {}
        self._arrange()
        if not position.opened:
            self._say_how()
            position.lr = self._peak_rate()
        body_lr = None if stage.lr == "auto" else stage.body_lr
        names = [block.name for block in self.model.blocks]
        self.max_lrs = optimizers.rates(names, self.scope, position.lr, stage.lr_decay, body_lr)
        groups = optimizers.groups(self.model, self.max_lrs, job.config.weight_decay)
        self.optimizer = optimizers.build(job.config, groups)
        if self.solves:
            self.max_lrs = {}
        self.per_epoch = -(-len(job.train) // job.config.batch_size)
        if position.opened:
            self._check_layout()
            optimizers.restore_moments(self.optimizer, optimizer_state)
            return
        with self._timed("prove"):
            position.proof = freeze.take(self.model, self.scope)
        position.layout = optimizers.layout(self.optimizer)
        position.opened, position.begun = True, position.epoch
        if position.results and stage.init == "keep":
            last = position.results[-1]
            position.best = BestResult(last.best_epoch, last.val)
            self.kept = {"probabilities": self.kept["probabilities"], **self._weights()}

    def _check_layout(self) -> None:
        if optimizers.layout(self.optimizer) != self.position.layout:
            raise TrainingError(
                f"stage '{self.stage.name}'",
                found="a checkpoint whose optimiser groups are others",
                expected="the same parameters in the same groups",
                hint=f"remove {self.session.checkpoints.folder}",
            )

    def _arrange(self) -> None:
        """Puts the network into the state that the stage trains it in."""
        self.scope = stages.scope(self.model, self.stage)
        place(self.model, self.plan)
        stages.apply(self.model, self.scope)
        self.refusal = head_stage.refusal(self.job, self.model, self.scope)
        self.solves = self.refusal is None
        self._fuse()
        self.objective = objective(self.job.config, self.job.train.targets, len(self.job.labels))

    def _say_how(self) -> None:
        """How a head's stage is trained, where the settings leave that open."""
        name = self.stage.name
        if self.solves:
            note = f"stage '{name}': solved; epochs, lr, warmup and patience do not apply"
        elif self.refusal:
            note = f"stage '{name}': trained by {self.job.config.optimizer}, since {self.refusal}"
        else:
            return
        self.position.notes.append(note)
        self.job.console.info(f"{self.session.name}: {note}")

    def _fuse(self) -> None:
        """Has the frozen prefix run in fewer operations: its outputs, kept or not, come from the same ones."""
        plan = self.plan
        if plan.fuse and self.scope.boundary:
            x = BatchSource(self.job, self.job.train, None, 0).batch(np.arange(1), None)
            exact = plan.device == "cpu" and plan.precision == "fp32"
            self.model.fuse(to_input(x, plan), self.scope.boundary, activations=exact)

    def sweep(self) -> Sweep:
        """Tries learning rates on the stage's own batches, from the weights it has now; changes none of them."""
        from pipeline.training import lr_find

        self._arrange()
        if self.solves:
            raise ConfigError(
                f"stage '{self.stage.name}'",
                found="a linear head, which is solved",
                expected="a stage that has a learning rate",
                hint="choose another stage, or set finetune.head_solver: optimizer",
            )
        self._set_feeds()
        max_lrs = optimizers.rates([b.name for b in self.model.blocks], self.scope, 1.0, self.stage.lr_decay)
        optimizer = optimizers.build(
            self.job.config, optimizers.groups(self.model, max_lrs, self.job.config.weight_decay)
        )
        return lr_find.find(self.model.stock, optimizer, self._endless(), self._gradients)

    def _peak_rate(self) -> float:
        if self.solves:
            return 0.0
        return self._found_rate() if self.stage.lr == "auto" else self.stage.lr

    def _found_rate(self) -> float:
        """The peak rate that a sweep suggests; its curve joins the others."""
        from pipeline.training.lr_find import FALLBACK, SPLIT

        position, name = self.position, self.stage.name
        with self._timed("sweep"):
            sweep = self.sweep()
        for kind, values in (("rate", sweep.rates), ("loss", sweep.losses)):
            position.rows += [Row(name, n, n, SPLIT, f"{name}/{kind}", value) for n, value in enumerate(values)]
        rate = sweep.suggestion or FALLBACK
        found = f"lr {rate:.2g}, " + (
            "by a sweep" if sweep.suggestion else "since no rate lowered the loss in the sweep"
        )
        position.notes.append(f"stage '{name}': {found}")
        self.job.console.info(f"{self.session.name}: {name}: {found}")
        return rate

    def _endless(self) -> Iterator[tuple[list[Piece], torch.Tensor]]:
        """The stage's first epoch over and over: input of its first trained block, and targets."""
        stages.set_modes(self.model, self.scope)
        rows, shown, cuts = self._epoch()
        for cut in itertools.cycle(cuts):
            pieces = self.feeds["train"].pieces(rows[cut], shown[cut])
            yield pieces, self.job.train.targets[torch.from_numpy(rows[cut])]

    def _set_feeds(self) -> None:
        views = head_stage.presentations(self.job, self.model.blocks[-1]) if self.solves else self.job.config.views
        self.feeds = feeds(self.job, self.model, self.scope, self.plan, views, self._look_up)

    def _solve(self) -> None:
        """The head at once, from nothing but the data: where this is interrupted, it is simply done again."""
        position, examples = self.position, len(self.job.train)
        with self._timed("solve"):
            self.solved = head_stage.solve(self.job, self.model, self.feeds, self.objective, self.plan, self._look_up)
        position.loss, position.seen = self.solved.loss * examples, examples
        with self._timed("validate"):
            self._end_epoch()

    def _finished(self) -> bool:
        done = self.position.epoch - self.position.begun
        patience = self.job.config.patience
        return done >= self.stage.epochs or bool(patience and self.position.epochs_without_improvement >= patience)

    def _close(self) -> None:
        position, best = self.position, self.position.best
        assert best is not None  # a stage has at least one epoch
        with torch.no_grad():
            for name, tensor in stages.tensors(self.model, self.scope.trained).items():
                tensor.copy_(self.kept[f"weights/{name}"])
        self.model.unfuse()
        with self._timed("prove"):
            proof = freeze.verify(position.proof, self.model, self.scope, self.stage.name)
        result = StageResult(
            name=self.stage.name,
            epochs=position.epoch - position.begun,
            best_epoch=best.epoch,
            trained=self.scope.trained,
            frozen=self.scope.frozen,
            freeze_digest=proof,
            lr=self.max_lrs,
            val=best.metrics,
            solved=self.solved,
        )
        position.close(result)
        self.kept = {"probabilities": self.kept["probabilities"]}
        self.save(start=True)
        crash_point("between-stages")

    # --- an epoch ---------------------------------------------------------------------------------------
    def _epoch(self) -> tuple[Rows, Rows, list[Rows]]:
        """What the epoch shows: positions and views in its order, and the cuts that make batches of them."""
        train, config, epoch = self.job.train, self.job.config, self.position.epoch
        rows, repeats = sampling.epoch_rows(train.keys, train.targets.numpy(), config.sampling, config.seed, epoch)
        shown = sampling.views(train.keys[rows], epoch, config.views, repeats)
        shapes = train.shapes[rows]
        if (shapes == shapes[0]).all():
            return rows, shown, sampling.batches(np.arange(len(rows)), config.batch_size)
        return rows, shown, sampling.shape_batches(shapes, config.batch_size, config.seed, epoch)

    def _train_epoch(self) -> None:
        rows, shown, cuts = self._epoch()
        cuts = cuts[self.position.batch :]
        stages.set_modes(self.model, self.scope)
        feed = self.feeds["train"]
        loaded = ahead((partial(feed.pieces, rows[cut], shown[cut]) for cut in cuts), self.job.config.plan.workers)
        for cut, pieces in zip(cuts, self._watched(loaded), strict=True):
            with self._timed("step"):
                self._step(pieces, rows[cut])
            self._tell()
            self._pause()
        freeze.check_modes(self.model, self.scope, self.stage.name)
        crash_point("last-batch")

    def _step(self, pieces: list[Piece], chosen: Rows) -> None:
        """One optimiser step; nothing of the step is left behind where it raises."""
        job, position = self.job, self.position
        done = (position.epoch - position.begun) * self.per_epoch + position.batch
        optimizers.set_rates(self.optimizer, done, self.stage.epochs * self.per_epoch, self.stage.warmup)
        targets = job.train.targets[torch.from_numpy(chosen)]
        loss = self._gradients(pieces, targets)
        owned = [p for group in self.optimizer.param_groups for p in group["params"]]
        limit = job.config.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(owned, float("inf") if limit is None else limit).item()
        if not np.isfinite([loss, norm]).all():
            raise NonFiniteError(
                f"stage '{self.stage.name}', epoch {position.epoch + 1}, batch {position.batch + 1}",
                found=f"a loss of {loss:g} with a gradient of norm {norm:g}",
                expected="finite numbers",
                hint="look at these examples; lower the learning rate, or set finetune.plan.precision: fp32",
                details=[job.train.ids[turn] for turn in chosen.tolist()],
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        position.batch += 1
        position.steps += 1
        position.loss += loss * len(chosen)
        position.seen += len(chosen)
        self.spent["examples"] += len(chosen)

    def _gradients(self, pieces: list[Piece], targets: torch.Tensor) -> float:
        """Accumulates the batch's gradient and returns its mean loss, in as many pieces as memory asks for."""
        position, start = self.position, self.feeds["train"].start
        while True:
            # Dropout follows from the step alone, wherever the training was interrupted.
            counted = sampling.counted(self.job.config.seed, "step", position.stage, position.epoch, position.batch)
            seed(counted, self.plan.device)
            try:
                return accumulate(self.model, self.objective, self.plan, start, pieces, targets)
            except OutOfMemory as fault:
                size = fault.size
            self._halve(size)

    def _halve(self, size: int) -> None:
        if size == 1:
            raise TrainingError(
                f"stage '{self.stage.name}'",
                found="no memory for a batch of one example",
                expected="room for at least one",
                hint="a smaller task.input.size, a smaller backbone, or more memory",
            )
        self.plan = self.plan.model_copy(update={"batch_size": size // 2})
        self.position.plan = self.plan.model_dump(mode="json")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.job.console.info(
            f"{self.session.name}: no memory for {size} examples at once; {size // 2} at a time from here, "
            "their gradients added up to the same batch"
        )

    # --- between batches --------------------------------------------------------------------------------
    def _pause(self) -> None:
        """Saves where a save is due, and ends where an end was asked for."""
        if self.session.stop.asked.is_set():
            saved = self.save()
            raise Interrupted(
                f"training '{self.session.name}'",
                found=self.session.stop.reason,
                expected="" if saved else "room for a checkpoint; the one before it is kept",
                hint="thaw run goes on from here",
            )
        if self.session.checkpoints.due():
            self.save()

    def _look_up(self) -> None:
        """Ends a long piece of work inside a batch, in whatever thread does it, where an end was asked for."""
        if self.session.stop.asked.is_set():
            raise Interrupted(f"training '{self.session.name}'", found=self.session.stop.reason)

    def _watched(self, loaded: Iterator[T]) -> Iterator[T]:
        """The batches; where an end was asked for while one was made, everything is saved first."""
        try:
            yield from loaded
        except Interrupted:
            self._pause()
            raise

    def save(self, *, start: bool = False) -> bool:
        """Writes a checkpoint of this very moment."""
        optimizer_state = {} if start else optimizers.optimizer_state(self.optimizer)
        parts = {"model": self.model.stock.state_dict(), "optimizer": optimizer_state, "kept": self.kept}
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        return self.session.checkpoints.save(self.position.dump(), tensors, start=start)

    def _tell(self) -> None:
        total = self.stage.epochs * self.per_epoch
        done = (self.position.epoch - self.position.begun) * self.per_epoch + self.position.batch
        now = time.monotonic()
        if now - getattr(self, "_told", 0.0) >= SECONDS_BETWEEN_WORDS and done < total:
            self._told = now
            best = self.position.best
            note = "" if best is None else f"{self.job.config.primary} {best.metrics[self.job.config.primary]:.4f}"
            self.job.console.progress(f"{self.session.name}: {self.stage.name}", done, total, note)

    # --- validation -------------------------------------------------------------------------------------
    def _end_epoch(self) -> None:
        position, config = self.position, self.job.config
        self._estimate_statistics()
        probabilities = self.validate()
        metrics = validation_metrics.of(probabilities.double(), self.job.val.targets)
        self._note(metrics)
        result = validation_metrics.score(metrics, config.primary)
        position.epochs_without_improvement += 1
        if position.top is None or result > position.top:
            position.top, position.epochs_without_improvement = (result.primary, result.negative_log_loss), 0
        if position.best is None or result > validation_metrics.score(position.best.metrics, config.primary):
            position.best = BestResult(position.epoch + 1, metrics)
            self.kept = {"probabilities": probabilities, **self._weights()}
        position.epoch += 1
        position.batch, position.loss, position.seen = 0, 0.0, 0

    def _estimate_statistics(self) -> None:
        """BatchNorm statistics of the weights as they are now, where they move; see `pipeline.training.batchnorm`."""
        if not self.scope.batchnorm or not batchnorm.moving_statistics(self.model):
            return
        train = self.job.train
        feed = BatchSource(self.job, train, None, 0)
        cuts = batchnorm.sample(train.keys, self.job.config.seed)
        loaded = ahead((partial(feed.batch, cut, None) for cut in cuts), self.job.config.plan.workers)
        batchnorm.estimate(self.model, self.scope, loaded, self.plan)

    def validate(self) -> torch.Tensor:
        """Probabilities (N, C), float32, of the validation examples presented plainly, in the order of their ids."""
        feed = self.feeds["val"]
        cuts = sampling.same_shape_batches(self.job.val.shapes, self.plan.batch_size)
        self.model.stock.eval()
        try:
            with torch.inference_mode():
                answers = torch.cat(list(self._answers(feed, cuts)))
                return answers[torch.from_numpy(np.argsort(np.concatenate(cuts)))]
        finally:
            stages.set_modes(self.model, self.scope)

    def _answers(self, feed: BatchSource, cuts: list[Rows]) -> Iterator[torch.Tensor]:
        loaded = ahead((partial(feed.batch, cut, None) for cut in cuts), self.job.config.plan.workers)
        for x in self._watched(loaded):
            with autocast(self.plan):
                output = self.model.run(to_input(x, self.plan), feed.start)
            yield self.job.task.scorer.probabilities(single_tensor(output)).cpu()
            self._pause()

    def _note(self, metrics: dict[str, float]) -> None:
        position = self.position
        # From the step alone: an optimiser that was just resumed has not been given its rates yet.
        done = (position.epoch + 1 - position.begun) * self.per_epoch - 1
        share = optimizers.factor(done, self.stage.epochs * self.per_epoch, self.stage.warmup)
        rates = {f"lr/{block}": peak * share for block, peak in self.max_lrs.items()}
        values = {"loss": position.loss / position.seen, **rates}
        rows = [
            Row(self.stage.name, position.epoch + 1, position.steps, split, metric, value)
            for split, named in (("train", values), ("val", metrics))
            for metric, value in named.items()
        ]
        position.rows += rows
        self.session.report(rows)

    def _weights(self) -> Tensors:
        own = stages.tensors(self.model, self.scope.trained)
        return {f"weights/{name}": tensor.detach().clone() for name, tensor in own.items()}

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.spent[what] += time.monotonic() - began  # type: ignore[assignment]
