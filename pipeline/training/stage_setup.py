"""The set-up of a stage: what it trains, by which loss and rates, and the network in
the state for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.training import head_stage, optimizers, stages
from pipeline.training.batch_source import (
    BatchSource,
    LaterStage,
    StageBatches,
    stage_batches,
)
from pipeline.training.plan import TrainingPlan, place_network, to_input

if TYPE_CHECKING:
    import torch

    from pipeline.config import StageConfig
    from pipeline.models.network import BlockedNetwork
    from pipeline.objectives.base import TrainingLoss
    from pipeline.training.batch_source import FinetuneJob
    from pipeline.training.stages import StageScope


@dataclass(frozen=True)
class StageSetup:
    """A stage, and the network put into the state that the stage trains it in.

    Args:
        scope: the blocks that train and those that do not.
        objective: the loss.
        solver_refusal: why the stage is trained by the optimiser; "" where it is no
            head's stage at all, and None where it is a linear head's and solved.
        later: by their boundaries, ascending, the stages that will train from a lower
            block on, below which nothing changes until then.
    """

    job: FinetuneJob
    stage: StageConfig
    model: BlockedNetwork
    scope: StageScope
    objective: TrainingLoss
    solver_refusal: str | None
    later: tuple[LaterStage, ...]

    @property
    def is_solved(self) -> bool:
        """Whether the stage's head is solved instead of trained."""
        return self.solver_refusal is None

    @property
    def views(self) -> int:
        """How many views of each training example the stage shows."""
        return stages.count_views(self.job.config, self.scope)

    @property
    def batches_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        examples = len(self.job.train)
        batch_size = self.job.config.batch_size
        return -(-examples // batch_size)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole stage, where it does not stop early."""
        return self.stage.epochs * self.batches_per_epoch

    def max_lrs(self, head_lr: float) -> dict[str, float]:
        """The peak rate of each trained block, for this one at the head."""
        stage = self.stage
        body_lr = None if stage.lr == "auto" else stage.body_lr
        return optimizers.max_lrs(
            self.model.names, self.scope, head_lr, stage.lr_decay, body_lr
        )

    def relative_lrs(self) -> dict[str, float]:
        """The rate of each trained block as a share of the head's."""
        return optimizers.max_lrs(
            self.model.names, self.scope, 1.0, self.stage.lr_decay
        )

    def build_optimizer(self, max_lrs: dict[str, float]) -> torch.optim.Optimizer:
        """A new optimiser of the trained blocks with these peak rates."""
        config = self.job.config
        groups = optimizers.parameter_groups(self.model, max_lrs, config.weight_decay)
        return optimizers.build_optimizer(config, groups)

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """Copies of the trained blocks' parameters and buffers, as `weights/…`."""
        copies: dict[str, torch.Tensor] = {}
        for name, tensor in stages.block_tensors(
            self.model, self.scope.trained
        ).items():
            copies[f"weights/{name}"] = tensor.detach().clone()
        return copies

    def restore_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Gives the trained blocks what `trained_weights` copied."""
        import torch

        with torch.no_grad():
            for name, tensor in stages.block_tensors(
                self.model, self.scope.trained
            ).items():
                tensor.copy_(weights[f"weights/{name}"])

    def open_batches(
        self, plan: TrainingPlan, between: Callable[[], None]
    ) -> StageBatches:
        """The stage's batches of `train` and `val`.

        Args:
            between: called now and then while the frozen prefix is computed; may raise
                to end that.
        """
        views: int | None = self.views
        if self.is_solved:
            views = head_stage.count_presentations(self.job, self.model.blocks[-1])
        return stage_batches(
            self.job, self.model, self.scope, plan, views, between, self.later
        )


def set_up(
    job: FinetuneJob,
    stage: StageConfig,
    plan: TrainingPlan,
    model: BlockedNetwork,
    later_stages: Sequence[StageConfig] = (),
    first_epoch: int = 0,
) -> StageSetup:
    """Puts the network into the state that a stage trains it in.

    Args:
        later_stages: those that will go on from it, in their order.
        first_epoch: the stage's, over the whole recipe.

    Raises:
        ConfigError: the stage names a block that is not there, or trains none.
        TrainingError: a block that trains and one that is frozen share weights.
    """
    scope = stages.resolve_scope(model, stage)
    place_network(model, plan)
    stages.apply_scope(model, scope)
    refusal = head_stage.solver_refusal(job, model, scope)
    last_epochs = _find_later_boundaries(
        model, scope, later_stages, first_epoch + stage.epochs - 1
    )
    if plan.fuse and scope.boundary:
        _fuse_prefix(job, model, (*last_epochs, scope.boundary), plan)
    later = []
    for boundary, last_epoch in last_epochs.items():
        turns = _find_turns_shown_again(job, scope, first_epoch, last_epoch)
        if refusal is None:  # a head is solved on all views at once
            turns = None
        later.append(LaterStage(boundary, turns))
    loss = job.task.scorer.build_loss(job.config, job.train.targets, job.labels)
    return StageSetup(job, stage, model, scope, loss, refusal, tuple(later))


def _find_later_boundaries(
    model: BlockedNetwork,
    scope: StageScope,
    later_stages: Sequence[StageConfig],
    last_epoch: int,
) -> dict[int, int]:
    """The first trained blocks of later stages, ascending, that lie below all that is
    trained until then → the last epoch that is shown from there.

    Args:
        last_epoch: the running stage's, where it does not stop early.
    """
    lowest = scope.boundary
    last_epochs: dict[int, int] = {}
    for stage in later_stages:
        if stage.init == "random":
            break
        last_epoch += stage.epochs
        boundary = stages.resolve_scope(model, stage).boundary
        lowest = min(lowest, boundary)
        if 0 < boundary == lowest < scope.boundary:
            last_epochs[boundary] = last_epoch
    return dict(sorted(last_epochs.items()))


def _find_turns_shown_again(
    job: FinetuneJob, scope: StageScope, first_epoch: int, last_epoch: int
) -> frozenset[int] | None:
    """The turns of the epochs from the first one on that come again until the last;
    None where epochs show examples in several turns.
    """
    if job.config.sampling == "balanced":
        return None
    count = stages.count_views(job.config, scope)
    epochs = range(first_epoch, last_epoch - count + 1)
    return frozenset(epoch % count for epoch in epochs)


def _fuse_prefix(
    job: FinetuneJob, model: BlockedNetwork, stops: Sequence[int], plan: TrainingPlan
) -> None:
    """Has the frozen prefix run in fewer operations: its outputs, kept or not, come
    from the same ones.
    """
    source = BatchSource(job, job.train, None, 0)
    first_row = np.arange(1)
    example = to_input(source.batch(first_row, None), plan)
    is_exact = plan.device == "cpu" and plan.precision == "fp32"
    model.fuse(example, stops, activations=is_exact)
