"""One recipe from its first stage to its last, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.config import StageConfig
from pipeline.records import digest
from pipeline.training import throughput
from pipeline.training.batch_source import FinetuneJob
from pipeline.training.candidates import checkpoints_of
from pipeline.training.checkpoints import Checkpoint, Checkpoints
from pipeline.training.crash_points import crash_point
from pipeline.training.determinism import deterministic
from pipeline.training.interruption import StopSignal
from pipeline.training.numerics import NonFiniteError
from pipeline.training.plan import TrainingPlan
from pipeline.training.progress import ANSWERS, StageTimes, TrainingProgress
from pipeline.training.session import TrainingSession
from pipeline.training.stage_trainer import train_stage
from pipeline.training.train_state import Row, TrainState, machine

if TYPE_CHECKING:
    from pipeline.models.network import BlockedNetwork


@dataclass(frozen=True)
class Recipe:
    """What one candidate is: a name, its stages, and everything that determines its
    result.
    """

    name: str
    stages: Sequence[StageConfig]
    identity: Mapping[str, object]

    @property
    def key(self) -> str:
        return digest(self.identity)


@dataclass(frozen=True)
class TrainedRecipe:
    """A finished training.

    Args:
        answers: (N, …) to the validation examples at the best result, in the order of
            their ids.
        times: of each stage, in this process.
        checkpoints: to be cleared once the result is in its place.
    """

    model: BlockedNetwork
    state: TrainState
    answers: torch.Tensor
    times: Mapping[str, StageTimes]
    checkpoints: Checkpoints


def train(
    job: FinetuneJob,
    recipe: Recipe,
    choose_plan: Callable[[], TrainingPlan],
    stop: StopSignal,
    report: Callable[[list[Row]], None],
) -> TrainedRecipe:
    """Trains a recipe, going on from its newest checkpoint where there is one.

    Args:
        choose_plan: asked only where no checkpoint brings a plan, or where its device
            is gone.
        report: given the curves as they grow; the same points may come again.

    Raises:
        Interrupted: a signal came; everything is saved.
        TrainingError: the result could not be trusted; see
            `pipeline.training.stage_trainer.train_stage`.
    """
    settings = job.config.checkpoint
    folder = checkpoints_of(job.scratch, recipe.key)
    checkpoints = Checkpoints(
        folder, recipe.identity, job.console, settings.keep, settings.every_seconds
    )
    session = TrainingSession(job, recipe.name, checkpoints, stop, report)
    checkpoint = checkpoints.load()
    if checkpoint is None:
        progress = TrainingProgress(TrainState(plan=choose_plan()))
    else:
        progress = _resume(session, checkpoint)
    while True:
        try:
            _obey_plan(session, progress.state, choose_plan)
            model = _train_stages(session, recipe.stages, progress, checkpoint)
            answers = progress.best_state[ANSWERS]
            return TrainedRecipe(
                model, progress.state, answers, progress.times, checkpoints
            )
        except NonFiniteError as fault:
            if progress.state.plan.precision == "fp32":
                raise
            checkpoint = _restart_in_fp32(session, progress, fault)


def _resume(session: TrainingSession, checkpoint: Checkpoint) -> TrainingProgress:
    """The progress that a checkpoint holds."""
    crash_point("after-resume")
    state = TrainState.parse(checkpoint.state)
    session.info(f"going on from epoch {state.epoch + 1}")
    session.report(state.rows)
    return TrainingProgress(state, checkpoint.part("best"))


def _restart_in_fp32(
    session: TrainingSession, progress: TrainingProgress, fault: NonFiniteError
) -> Checkpoint | None:
    """Sets the progress back to the beginning of the stage that failed, to be done
    again in fp32.

    Not to the newest checkpoint: when that was written depends on the clock, and the
    result must not.

    Returns:
        The checkpoint to go on from; None where the first stage failed.
    """
    failed = progress.state.plan
    session.info(
        f"{fault.subject}: {fault.found} in {failed.precision}; the stage again in fp32"
    )
    plan = failed.model_copy(update={"precision": "fp32"})
    checkpoint = session.checkpoints.load(start=True)
    if checkpoint is None:
        progress.state = TrainState(plan=plan)
        progress.best_state = {}
    else:
        progress.state = TrainState.parse(checkpoint.state)
        progress.state.plan = plan
        progress.best_state = checkpoint.part("best")
    progress.state.notes.append(
        f"{fault.subject}: {fault.found}; trained in fp32 from the beginning of that stage"
    )
    return checkpoint


def _train_stages(
    session: TrainingSession,
    stages: Sequence[StageConfig],
    progress: TrainingProgress,
    checkpoint: Checkpoint | None,
) -> BlockedNetwork:
    """Trains what is left of the stages; the network.

    Args:
        progress: kept up to date.
        checkpoint: holds the weights to go on from; None: from the pretrained ones.
    """
    optimizer_state: dict[str, torch.Tensor] = {}
    with deterministic(progress.state.plan.threads):
        model = session.job.build(checkpoint is None and stages[0].init == "keep")
        if checkpoint is not None:
            model.stock.load_state_dict(checkpoint.part("model"))
            optimizer_state = checkpoint.part("optimizer")
        for number in range(progress.state.stage, len(stages)):
            trainer = train_stage(
                session,
                stages[number],
                model,
                progress,
                optimizer_state,
                stages[number + 1 :],
            )
            throughput.check_speed(trainer)
            optimizer_state = {}
    return model


def _obey_plan(
    session: TrainingSession, state: TrainState, choose_plan: Callable[[], TrainingPlan]
) -> None:
    """Keeps the state's plan but where its device is gone; where the machine is
    another, that is said and noted.
    """
    if state.plan.device.startswith("cuda") and not torch.cuda.is_available():
        state.plan = choose_plan()
    before = state.machine
    now = machine(state.plan.device, state.plan.threads)
    changed = []
    for what in before:
        if before[what] != now[what]:
            changed.append(f"{what}: {before[what]} before, {now[what]} now")
    if changed:
        note = (
            "resumed on another machine, so not bit-identical to an uninterrupted training: "
            + "; ".join(changed)
        )
        session.info(note)
        state.notes.append(note)
    state.machine = now
