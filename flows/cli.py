"""The `thaw` command: the only place that prints and exits."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory, mkstemp
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import redaction, task_catalog
from pipeline.errors import ConfigError, ThawError
from pipeline.signals import ending
from pipeline.storage import storage_errors
from pipeline.text import pluralize, use_utf8_names, write_anything

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.lr_find import SweepPage
    from flows.retrain import RetrainSummary
    from flows.servers import Server
    from flows.status import WorkspaceStatus
    from flows.terminal import Terminal
    from pipeline.records import Comparison, EvaluateRecord, PromoteRecord
    from pipeline.workspace import Workspace

app = typer.Typer(
    name="thaw",
    help="Fine-tune a pretrained network on your own data, repeatedly, and register the better model together with "
    "the evidence.\n\nStart: thaw init DIR --data FOLDER, then thaw run inside DIR.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Force = Annotated[
    list[str],
    typer.Option(
        "--force",
        metavar="STEP",
        help="Run this step even if nothing changed; repeatable.",
    ),
]
MAX_DETAILS = 20  # of an error, on the terminal
FIRST_SIGNAL_EXIT = 128  # exit codes above it name a signal
MARKS = {"ok": ("ok   ", ""), "note": ("note ", "yellow"), "bad": ("BAD  ", "bold red")}


def main() -> None:
    """Runs the command line; an error that the user can fix is printed without a
    traceback and exits with 2.
    """
    use_utf8_names()
    write_anything((sys.stdout, sys.stderr))
    redaction.install_streams()
    try:
        with ending(), storage_errors(_current_folder()):
            app()
    except ThawError as fault:
        _print_error(fault)
        sys.exit(fault.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as fault:
        if isinstance(fault.code, int) and fault.code > FIRST_SIGNAL_EXIT:
            print("\ninterrupted", file=sys.stderr)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as fault:
        raise ThawError(
            "the current folder",
            found="it was deleted",
            expected="a folder",
            hint="cd into another one",
        ) from fault


def _print_error(fault: ThawError) -> None:
    """The error on standard error; of many details the first, and where all of them
    are.
    """
    from flows.terminal import Terminal

    terminal = Terminal(stderr=True)
    terminal.line("")
    left_out = len(fault.details) - MAX_DETAILS
    written = _write_error(fault) if left_out > 0 else None
    for line in fault.lines(details=MAX_DETAILS if written else None):
        terminal.line(line)
    if written:
        terminal.line(f"  … and {left_out} more, all in {written}")


def _write_error(fault: ThawError) -> Path | None:
    """Writes the whole error into the workspace, or, where there is none, beside other
    temporary files, and returns where; None where nothing can be written.
    """
    try:
        path = _place_of_errors()
        path.write_text(f"{fault}\n", encoding="utf-8")
    except OSError:
        return None
    return path


def _place_of_errors() -> Path:
    from pipeline.workspace import Workspace

    try:
        return Workspace.find(Path.cwd()).scratch / "error.txt"
    except ThawError:
        _, name = mkstemp(prefix="thaw-error-", suffix=".txt")
        return Path(name)


def _open_workspace() -> Workspace:
    """The workspace that the current folder lies in, with the environment that the
    libraries are started in.
    """
    from flows import settings
    from pipeline.workspace import Workspace

    workspace = Workspace.find(Path.cwd())
    settings.prepare(workspace.scratch)
    return workspace


@app.command()
def init(
    folder: Annotated[
        Path,
        typer.Argument(
            help="The workspace to create; an existing folder that is none will do."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="Your folder or table of examples; copied, never moved or linked.",
        ),
    ] = "",
    sample: Annotated[
        bool,
        typer.Option(
            "--sample",
            help="The task's generated sample and its small backbone instead of your data.",
        ),
    ] = False,
    task: Annotated[
        str, typer.Option(help=f"The kind of problem: {', '.join(task_catalog.TASKS)}.")
    ] = task_catalog.DEFAULT,
    backbone: Annotated[
        str, typer.Option(help="The pretrained network, as provider/name.")
    ] = "",
    weights: Annotated[
        str, typer.Option(help="default, shipped, a file, a folder, or a URL.")
    ] = "",
    given_val_as: Annotated[
        str, typer.Option(help="Use a given val split as: val or test.")
    ] = "",
    recipe: Annotated[
        list[str],
        typer.Option(
            help="head, full, gradual, lp-ft, scratch, or compare (all of them); repeatable."
        ),
    ] = [],  # noqa: B006
    column: Annotated[
        list[str],
        typer.Option(
            help="Which column of a table is what, such as label=stars (path, text, pair, label, group, split); repeatable."
        ),
    ] = [],  # noqa: B006
    remote: Annotated[
        str,
        typer.Option(
            help="DVC remote for the data: a folder or a URL such as s3://...; default: a local folder."
        ),
    ] = "",
) -> None:
    """Create a workspace for your own examples.

    Examples:

      thaw init flowers --data ~/photos/flowers

      thaw init flowers --data ~/photos/flowers --backbone torchvision/resnet50 --weights ~/resnet50.pth

      thaw init flowers --data ~/photos/flowers --recipe head --recipe gradual --remote s3://team/flowers

      thaw init reviews --task text-classification --data reviews.csv --backbone transformers/distilbert-base-uncased

      thaw init cells --task object-detection --data ~/photos/annotated

      thaw init trial --task text-classification --sample
    """
    from flows.terminal import Terminal
    from pipeline import preflight, setup
    from pipeline.tasks import catalog
    from pipeline.workspace import Workspace

    if sample and data:
        raise typer.BadParameter("either --data or --sample, not both")
    if not sample and not data:
        raise typer.BadParameter(
            "name your data with --data, or try the sample with --sample"
        )

    options = setup.InitOptions(
        task=task,
        backbone=backbone or None,
        weights=_resolve_weights(weights) if weights else None,
        given_val_as=given_val_as or None,
        recipes=tuple(recipe),
        columns=setup.parse_columns(column),
        sample=sample,
    )
    with Terminal() as terminal, ExitStack() as stack:
        source = Path(data)
        if sample:
            temporary = stack.enter_context(TemporaryDirectory(prefix="thaw-sample-"))
            source = Path(temporary) / "sample"
            with terminal.working("generating the sample"):
                catalog.find(task).sample().generate(source)
        with terminal.working(f"looking at {source}"):
            settings, notes = setup.settings_for(source, options)
        for note in notes:
            terminal.line(note)
        with terminal.working("checking the settings"):
            preflight.require(
                list(preflight.quick_checks(Workspace(folder.resolve()), settings))
            )
        with terminal.working(f"copying {source}"):
            summary = setup.init(
                folder, source=source, config=settings, remote=remote or None
            )
        for line in summary.splitlines():
            terminal.line(line)


def _resolve_weights(reference: str) -> str:
    from pipeline.files import expanded

    path = expanded(reference)
    if path.exists():
        return str(path.resolve())
    return reference


@app.command()
def run(
    force: Force = [],  # noqa: B006
    timings: Annotated[
        bool, typer.Option("--timings", help="Print how long each part took.")
    ] = False,
) -> None:
    """Retrain what changed; register the result.

    Seven steps: validate, split, backbone, finetune, evaluate, register, promote. A
    step runs only if something it depends on changed; if nothing changed, nothing is
    trained.

    Examples:

      thaw run

      thaw run --force finetune
    """
    from flows.terminal import Terminal

    clock = StepClock()
    workspace = _open_workspace()
    with Terminal() as terminal:
        status = _find_what_changed(terminal, workspace, force)
        clock.lap("asking DVC")
        if status.nothing_to_do and not force:
            _print_unchanged(terminal, workspace, status)
            clock.lap("ours")
        else:
            stale = {*force, *status.stale_steps}
            summary = _retrain(terminal, workspace, force, stale, clock)
            _print_result(terminal, workspace, summary.evaluated, summary.promoted)
        if timings:
            _print_timings(terminal, clock)


class StepClock:
    """Where a command's seconds went."""

    def __init__(self) -> None:
        import psutil

        started = psutil.Process().create_time()
        self.laps = {"starting Python": time.time() - started}
        self._last = time.time()

    def lap(self, name: str) -> None:
        """Counts the time since the last lap as that of `name`."""
        now = time.time()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


