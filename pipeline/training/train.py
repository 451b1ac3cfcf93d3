"""One recipe from its first stage to its last, whatever interrupts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pipeline.config import StageConfig
from pipeline.records import digest
from pipeline.training import pace
from pipeline.training.candidates import checkpoints_of
from pipeline.training.checkpoints import Checkpoint, Checkpoints
from pipeline.training.crash import crash_point
from pipeline.training.determinism import deterministic
from pipeline.training.feeding import Job
from pipeline.training.interrupt import Stop
from pipeline.training.loop import Session, StageRun
from pipeline.training.plan import Plan
from pipeline.training.position import Position, Row, machine
from pipeline.training.trouble import NotFinite

if TYPE_CHECKING:
    from pipeline.models.blocks import BlockedModel


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
class Trained:
    """A finished training.

    Args:
        probabilities: (N, C) of the validation examples at the best result, in the order of their ids.
        spent: stage → seconds by what was done, and `examples` trained on, in this process.
        checkpoints: to be cleared once the result is in its place.
    """

    model: BlockedModel
    position: Position
    probabilities: torch.Tensor
    spent: dict[str, Counter[str]]
    checkpoints: Checkpoints


def train(
    job: Job, recipe: Recipe, choose: Callable[[], Plan], stop: Stop, report: Callable[[list[Row]], None]
) -> Trained:
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
        job.console.say(f"{recipe.name}: going on from epoch {found.position['epoch'] + 1}")
        report(Position.parse(found.position).rows)
    position = Position.parse(found.position) if found is not None else Position(plan=choose().model_dump(mode="json"))
    spent: dict[str, Counter[str]] = {stage.name: Counter() for stage in recipe.stages}
    while True:
        try:
            plan = _obeyed(session, position, choose)
            model, probabilities = _attempt(session, recipe.stages, position, plan, found, spent)
            return Trained(model, position, probabilities, spent, checkpoints)
        except NotFinite as fault:
            if position.plan["precision"] == "fp32":
                raise
            found, position = _in_fp32(session, position, fault)


def _in_fp32(session: Session, lost: Position, fault: NotFinite) -> tuple[Checkpoint | None, Position]:
    """The beginning of the stage that lost itself, to be done again in fp32.

    Not the newest checkpoint: when that was written depends on the clock, and the result must not.
    """
    session.job.console.say(
        f"{session.name}: {fault.thing}: {fault.found} in {lost.plan['precision']}; the stage again in fp32"
    )
    found = session.checkpoints.load(start=True)
    position = Position.parse(found.position) if found is not None else Position(plan={})
    position.plan = {**lost.plan, "precision": "fp32"}
    position.notes.append(f"{fault.thing}: {fault.found}; trained in fp32 from the beginning of that stage")
    return found, position


def _attempt(
    session: Session,
    stages: Sequence[StageConfig],
    position: Position,
    plan: Plan,
    found: Checkpoint | None,
    spent: dict[str, Counter[str]],
) -> tuple[BlockedModel, torch.Tensor]:
    """Trains what is left of the stages; the network, and the probabilities that its best validation gave."""
    kept = found.part("kept") if found is not None else {}
    moments = found.part("optimizer") if found is not None else {}
    with deterministic(plan.threads):
        model = session.job.build(found is None and stages[0].init == "keep")
        if found is not None:
            model.stock.load_state_dict(found.part("model"))
        for stage in stages[position.stage :]:
            run = StageRun(session, stage, plan, model, position, kept, spent[stage.name])
            run.run(moments)
            pace.check(run)
            plan, kept, moments = run.plan, run.kept, {}
    return model, kept["probabilities"]


def _obeyed(session: Session, position: Position, choose: Callable[[], Plan]) -> Plan:
    """The plan the position brings; where its device is gone, or the machine is another, that is said and noted."""
    plan = Plan.model_validate(position.plan)
    if plan.device.startswith("cuda") and not torch.cuda.is_available():
        plan = choose()
        position.plan = plan.model_dump(mode="json")
    before, now = position.machine, machine(plan.device, plan.threads)
    changed = [f"{what}: {before[what]} before, {now[what]} now" for what in before if before[what] != now[what]]
    if changed:
        note = "resumed on another machine, so not bit-identical to an uninterrupted training: " + "; ".join(changed)
        session.job.console.say(f"{session.name}: {note}")
        position.notes.append(note)
    position.machine = now
    return plan
