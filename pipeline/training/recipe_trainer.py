"""One recipe from its first stage to its last, whatever interrupts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from pipeline.training.stage_trainer import Session, StageTrainer
from pipeline.training.train_state import Row, TrainState, machine

if TYPE_CHECKING:
    from pipeline.models.network import BlockedNetwork


@dataclass(frozen=True)
class Recipe:
    """What one candidate is: a name, its stages, and everything that determines its result."""

    name: str
    stages: Sequence[StageConfig]
    identity: dict[str, Any]

    @property
    def key(self) -> str:
        return digest(self.identity)


@dataclass(frozen=True)
class TrainedRecipe:
    """A finished training.

    Args:
        probabilities: (N, C) of the validation examples at the best result, in the order of their ids.
        spent: stage → seconds by what was done, and `examples` trained on, in this process.
        checkpoints: to be cleared once the result is in its place.
    """

    model: BlockedNetwork
    position: TrainState
    probabilities: torch.Tensor
    spent: dict[str, Counter[str]]
    checkpoints: Checkpoints


def train(
    job: FinetuneJob,
    recipe: Recipe,
    choose: Callable[[], TrainingPlan],
    stop: StopSignal,
    report: Callable[[list[Row]], None],
) -> TrainedRecipe:
    """Trains a recipe, going on from its newest checkpoint where there is one.

    Args:
        choose: makes the plan; asked only where no checkpoint brings one.
        report: told the curves as they grow; the same points may come again.

    Raises:
        Interrupted: a signal came; everything is saved.
        TrainingError: the result could not be trusted; see `StageRun.run`.
    """
    settings, folder = job.config.checkpoint, checkpoints_of(job.scratch, recipe.key)
    checkpoints = Checkpoints(folder, recipe.identity, job.console, settings.keep, settings.every_seconds)
    session = Session(job, recipe.name, checkpoints, stop, report)
    found = checkpoints.load()
    if found is not None:
        crash_point("after-resume")
        job.console.info(f"{recipe.name}: going on from epoch {found.position['epoch'] + 1}")
        report(TrainState.parse(found.position).rows)
    position = (
        TrainState.parse(found.position) if found is not None else TrainState(plan=choose().model_dump(mode="json"))
    )
    spent: dict[str, Counter[str]] = {stage.name: Counter() for stage in recipe.stages}
    while True:
        try:
            plan = _obeyed(session, position, choose)
            model, probabilities = _attempt(session, recipe.stages, position, plan, found, spent)
            return TrainedRecipe(model, position, probabilities, spent, checkpoints)
        except NonFiniteError as fault:
            if position.plan["precision"] == "fp32":
                raise
            found, position = _in_fp32(session, position, fault)


def _in_fp32(session: Session, lost: TrainState, fault: NonFiniteError) -> tuple[Checkpoint | None, TrainState]:
    """The beginning of the stage that lost itself, to be done again in fp32.

    Not the newest checkpoint: when that was written depends on the clock, and the result must not.
    """
    session.job.console.info(
        f"{session.name}: {fault.subject}: {fault.found} in {lost.plan['precision']}; the stage again in fp32"
    )
    found = session.checkpoints.load(start=True)
    position = TrainState.parse(found.position) if found is not None else TrainState(plan={})
    position.plan = {**lost.plan, "precision": "fp32"}
    position.notes.append(f"{fault.subject}: {fault.found}; trained in fp32 from the beginning of that stage")
    return found, position


def _attempt(
    session: Session,
    stages: Sequence[StageConfig],
    position: TrainState,
    plan: TrainingPlan,
    found: Checkpoint | None,
    spent: dict[str, Counter[str]],
) -> tuple[BlockedNetwork, torch.Tensor]:
    """Trains what is left of the stages; the network, and the probabilities that its best validation gave."""
    kept = found.part("kept") if found is not None else {}
    optimizer_state = found.part("optimizer") if found is not None else {}
    with deterministic(plan.threads):
        model = session.job.build(found is None and stages[0].init == "keep")
        if found is not None:
            model.stock.load_state_dict(found.part("model"))
        for stage in stages[position.stage :]:
            run = StageTrainer(session, stage, plan, model, position, kept, spent[stage.name])
            run.run(optimizer_state)
            throughput.check(run)
            plan, kept, optimizer_state = run.plan, run.kept, {}
    return model, kept["probabilities"]


def _obeyed(session: Session, position: TrainState, choose: Callable[[], TrainingPlan]) -> TrainingPlan:
    """The plan the position brings; where its device is gone, or the machine is another, that is said and noted."""
    plan = TrainingPlan.model_validate(position.plan)
    if plan.device.startswith("cuda") and not torch.cuda.is_available():
        plan = choose()
        position.plan = plan.model_dump(mode="json")
    before, now = position.machine, machine(plan.device, plan.threads)
    changed = [f"{what}: {before[what]} before, {now[what]} now" for what in before if before[what] != now[what]]
    if changed:
        note = "resumed on another machine, so not bit-identical to an uninterrupted training: " + "; ".join(changed)
        session.job.console.info(f"{session.name}: {note}")
        position.notes.append(note)
    position.machine = now
    return plan