def _print_timings(terminal: Terminal, clock: StepClock) -> None:
    parts = []
    for name, seconds in clock.laps.items():
        parts.append(f"{name} {seconds:.2f} s")
    terminal.info(", ".join(parts))


def _find_what_changed(
    terminal: Terminal, workspace: Workspace, force: list[str]
) -> WorkspaceStatus:
    """The state of the workspace, once it was brought up to date."""
    from flows.status import (
        bring_up_to_date,
        examine_status,
        follow_champion,
        refuse_changed_weights,
    )

    with terminal.working("checking what changed"):
        bring_up_to_date(workspace, terminal)
        refuse_changed_weights(workspace)
        status = examine_status(workspace)
    starts_warm = workspace.config().finetune.warm_start == "champion"
    if not status.nothing_to_do or force or not starts_warm:
        return status
    with terminal.working("asking the registry for the champion"):
        if follow_champion(workspace, terminal):
            return examine_status(workspace)
    return status


def _print_unchanged(
    terminal: Terminal, workspace: Workspace, status: WorkspaceStatus
) -> None:
    from pipeline.steps.summary import step_line, summarize

    assert status.evaluated is not None
    assert status.registered is not None
    assert status.promoted is not None
    terminal.heading(
        f"{workspace.root.name}: nothing changed since the last run, nothing to train"
    )
    for step in status.states:
        terminal.info(step_line(step, "unchanged"))
    terminal.info(step_line("register", f"unchanged: {summarize(status.registered)}"))
    terminal.info(step_line("promote", f"unchanged: {summarize(status.promoted)}"))
    if status.report_reason:
        from flows.status import make_report

        with terminal.working("writing the report"):
            make_report(workspace, status, terminal)
        terminal.info(step_line("report", f"{status.report_reason}: made again"))
    _print_result(terminal, workspace, status.evaluated, status.promoted)


