"""The retraining flow: six steps in order, each skipped where nothing it depends on has changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows import report
from flows.dead_runs import close_dead_runs
from flows.stage import CONSOLE, PrefectConsole, StepOutcome, WorkspaceRun, as_prefect_task, stage
from flows.status import check_steps, prepare, refuse_changed_weights, unshared
from pipeline import preflight, redaction
from pipeline.records import EvaluateRecord, RegisterRecord
from pipeline.steps.run import context, new_run, open_tracker
from pipeline.steps.summary import done_line, running_line, step_line, summarize
from pipeline.storage import storage_errors
from pipeline.versioning import Versioning
from pipeline.workspace import Workspace, lock


@dataclass(frozen=True)
class Summary:
    """What a retraining came to."""

    outcomes: tuple[StepOutcome, ...]
    evaluated: EvaluateRecord
    registered: RegisterRecord
    report: Path


@flow(name="retrain", persist_result=False, validate_parameters=False)
def retrain(workspace: str, force: Sequence[str] = ()) -> Summary:
    """Validate, split, fetch the backbone, fine-tune, evaluate, register.

    Args:
        workspace: the workspace's folder.
        force: steps to run even where nothing changed.

    Raises:
        ConfigError: params.yaml, or a forced step that does not exist.
        ThawError: whatever a step has to say; nothing half-done is remembered.
    """
    place = Workspace(Path(workspace))
    redaction.install()
    return redaction.guarded(lambda: _retrain(place, force))()


def _retrain(place: Workspace, force: Sequence[str]) -> Summary:
    check_steps(force)  # before the lock and all that follows
    with storage_errors(place.root), lock(place):
        run = begin(place, force)
        _close_dead_runs(run)
        _preflight(run)
        validated = stage(run, "validate")
        split = stage(run, "split")
        preflight.check_thresholds(place.config(), len(split.labels))
        backbone = stage(run, "backbone")
        finetuned = stage(run, "finetune")
        evaluated = stage(run, "evaluate")
        records = (validated, split, backbone, finetuned, evaluated)
        registered = as_prefect_task("register", lambda: _register(run, records), retries=2)
        page = as_prefect_task("report", lambda: _report(run, registered))
        _show(run, evaluated, registered, page)
        if CONSOLE.get() is None:  # the command line says it below the result
            for line in unshared(place):
                run.console.info(line)
        return Summary(tuple(run.outcomes), evaluated, registered, page)


def begin(place: Workspace, force: Sequence[str] = ()) -> WorkspaceRun:
    """A run of the workspace, with nothing done yet.

    Raises:
        ConfigError: params.yaml cannot be used.
        WorkspaceError: dvc.yaml cannot be used.
        BackboneError: the weights are others than backbone.lock says.
    """
    console = PrefectConsole()
    prepare(place, console)
    refuse_changed_weights(place)
    config = place.config()
    versioning = Versioning(place.root)
    return WorkspaceRun(
        workspace=place, versioning=versioning, run_dir=new_run(place),
        tracker=open_tracker(config, place), force=frozenset(force), console=console,
    )  # fmt: skip


def _close_dead_runs(run: WorkspaceRun) -> None:
    """A run is no worse for what earlier ones left behind, so trouble here is only said."""
    try:
        closed = close_dead_runs(retrain.name, run.workspace.root)
    except Exception as fault:
        run.console.info(f"Prefect: killed runs stay open ({type(fault).__name__}: {fault})")
        return
    if closed:
        run.console.info(
            f"Prefect: {closed} earlier {'run' if closed == 1 else 'runs'} had been killed; set to Crashed"
        )


def _preflight(run: WorkspaceRun) -> None:
    """Everything that the steps to come will need, checked before the first of them; a warning is only said."""
    stale = [name for name, state in run.versioning.states().items() if not state.fresh]
    needed = preflight.needed_steps(stale, run.force)
    config = run.workspace.config()
    with run.console.working("checking what the steps need"):
        checks = [
            *preflight.quick_checks(run.workspace, config, needed),
            *preflight.thorough_checks(run.workspace, config, needed),
        ]
    preflight.require(checks)
    for check in checks:
        if check.state == "warning":
            run.console.info(f"warning: {check.name}: {check.found}; {check.hint}")


def _register(run: WorkspaceRun, records: tuple[Any, ...]) -> RegisterRecord:
    from pipeline.receipts import receipt_is_current
    from pipeline.steps.register import register

    began = time.monotonic()
    _, split, backbone, finetuned, evaluated = records
    config = run.workspace.config()
    known = receipt_is_current(config, run.workspace, evaluated)
    if known and "register" not in run.force:
        run.console.info(step_line("register", f"unchanged: {summarize(known)}"))
        run.finished(StepOutcome("register", "unchanged", (), time.monotonic() - began))
        return known
    why = ("forced",) if "register" in run.force else ("this evaluation is not registered yet",)
    run.console.info(running_line("register", why))
    with run.console.working("register"):
        registered = register(
            config,
            run.workspace.model_name(config),
            split,
            backbone,
            finetuned,
            evaluated,
            None,
            run.versioning.data_version(),
            context(run.workspace, config, run.console, run.tracker, run.run_dir / "register"),
        )
    seconds = time.monotonic() - began
    run.finished(StepOutcome("register", "done", why, seconds))
    run.console.info(done_line("register", seconds, registered))
    return registered


def _report(run: WorkspaceRun, registered: RegisterRecord) -> Path:
    """The report, made anew where what it shows has changed."""
    if not report.outdated(run.workspace, run.versioning.states(), registered):
        return run.workspace.report
    with run.console.working("writing the report"):
        return report.make(run.workspace, run.versioning, registered, run.tracker)


def _show(run: WorkspaceRun, evaluated: EvaluateRecord, registered: RegisterRecord, page: Path) -> None:
    """The summary on the Prefect run's own page. A run is no worse for lacking it, so trouble here is only said."""
    rows = [f"| {o.step} | {o.how} | {'; '.join(o.why) or '—'} | {o.seconds:.1f} s |" for o in run.outcomes]
    primary = evaluated.metrics[evaluated.primary]
    table = "\n".join(
        [
            f"**{evaluated.primary} {primary.value:.3f}** ({primary.low:.3f}–{primary.high:.3f}) on "
            f"{evaluated.examples} test examples; {registered.model} v{registered.version}: {registered.reason}",
            "", "| step | | why | time |", "|---|---|---|---|", *rows,
        ]
    )  # fmt: skip
    try:
        create_markdown_artifact(table, key="summary", description="What this retraining did")
        create_link_artifact(page.resolve().as_uri(), link_text="report", key="report")
    except Exception as fault:
        run.console.info(f"Prefect kept no summary ({type(fault).__name__}: {fault})")
