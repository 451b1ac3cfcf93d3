"""The retraining flow: the steps in order, each skipped where nothing it depends on has
changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows import report
from flows.dead_runs import close_dead_runs
from flows.status import (
    check_step_names,
    list_unshared,
    prepare_workspace,
    refuse_changed_weights,
)
from flows.step_task import (
    CONSOLE,
    PrefectConsole,
    StepOutcome,
    WorkspaceRun,
    run_as_task,
    run_step_as_task,
)
from pipeline import preflight, redaction
from pipeline.records import EvaluateRecord, PromoteRecord, RegisterRecord
from pipeline.step_table import STEPS
from pipeline.steps.run import new_run_dir, open_tracker
from pipeline.steps.summary import summarize
from pipeline.storage import storage_errors
from pipeline.text import pluralize
from pipeline.versioning import Versioning
from pipeline.workspace import Workspace, lock


@dataclass(frozen=True)
class RetrainSummary:
    """What a retraining came to."""

    outcomes: tuple[StepOutcome, ...]
    evaluated: EvaluateRecord
    registered: RegisterRecord
    promoted: PromoteRecord
    report: Path


@flow(name="retrain", persist_result=False, validate_parameters=False)
def retrain(workspace: str, force: Sequence[str] = ()) -> RetrainSummary:
    """Validate, split, fetch the backbone, fine-tune, evaluate, register, promote.

    Args:
        workspace: the workspace's folder.
        force: steps to run even where nothing changed.

    Raises:
        ConfigError: params.yaml, or a forced step that does not exist.
        ThawError: whatever a step has to say; nothing half-done is committed.
    """
    redaction.install()
    guarded = redaction.guarded(lambda: _retrain(Workspace(Path(workspace)), force))
    return guarded()


def _retrain(workspace: Workspace, force: Sequence[str]) -> RetrainSummary:
    check_step_names(force)  # before the lock and all that follows
    with storage_errors(workspace.root), lock(workspace):
        run = begin_run(workspace, force)
        _close_dead_runs(run)
        _check_before_running(run)
        records: dict[str, Any] = {}
        for name in STEPS:
            records[name] = run_step_as_task(run, name)
            if name == "split":  # the number of classes is known
                preflight.check_thresholds(
                    workspace.config(), len(records["split"].labels)
                )
        evaluated = records["evaluate"]
        registered = records["register"]
        promoted = records["promote"]
        page = run_as_task("report", lambda: _make_report(run, registered, promoted))
        _publish_summary(run, evaluated, promoted, page)
        if CONSOLE.get() is None:  # the command line says it below the result
            for line in list_unshared(workspace):
                run.console.info(line)
        return RetrainSummary(
            tuple(run.outcomes), evaluated, registered, promoted, page
        )


def begin_run(workspace: Workspace, force: Sequence[str] = ()) -> WorkspaceRun:
    """A run of the workspace, with nothing done yet.

    Raises:
        ConfigError: params.yaml cannot be used.
        WorkspaceError: dvc.yaml cannot be used.
        BackboneError: the weights are others than backbone.lock says.
    """
    console = PrefectConsole()
    prepare_workspace(workspace, console)
    refuse_changed_weights(workspace)
    return WorkspaceRun(
        workspace=workspace,
        versioning=Versioning(workspace.root),
        run_dir=new_run_dir(workspace),
        tracker=open_tracker(workspace.config(), workspace),
        force=frozenset(force),
        console=console,
    )


def _close_dead_runs(run: WorkspaceRun) -> None:
    """A run is no worse for what earlier ones left behind, so a failure here is only
    said.
    """
    try:
        closed = close_dead_runs(retrain.name, run.workspace.root)
    except Exception as fault:
        run.console.info(
            f"Prefect: killed runs stay open ({type(fault).__name__}: {fault})"
        )
        return
    if closed:
        runs = "run" if closed == 1 else "runs"
        run.console.info(
            f"Prefect: {closed} earlier {runs} had been killed; set to Crashed"
        )


def _check_before_running(run: WorkspaceRun) -> None:
    """Everything that the steps to come will need, checked before the first of them; a
    warning is only said.
    """
    states = run.versioning.states()
    stale = [name for name, state in states.items() if not state.fresh]
    needed = preflight.needed_steps(stale, run.force)
    config = run.workspace.config()
    with run.console.working("checking what the steps need"):
        checks = list(preflight.quick_checks(run.workspace, config, needed))
        checks += preflight.thorough_checks(run.workspace, config, needed)
    preflight.require(checks)
    for check in checks:
        if check.state == "warning":
            run.console.info(f"warning: {check.name}: {check.found}; {check.hint}")


def _make_report(
    run: WorkspaceRun, registered: RegisterRecord, promoted: PromoteRecord
) -> Path:
    """The report, made anew where what it shows has changed."""
    if not report.find_report_fault(
        run.workspace, run.versioning.states(), registered, promoted
    ):
        return run.workspace.report
    with run.console.working("writing the report"):
        return report.make_report(
            run.workspace, run.versioning, registered, promoted, run.tracker
        )


def _publish_summary(
    run: WorkspaceRun, evaluated: EvaluateRecord, promoted: PromoteRecord, page: Path
) -> None:
    """The summary on the Prefect run's own page. A run is no worse for lacking it, so a
    failure is only said.
    """
    text = _markdown_summary(run.outcomes, evaluated, promoted)
    try:
        create_markdown_artifact(
            text, key="summary", description="What this retraining did"
        )
        create_link_artifact(page.resolve().as_uri(), link_text="report", key="report")
    except Exception as fault:
        run.console.info(f"Prefect kept no summary ({type(fault).__name__}: {fault})")


def _markdown_summary(
    outcomes: Sequence[StepOutcome], evaluated: EvaluateRecord, promoted: PromoteRecord
) -> str:
    primary = evaluated.metrics[evaluated.primary]
    value = f"**{evaluated.primary} {primary.value:.3f}** ({primary.low:.3f}–{primary.high:.3f})"
    tested = pluralize(evaluated.examples, "test example")
    lines = [
        f"{value} on {tested}; {promoted.model} {summarize(promoted)}",
        "",
        "| step | | why | time |",
        "|---|---|---|---|",
    ]
    for outcome in outcomes:
        reasons = "; ".join(outcome.reasons) or "—"
        lines.append(
            f"| {outcome.step} | {outcome.how} | {reasons} | {outcome.seconds:.1f} s |"
        )
    return "\n".join(lines)