def _retrain(
    terminal: Terminal,
    workspace: Workspace,
    force: list[str],
    stale: set[str],
    clock: StepClock,
) -> RetrainSummary:
    """Runs the flow, with a Prefect server for as long as it takes where none is
    configured.
    """
    from flows import temporary
    from flows.status import check_before_starting

    def import_meanwhile() -> None:
        from flows import preload

        preload.import_for_steps(stale)
        clock.lap("importing")

    with terminal.working("checking the workspace"):
        check_before_starting(workspace, stale, force)
    terminal.heading(f"{workspace.root.name}: retraining")
    with terminal.working("retraining"), ExitStack() as prefect:
        with terminal.working("starting Prefect, importing libraries"):
            prefect.enter_context(temporary.server(workspace.scratch, import_meanwhile))
        clock.lap("starting Prefect")
        summary = _run_flow(terminal, workspace, force)
        clock.lap("flow")
    clock.lap("ending Prefect")
    clock.laps["of which steps"] = sum(outcome.seconds for outcome in summary.outcomes)
    return summary


def _run_flow(
    terminal: Terminal, workspace: Workspace, force: list[str]
) -> RetrainSummary:
    from flows.retrain import retrain
    from flows.servers import find_prefect_fault
    from flows.step_task import CONSOLE

    _remove_prefect_handlers()
    token = CONSOLE.set(terminal)
    try:
        return retrain(str(workspace.root), tuple(force))
    except RuntimeError as fault:
        # What Prefect raises where its server does not answer, among others.
        reason = find_prefect_fault()
        if reason is None:
            raise
        raise _no_server_error(reason) from fault
    finally:
        CONSOLE.reset(token)


def _remove_prefect_handlers() -> None:
    """Prefect's own lines go to its server; here they would break into ours."""
    import logging

    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler).__module__.partition(".")[0] == "prefect":
            root.removeHandler(handler)


def _no_server_error(reason: Exception) -> ThawError:
    import os

    address = os.environ.get("PREFECT_API_URL", "(temporary)")
    lines = str(reason).splitlines() or [type(reason).__name__]
    return ThawError(
        f"Prefect's server {address}",
        found=lines[0],
        expected="an answer",
        hint="start it, or unset PREFECT_API_URL to use a temporary one; see thaw doctor",
    )


def _print_result(
    terminal: Terminal,
    workspace: Workspace,
    evaluated: EvaluateRecord,
    promoted: PromoteRecord,
) -> None:
    """The closing lines of a run: a heading with the result, and what there is to know
    of it, one line each.
    """
    from flows.status import list_unshared
    from pipeline.steps.summary import summarize

    terminal.heading(summarize(evaluated))
    for comparison in evaluated.comparisons:
        terminal.info(_comparison_line(comparison))
    terminal.info(f"{promoted.model} {summarize(promoted)}")
    for detail in promoted.details:
        terminal.info(detail)
    if promoted.next_command:
        beginning = "next" if promoted.waits else "to decide otherwise"
        terminal.info(f"{beginning}: {promoted.next_command}")
    terminal.info(f"report: {workspace.report.resolve().as_uri()}")
    for line in list_unshared(workspace):
        terminal.info(line)


