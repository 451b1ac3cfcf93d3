"""What is fresh and what is not, asked without Prefect, torch or MLflow: the answer of a run with nothing to do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline import preflight
from pipeline.context import Console
from pipeline.errors import ConfigError
from pipeline.memory import Memory, State
from pipeline.records import EvaluateRecord, RegisterRecord
from pipeline.upgrade import outdated, upgrade
from pipeline.workspace import STEPS, Workspace, lock


@dataclass(frozen=True)
class Glance:
    """The state of a workspace."""

    states: dict[str, State]
    evaluated: EvaluateRecord | None  # of the last finished evaluation, fresh or not
    registered: RegisterRecord | None  # of that evaluation, where it is registered

    @property
    def nothing_to_do(self) -> bool:
        return all(state.fresh for state in self.states.values()) and self.registered is not None


def glance(place: Workspace) -> Glance:
    """Asks DVC about every stage, and the receipt about the registration."""
    from pipeline.errors import MemoryFault
    from pipeline.receipts import receipt_is_current

    states = Memory(place.root).states()
    try:
        evaluated = EvaluateRecord.load(place.output("evaluate"))
    except MemoryFault:
        return Glance(states, None, None)
    return Glance(states, evaluated, receipt_is_current(place.config(), place, evaluated))


def bring_up_to_date(place: Workspace, console: Console) -> None:
    """Rewrites what an earlier version of Thaw wrote otherwise, and says so.

    Raises:
        ConfigError: params.yaml cannot be used, or was written by a newer version.
        WorkspaceError: dvc.yaml cannot be used, or another run has the workspace.
    """
    if not outdated(place):
        return
    with lock(place):
        for line in upgrade(place):
            console.say(line)


def refuse_changed_weights(place: Workspace) -> None:
    """Makes sure that the backbone's weights file, where it is here, is the one that backbone.lock names.

    DVC cannot tell: the stage depends on the lock, since the file may lie anywhere.

    Raises:
        ConfigError: params.yaml cannot be used.
        BackboneError: the file is another one.
    """
    from pipeline.models import backbone_lock, references

    backbone_lock.remove_secrets(place.root)
    references.refuse_changed(place.config().backbone, place.root, place.scratch)


def check_steps(force: Sequence[str]) -> None:
    """Refuses to force what is no step.

    Raises:
        ConfigError: one of them does not exist.
    """
    unknown = set(force) - {*STEPS, "register"}
    if unknown:
        raise ConfigError("--force", found=", ".join(sorted(unknown)), expected=", ".join((*STEPS, "register")))


def check(place: Workspace, stale: Collection[str], force: Sequence[str] = ()) -> None:
    """What would stop a run at once, asked before seconds are spent on starting anything.

    Args:
        stale: the steps that something changed for.

    Raises:
        ConfigError: params.yaml, or a forced step that does not exist.
        PreflightError: a name or setting that would stop the run later.
        WorkspaceError: another run has the workspace.
    """
    check_steps(force)
    config = place.config()
    preflight.require(list(preflight.quick_checks(place, config, preflight.needed_steps(stale, force))))
    with lock(place):
        pass
