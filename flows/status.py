"""What is fresh and what is not, asked without Prefect, torch or MLflow: the answer of a run with nothing to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from flows import report
from pipeline import preflight
from pipeline.context import Console
from pipeline.errors import ConfigError, ThawError
from pipeline.records import EvaluateRecord, RegisterRecord
from pipeline.upgrade import outdated, upgrade
from pipeline.versioning import StageState, Versioning
from pipeline.workspace import STEPS, Workspace, lock


@dataclass(frozen=True)
class WorkspaceStatus:
    """The state of a workspace."""

    states: dict[str, StageState]
    evaluated: EvaluateRecord | None  # of the last finished evaluation, fresh or not
    registered: RegisterRecord | None  # of that evaluation, where it is registered
    report: str = ""  # why report.html has to be made again; empty where it has not, or there is nothing to report

    @property
    def nothing_to_do(self) -> bool:
        return all(state.fresh for state in self.states.values()) and self.registered is not None


def examine_status(place: Workspace) -> WorkspaceStatus:
    """Asks DVC about every stage, and the receipt about the registration."""
    from pipeline.errors import VersioningError
    from pipeline.receipts import receipt_is_current

    states = Versioning(place.root).states()
    try:
        evaluated = EvaluateRecord.load(place.output("evaluate"))
    except VersioningError:
        return WorkspaceStatus(states, None, None)
    registered = receipt_is_current(place.config(), place, evaluated)
    why = report.outdated(place, states, registered) if registered else ""
    return WorkspaceStatus(states, evaluated, registered, why)


def make_report(place: Workspace, registered: RegisterRecord, console: Console) -> None:
    """Makes report.html again where nothing else is to do.

    Raises:
        WorkspaceError: another run has the workspace.
    """
    from pipeline.steps.run import open_tracker

    with lock(place):
        tracker = open_tracker(place.config(), place, console)
        report.make(place, Versioning(place.root), registered, tracker)


def bring_up_to_date(place: Workspace, console: Console) -> None:
    """`prepare`, where there is anything to do; takes the workspace's lock for it.

    Raises:
        WorkspaceError: another run has the workspace; besides what `prepare` raises.
    """
    versioning = Versioning(place.root)
    versioning.refuse_conflicts()
    if outdated(place) or not versioning.pins_are_current():
        with lock(place):
            prepare(place, console)


def prepare(place: Workspace, console: Console) -> None:
    """Rewrites what an earlier version of Thaw wrote otherwise, and follows data.dvc and ledger.dvc where they changed;
    says what was done. The workspace's lock is held.

    Raises:
        ConfigError: params.yaml cannot be used, or was written by a newer version.
        WorkspaceError: dvc.yaml cannot be used, or a Git merge conflict was left unresolved.
        VersioningError, LedgerError: what is pinned cannot be had, or what was edited here is in the way.
    """
    versioning = Versioning(place.root)
    versioning.refuse_conflicts()
    _say_all(console, upgrade(place))
    _say_all(console, versioning.update_data())
    _say_all(console, versioning.update_ledger())


def _say_all(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.info(line)


def unshared(place: Workspace) -> list[str]:
    """What wants committing and pushing, in a user's words: a lost ledger would deal test examples into training.

    A run that did its work is no worse where this cannot be told; that is said then.
    """
    try:
        found = Versioning(place.root).unshared()
    except ThawError as fault:
        return [f"cannot tell what is not committed or pushed: {fault.found}"]
    lines = []
    if found.unpinned:
        lines.append(f"{found.unpinned}; pin the data with: dvc add {place.config().data.path}")
    if found.uncommitted:
        lines.append(f"not committed to Git: {', '.join(found.uncommitted)}")
    if found.unpushed:
        lines.append(f"not in the DVC remote: {', '.join(found.unpushed)}; push with: dvc push")
    return lines


def follow_champion(place: Workspace, console: Console) -> bool:
    """Where everything is fresh: whether the registry has another champion to start from, which makes finetune stale.

    Asking the registry takes seconds.

    Raises:
        TrainingError: champion.lock is not what Thaw writes.
        WorkspaceError: another run has the workspace.
    """
    from pipeline.steps import champion

    with lock(place):
        return champion.follow(place, (), console)


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