def _comparison_line(comparison: Comparison) -> str:
    difference = comparison.difference
    low = f"{100 * difference.low:+.1f}"
    high = f"{100 * difference.high:+.1f}"
    interval = f"{low} to {high}"
    points = f"{100 * difference.value:+.1f} points of {comparison.metric}"
    verdict: str = comparison.verdict
    if verdict == "cannot-tell":
        verdict = "too little to tell them apart"
        if difference.low > 0 or difference.high < 0:
            # The interval alone would tell: it is the test that does not.
            interval += f"; {comparison.test} test p = {comparison.p_value:.2g}"
    return f"compared with {comparison.other}: {points} ({interval}), {verdict}"


@app.command()
def step(
    name: Annotated[
        str,
        typer.Argument(
            help="validate, split, backbone, finetune, evaluate, register or promote."
        ),
    ],
) -> None:
    """Run one step alone.

    Neither DVC nor Prefect takes part: this is what the stages of dvc.yaml run.

    Example:

      thaw step validate
    """
    from flows.terminal import Terminal
    from pipeline.steps.run import run_alone

    with Terminal() as terminal, terminal.working(name):
        run_alone(_open_workspace(), name, console=terminal)


@app.command()
def status() -> None:
    """Show what is stale and what is registered.

    Each step is fresh or stale, with the reason; then the versions in the model
    registry.

    Example:

      thaw status
    """
    from flows.status import examine_status
    from flows.terminal import Terminal
    from pipeline.upgrade import list_changes
    from pipeline.versioning import Versioning

    workspace = _open_workspace()
    with Terminal() as terminal:
        terminal.heading(str(workspace.root))
        with terminal.working("reading the data's version"):
            terminal.info(_data_line(workspace))
        for change in list_changes(workspace):
            terminal.info(f"`thaw run` will write {change.meaning}")
        if not Versioning(workspace.root).tracked_files_are_current():
            terminal.info(
                "`thaw run` will first follow data.dvc and ledger.dvc, which changed since it last did"
            )
        with terminal.working("checking what changed"):
            examined = examine_status(workspace)
        _print_states(terminal, examined)
        _print_changed_weights(terminal, workspace)
        _print_versions(terminal, workspace)


def _data_line(workspace: Workspace) -> str:
    from pipeline.steps.summary import step_line
    from pipeline.versioning import Versioning

    version = Versioning(workspace.root).data_version()
    dirty = f", {version.dirty_reason}" if version.dirty else ""
    return step_line(
        "data", f"{pluralize(version.files, 'file')}, {version.md5}{dirty}"
    )


def _print_states(terminal: Terminal, status: WorkspaceStatus) -> None:
    from pipeline.steps.summary import step_line

    for name, state in status.states.items():
        text = "fresh" if state.fresh else f"stale: {'; '.join(state.reasons)}"
        terminal.info(step_line(name, text))
    is_registered = status.registered is not None
    terminal.info(
        step_line(
            "register",
            "fresh"
            if is_registered
            else "stale: the last evaluation is not registered",
        )
    )
    is_decided = status.promoted is not None
    terminal.info(
        step_line(
            "promote",
            "fresh"
            if is_decided
            else "stale: no decision yet with these settings and the present champion",
        )
    )


def _print_changed_weights(terminal: Terminal, workspace: Workspace) -> None:
    from flows.status import refuse_changed_weights
    from pipeline.errors import BackboneError

    try:
        refuse_changed_weights(workspace)
    except BackboneError as fault:
        terminal.info(
            f"`thaw run` will refuse {fault.subject}: {fault.found}; expected {fault.expected}; {fault.hint}"
        )


def _print_versions(terminal: Terminal, workspace: Workspace) -> None:
    with terminal.working("asking the model registry"):
        from pipeline.tracking.registered_versions import registered

        versions = registered(workspace.config(), workspace)
    terminal.heading("registered" if versions else "nothing registered yet")
    for version in versions:
        terminal.info(str(version))


