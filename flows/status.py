"""What is fresh and what is not, asked without Prefect, torch or MLflow: the answer of
a run with nothing to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from flows import report
from pipeline import preflight
from pipeline.context import Console
from pipeline.errors import ConfigError, ThawError, VersioningError
from pipeline.receipts import current_promotion, current_receipt
from pipeline.records import EvaluateRecord, PromoteRecord, RegisterRecord
from pipeline.step_table import STEPS
from pipeline.upgrade import list_changes, upgrade
from pipeline.versioning import StageState, Versioning
from pipeline.workspace import Workspace, lock


@dataclass(frozen=True)
class WorkspaceStatus:
    """The state of a workspace.

    Args:
        states: of the DVC stages, by name.
        evaluated: of the last finished evaluation, fresh or not.
        registered: of that evaluation, where it is registered.
        promoted: what was decided about that version, where nothing changed since.
        report_reason: why report.html has to be made again; empty where it has not, or
            there is nothing to report.
    """

    states: dict[str, StageState]
    evaluated: EvaluateRecord | None
    registered: RegisterRecord | None
    promoted: PromoteRecord | None = None
    report_reason: str = ""

    @property
    def nothing_to_do(self) -> bool:
        if any(not state.fresh for state in self.states.values()):
            return False
        return self.registered is not None and self.promoted is not None

    @property
    def stale_steps(self) -> list[str]:
        stale = []
        for name, state in self.states.items():
            if not state.fresh:
                stale.append(name)
        return stale


def examine_status(workspace: Workspace) -> WorkspaceStatus:
    """Asks DVC about every stage, and the receipt about the registration."""
    states = Versioning(workspace.root).states()
    try:
        evaluated = EvaluateRecord.load(workspace.output("evaluate"))
    except VersioningError:
        return WorkspaceStatus(states, None, None)
    config = workspace.config()
    registered = current_receipt(config, workspace, evaluated)
    if registered is None:
        return WorkspaceStatus(states, evaluated, None)
    promoted = current_promotion(config, workspace, registered)
    if promoted is None:
        return WorkspaceStatus(states, evaluated, registered)
    reason = report.find_report_fault(workspace, states, registered, promoted)
    return WorkspaceStatus(states, evaluated, registered, promoted, reason)


def make_report(
    workspace: Workspace, status: WorkspaceStatus, console: Console
) -> None:
    """Makes report.html again where nothing else is to do.

    Raises:
        WorkspaceError: another run has the workspace.
    """
    from pipeline.steps.run import open_tracker

    with lock(workspace):
        tracker = open_tracker(workspace.config(), workspace, console)
        assert status.registered is not None
        assert status.promoted is not None
        versioning = Versioning(workspace.root)
        report.make_report(
            workspace, versioning, status.registered, status.promoted, tracker
        )


def bring_up_to_date(workspace: Workspace, console: Console) -> None:
    """`prepare_workspace`, where there is anything to do; takes the workspace's lock
    for it.

    Raises:
        WorkspaceError: another run has the workspace; besides what `prepare_workspace`
            raises.
    """
    versioning = Versioning(workspace.root)
    versioning.refuse_conflicts()
    if list_changes(workspace) or not versioning.tracked_files_are_current():
        with lock(workspace):
            prepare_workspace(workspace, console)


def prepare_workspace(workspace: Workspace, console: Console) -> None:
    """Rewrites what an earlier version of Thaw wrote otherwise, and follows data.dvc
    and ledger.dvc where they changed; says what was done. The workspace's lock is held.

    Raises:
        ConfigError: params.yaml cannot be used, or was written by a newer version.
        WorkspaceError: dvc.yaml cannot be used, or a Git merge conflict was left
            unresolved.
        VersioningError, LedgerError: what is tracked cannot be restored, or what was
            edited here is in the way.
    """
    versioning = Versioning(workspace.root)
    versioning.refuse_conflicts()
    _show_lines(console, upgrade(workspace))
    _show_lines(console, versioning.update_data())
    _show_lines(console, versioning.update_ledger())


def _show_lines(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.info(line)


def list_unshared(workspace: Workspace) -> list[str]:
    """What wants committing and pushing, in a user's words: a lost ledger would bring
    test examples into training.

    A run that did its work is no worse where this cannot be told; that is said then.
    """
    try:
        unshared = Versioning(workspace.root).unshared()
    except ThawError as fault:
        return [f"cannot tell what is not committed or pushed: {fault.found}"]
    lines = []
    if unshared.not_added:
        lines.append(
            f"{unshared.not_added}; track the data with: dvc add {workspace.config().data.path}"
        )
    if unshared.uncommitted:
        lines.append(f"not committed to Git: {', '.join(unshared.uncommitted)}")
    if unshared.unpushed:
        lines.append(
            f"not in the DVC remote: {', '.join(unshared.unpushed)}; push with: dvc push"
        )
    return lines


def follow_champion(workspace: Workspace, console: Console) -> bool:
    """Where everything is fresh: whether the registry has another champion to start
    from, which makes finetune stale.

    Asking the registry takes seconds.

    Raises:
        TrainingError: champion.lock is not what Thaw writes.
        WorkspaceError: another run has the workspace.
    """
    from pipeline.steps import champion

    with lock(workspace):
        return champion.follow(workspace, (), console)


def refuse_changed_weights(workspace: Workspace) -> None:
    """Makes sure that the backbone's weights file, where it is here, is the one that
    backbone.lock names.

    DVC cannot tell: the stage depends on the lock, since the file may lie anywhere.

    Raises:
        ConfigError: params.yaml cannot be used.
        BackboneError: the file is another one.
    """
    from pipeline.models import backbone_lock, references

    backbone_lock.remove_secrets(workspace.root)
    references.refuse_changed_file(
        workspace.config().backbone, workspace.root, workspace.scratch
    )


def check_step_names(names: Sequence[str]) -> None:
    """Refuses to force what is no step.

    Raises:
        ConfigError: one of them does not exist.
    """
    unknown = sorted(set(names) - set(STEPS))
    if unknown:
        raise ConfigError(
            "--force", found=", ".join(unknown), expected=", ".join(STEPS)
        )


def check_before_starting(
    workspace: Workspace, stale: Collection[str], force: Sequence[str] = ()
) -> None:
    """What would stop a run at once, asked before seconds are spent on starting
    anything.

    Args:
        stale: the steps that something changed for.

    Raises:
        ConfigError: params.yaml, or a forced step that does not exist.
        PreflightError: a name or setting that would stop the run later.
        WorkspaceError: another run has the workspace.
    """
    check_step_names(force)
    needed = preflight.needed_steps(stale, force)
    checks = list(preflight.quick_checks(workspace, workspace.config(), needed))
    preflight.require(checks)
    with lock(workspace):
        pass