@app.command()
def lr_find(
    recipe: Annotated[
        str,
        typer.Option(
            help="One of finetune.recipes, or a built-in one; default: the first of finetune.recipes."
        ),
    ] = "",
    stage: Annotated[
        str, typer.Option(help="A stage of that recipe; default: its first.")
    ] = "",
) -> None:
    """Suggest a learning rate for a stage.

    A learning-rate range test: a short training from the backbone's weights at rates
    that rise exponentially, of which nothing is kept. `lr: auto` in params.yaml does
    the same at the beginning of every stage.

    Examples:

      thaw lr-find

      thaw lr-find --recipe gradual --stage head
    """
    from flows.terminal import Terminal

    workspace = _open_workspace()
    with Terminal() as terminal:
        terminal.heading(f"{workspace.root.name}: learning-rate range test")
        with terminal.working("importing libraries"):
            from flows.lr_find import find_learning_rate
        with terminal.working("learning-rate range test"):
            sweep_page = find_learning_rate(
                workspace, recipe or None, stage or None, terminal
            )
        _print_sweep(terminal, sweep_page)


def _print_sweep(terminal: Terminal, sweep_page: SweepPage) -> None:
    sweep = sweep_page.sweep
    subject = f"{sweep.candidate}, stage {sweep.stage}"
    if sweep.suggestion is None:
        lowest = sweep.rates[0]
        highest = sweep.rates[-1]
        terminal.heading(
            f"{subject}: no rate from {lowest:.1g} to {highest:.1g} lowered the loss"
        )
    else:
        terminal.heading(f"{subject}: suggested learning rate {sweep.suggestion:.1e}")
        terminal.info(
            "set it as lr: in params.yaml, or set lr: auto to have every stage find its own"
        )
    terminal.info(f"plot: {sweep_page.page.as_uri()}")


@app.command()
def sample(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Where to; default: the workspace's data folder."),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="The task it is for; default: the workspace's, or image-classification."
        ),
    ] = "",
) -> None:
    """Generate the sample data set of a task.

    For image classification, surface inspection in five classes; the files are
    byte-identical on every machine.

    Examples:

      thaw sample

      thaw sample /tmp/surfaces

      thaw sample /tmp/reviews --task text-classification
    """
    from flows.terminal import Terminal
    from pipeline.tasks import catalog

    with Terminal() as terminal:
        name = task or task_catalog.DEFAULT
        if folder is None:
            name, folder = _prepare_sample_folder(task)
        with terminal.working("generating the sample"):
            summary = catalog.find(name).sample().generate(folder)
        already = "" if summary.written else " (already there)"
        terminal.line(f"{summary.description}, in {folder}{already}")


def _prepare_sample_folder(task: str) -> tuple[str, Path]:
    """The workspace's task and its data folder.

    Raises:
        ConfigError: it is not the task asked for.
    """
    from pipeline.upgrade import upgrade
    from pipeline.workspace import lock

    workspace = _open_workspace()
    with lock(workspace):
        upgrade(workspace)  # so that `dvc repro` finds all that its stages depend on
    config = workspace.config()
    if task and task != config.task.name:
        raise ConfigError(
            "--task",
            found=task,
            expected=f"{config.task.name}, this workspace's task",
            hint="name a folder to write another task's sample to",
        )
    return config.task.name, workspace.root / config.data.path


By = Annotated[
    str, typer.Option(help="Who decides; default: the user and host that run this.")
]
Reason = Annotated[str, typer.Option(help="Why; kept in the journal.")]
VersionNumber = Annotated[str, typer.Argument(help="The version's number.")]


@app.command()
def models(
    at: Annotated[
        str,
        typer.Option(help="Tell which version was champion then, such as 2026-11-27."),
    ] = "",
) -> None:
    """List versions and what was decided on them.

    Examples:

      thaw models

      thaw models --at 2026-11-27
    """
    from flows.promotion import parse_date, read_model
    from flows.terminal import Terminal

    workspace = _open_workspace()
    moment = parse_date(at)
    with Terminal() as terminal:
        with terminal.working("asking the model registry"):
            model = read_model(workspace)
        terminal.heading(model.name)
        for line in model.describe(moment):
            terminal.info(line)


@app.command()
def promote(version: VersionNumber, by: By = "", reason: Reason = "") -> None:
    """Make a registered version the champion.

    Whatever its verdict: the journal says that it was overridden. The version is served
    once first.

    Example:

      thaw promote 3 --by Ines --reason "needed for the new camera"
    """
    from flows.promotion import promote_version

    _decide(
        "promoting",
        lambda workspace, terminal: promote_version(
            workspace, version, by, reason, terminal
        ),
    )


@app.command()
def rollback(
    to: Annotated[
        str,
        typer.Option(help="The version to go back to; default: the champion before."),
    ] = "",
    by: By = "",
    reason: Reason = "",
) -> None:
    """Make an earlier champion the champion again.

    The version that was champion is withdrawn: no run promotes it again.

    Examples:

      thaw rollback --reason "confuses the new labels"

      thaw rollback --to 2
    """
    from flows.promotion import roll_back

    _decide(
        "rolling back",
        lambda workspace, terminal: roll_back(workspace, to, by, reason, terminal),
    )


@app.command()
def approve(
    version: VersionNumber,
    by: Annotated[str, typer.Option(help="Who approves.")],
    comment: Annotated[str, typer.Option(help="Why; kept in the journal.")],
) -> None:
    """Approve a version that waits.

    With `promotion.mode: human` a version that deserves promotion waits for a person.

    Example:

      thaw approve 3 --by Ines --comment "checked on the night shift's photographs"
    """
    from flows.promotion import answer_request

    def answer(workspace: Workspace, terminal: Terminal) -> str:
        return answer_request(workspace, version, by, comment, terminal, approve=True)

    _decide("approving", answer)


@app.command()
def refuse(
    version: VersionNumber,
    by: Annotated[str, typer.Option(help="Who refuses.")],
    comment: Annotated[str, typer.Option(help="Why; kept in the journal.")],
) -> None:
    """Refuse a version that waits for approval.

    Example:

      thaw refuse 3 --by Ines --comment "worse on small flowers"
    """
    from flows.promotion import answer_request

    def answer(workspace: Workspace, terminal: Terminal) -> str:
        return answer_request(workspace, version, by, comment, terminal, approve=False)

    _decide("refusing", answer)


def _decide(doing: str, act: Callable[[Workspace, Terminal], str]) -> None:
    """Runs a decision about registered versions and says what came of it."""
    from flows.terminal import Terminal

    workspace = _open_workspace()
    with Terminal() as terminal, storage_errors(workspace.root):
        with terminal.working(doing):
            done = act(workspace, terminal)
        terminal.heading(done)


@app.command()
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Files or folders; of a model of texts also texts and tables."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="models:/NAME@ALIAS or models:/NAME/VERSION; default: the champion."
        ),
    ] = "",
    text: Annotated[
        bool,
        typer.Option(
            "--text", help="Take every word for a text, even if a file is called so."
        ),
    ] = False,
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Write pictures with the boxes or masks drawn in, to this folder."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line.")
    ] = False,
) -> None:
    """Predict with a registered model.

    For files; a folder stands for all files in it. A model of texts takes texts
    as they are typed, and the rows of tables; - takes each line of standard input.

    Examples:

      thaw predict photo.jpg

      thaw predict "It still runs like new." reviews.csv

      thaw predict - --json < reviews.txt

      thaw predict photos/ --json

      thaw predict photos/ --draw answers

      thaw predict photo.jpg --model models:/flowers/3
    """
    from flows.terminal import Terminal

    workspace = _open_workspace()
    with Terminal() as terminal:
        with terminal.working("importing libraries"):
            from flows import predict as predictions
        with terminal.working("predicting"):
            predicted = predictions.predict(
                inputs, model or None, workspace, only_texts=text, draw=draw
            )
        if json:
            for line in predictions.format_json_lines(predicted):
                print(line)
        else:
            for line in predictions.format_table(predicted):
                terminal.line(line)
    if any(prediction.error for prediction in predicted):
        raise typer.Exit(1)


@app.command()
def serve(
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0: any free one.")
    ] = 8000,
    host: Annotated[str, typer.Option(help="127.0.0.1 or localhost.")] = "127.0.0.1",
    version: Annotated[
        int | None, typer.Option(help="Serve this version, whatever the champion is.")
    ] = None,
    max_mib: Annotated[float, typer.Option(help="Most MiB in a request.")] = 32,
    max_items: Annotated[int, typer.Option(help="Most examples in a request.")] = 64,
    timeout: Annotated[
        float, typer.Option(help="Seconds to an answer; then 503.")
    ] = 30,
    queue: Annotated[int, typer.Option(help="Most requests that wait; then 503.")] = 32,
    log: Annotated[
        Path | None,
        typer.Option(help="Append each answer to this file, as JSON lines."),
    ] = None,
) -> None:
    """Serve the champion over HTTP.

    On loopback, until interrupted: POST /predict, GET /health, /version and /metrics.
    When another version becomes champion, it takes over within seconds, once it has
    answered its input example.

    Examples:

      thaw serve

      thaw serve --version 3 --port 8080 --log answers.jsonl
    """
    from flows.terminal import Terminal

    workspace = _open_workspace()
    with Terminal() as terminal, ExitStack() as starting:
        starting.enter_context(
            terminal.working(
                "loading the champion" if version is None else "loading the version"
            )
        )
        from flows.service.options import ServeOptions
        from flows.service.server import serve as serve_model

        def print_address(address: str, served: str) -> None:
            starting.close()
            terminal.line(f"{served} at {address}")
            terminal.line("Ctrl-C ends it.")

        options = ServeOptions(
            host=host,
            port=port,
            max_mib=max_mib,
            max_items=max_items,
            timeout=timeout,
            queue=queue,
            version=version,
            log=log,
        )
        serve_model(workspace, options, print_address)


@app.command()
def up(
    prefect_port: Annotated[
        int, typer.Option(help="Port of the Prefect server, if it is free.")
    ] = 4200,
    mlflow_port: Annotated[
        int, typer.Option(help="Port of the MLflow server, if it is free.")
    ] = 5000,
) -> None:
    """Run the Prefect and MLflow servers.

    This workspace's, on loopback, until interrupted. While they run, `thaw run` uses
    them.

    Example:

      thaw up
    """
    from flows import up as servers
    from flows.terminal import Terminal

    workspace = _open_workspace()
    with Terminal() as terminal, ExitStack() as starting:

        def print_addresses(started: list[Server], secret: str) -> None:
            starting.close()
            for server in started:
                terminal.line(f"{server.name:<8} {server.url}{server.page}")
            terminal.line(f"Prefect asks for: {secret}")
            terminal.line("Ctrl-C ends both.")

        terminal.line("starting Prefect and MLflow")
        starting.enter_context(terminal.working("starting"))
        servers.up(workspace, prefect_port, mlflow_port, print_addresses, terminal.line)


@app.command()
def doctor() -> None:
    """Diagnose the installation and suggest fixes.

    Versions, disk, write access, settings, data, servers and accelerator.

    Example:

      thaw doctor
    """
    from flows.doctor import examine
    from flows.terminal import Terminal

    all_well = True
    with Terminal() as terminal, terminal.working("examining"):
        for check in examine(Path.cwd()):
            mark, style = MARKS[check.state]
            beginning = f"{mark} {check.name:<19} "
            hanging = len(beginning)
            terminal.line(beginning + check.found, hanging=hanging, style=style)
            if check.hint:
                terminal.line(
                    f"fix: {check.hint}", indent=hanging, hanging=hanging, style=style
                )
            all_well = all_well and check.state != "bad"
    if not all_well:
        raise typer.Exit(1)


@app.command()
def clean(
    trainings: Annotated[
        bool,
        typer.Option("--trainings", help="Also checkpoints and finished candidates."),
    ] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Also times and logs of past runs.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Remove them; without it, only list what would go."),
    ] = False,
) -> None:
    """Remove caches that can be made again.

    Never data, the ledger, outputs or models.

    Examples:

      thaw clean

      thaw clean --trainings --yes
    """
    from flows import clean as cleaning
    from flows.terminal import Terminal
    from pipeline.workspace import lock

    workspace = _open_workspace()
    with lock(workspace), Terminal() as terminal:
        with terminal.working("measuring"):
            items = cleaning.list_removable(
                workspace, trainings=trainings, history=history
            )
        for item in items:
            name = item.path.relative_to(workspace.root)
            terminal.line(f"{_format_mebibytes(item.bytes)}  {name}  ({item.meaning})")
        if yes:
            with terminal.working("removing"):
                cleaning.remove(items)
        total = _format_mebibytes(sum(item.bytes for item in items))
        ending_words = "removed" if yes else "in all; to remove it: --yes"
        terminal.line(f"{total}  {ending_words}")


def _format_mebibytes(size: int) -> str:
    mebibytes = size / 2**20
    return f"{mebibytes:9.1f} MiB"


if __name__ == "__main__":
    main()
