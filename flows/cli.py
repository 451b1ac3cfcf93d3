"""The `thaw` command: the only place that prints and exits."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import redaction
from pipeline.errors import ConfigError, ThawError
from pipeline.signals import ending
from pipeline.storage import storage_errors
from pipeline.text import use_utf8_names, write_anything

if TYPE_CHECKING:
    from flows.lr_find import Found
    from flows.retrain import Summary
    from flows.servers import Server
    from flows.status import WorkspaceStatus
    from flows.terminal import Terminal
    from pipeline.records import Comparison, EvaluateRecord, RegisterRecord
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
    list[str], typer.Option("--force", metavar="STEP", help="Run this step even if nothing changed; repeatable.")
]
DETAILS = 20  # of an error, on the terminal
MARKS = {"ok": ("ok   ", ""), "note": ("note ", "yellow"), "bad": ("BAD  ", "bold red")}


def main() -> None:
    """Runs the command line; an error that the user can fix is printed without a traceback and exits with 2."""
    use_utf8_names()
    write_anything((sys.stdout, sys.stderr))
    redaction.install_streams()
    try:
        with ending(), storage_errors(_here()):
            app()
    except ThawError as fault:
        _say_error(fault)
        sys.exit(fault.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as fault:
        if isinstance(fault.code, int) and fault.code > 128:
            print("\ninterrupted", file=sys.stderr)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as fault:
        raise ThawError(
            "the current folder", found="it was deleted", expected="a folder", hint="cd into another one"
        ) from fault


def _say_error(fault: ThawError) -> None:
    """The error on standard error; of many details the first, and where all of them are."""
    from flows.terminal import Terminal

    written = _write_error(fault) if len(fault.details) > DETAILS else None
    terminal = Terminal(stderr=True)
    terminal.line("")
    for line in fault.lines(details=DETAILS if written else None):
        terminal.line(line)
    if written:
        terminal.line(f"  … and {len(fault.details) - DETAILS} more, all in {written}")


def _write_error(fault: ThawError) -> Path | None:
    """Writes the whole error into the workspace and returns where; None where there is no workspace to write to."""
    from pipeline.workspace import Workspace

    try:
        written = Workspace.find(Path.cwd()).scratch / "error.txt"
        written.write_text(f"{fault}\n", encoding="utf-8")
    except (ThawError, OSError):
        return None
    return written


def _workspace() -> Workspace:
    from flows import settings
    from pipeline.workspace import Workspace

    place = Workspace.find(Path.cwd())
    settings.prepare(place.scratch)
    return place


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The workspace to create; an existing folder that is none will do.")],
    data: Annotated[
        Path, typer.Option("--data", help="Your folder or table of examples; copied, never moved or linked.")
    ],
    task: Annotated[
        str, typer.Option(help="The kind of problem: image-classification or text-classification.")
    ] = "image-classification",
    backbone: Annotated[str, typer.Option(help="The pretrained network, as provider/name.")] = "",
    weights: Annotated[str, typer.Option(help="default, shipped, a file, a folder, or a URL.")] = "",
    given_val_as: Annotated[str, typer.Option(help="Use a given val split as: val or test.")] = "",
    recipe: Annotated[
        list[str], typer.Option(help="head, full, gradual, lp-ft, scratch, or compare (all of them); repeatable.")
    ] = [],  # noqa: B006
    remote: Annotated[
        str, typer.Option(help="DVC remote for the data: a folder or a URL such as s3://...; default: a local folder.")
    ] = "",
) -> None:
    """Create a workspace for your own examples.

    Examples:

      thaw init flowers --data ~/photos/flowers

      thaw init flowers --data ~/photos/flowers --backbone torchvision/resnet50 --weights ~/resnet50.pth

      thaw init flowers --data ~/photos/flowers --recipe head --recipe gradual --remote s3://team/flowers

      thaw init reviews --task text-classification --data reviews.csv --backbone transformers/distilbert-base-uncased
    """
    from flows.terminal import Terminal
    from pipeline import preflight, setup
    from pipeline.workspace import Workspace

    options = setup.InitOptions(
        task=task,
        backbone=backbone or None,
        weights=_weights(weights) if weights else None,
        given_val_as=given_val_as or None,
        recipes=tuple(recipe),
    )
    with Terminal() as terminal:
        with terminal.working(f"looking at {data}"):
            settings, notes = setup.settings_for(data, options)
        for note in notes:
            terminal.line(note)
        with terminal.working("checking the settings"):
            preflight.require(list(preflight.quick_checks(Workspace(folder.resolve()), settings)))
        with terminal.working(f"copying {data}"):
            made = setup.init(folder, source=data, config=settings, remote=remote or None)
        for line in made.splitlines():
            terminal.line(line)


def _weights(reference: str) -> str:
    from pipeline.files import expanded

    path = expanded(reference)
    return str(path.resolve()) if path.exists() else reference


@app.command()
def run(
    force: Force = [],  # noqa: B006
    timings: Annotated[bool, typer.Option("--timings", help="Print how long each part took.")] = False,
) -> None:
    """Retrain what changed; register the result.

    Six steps: validate, split, backbone, finetune, evaluate, register. A step runs only if something it depends on
    changed; if nothing changed, nothing is trained.

    Examples:

      thaw run

      thaw run --force finetune
    """
    from flows.status import bring_up_to_date, follow_champion, refuse_changed_weights
    from flows.terminal import Terminal

    clock = StepClock()
    place = _workspace()
    with Terminal() as terminal:
        with terminal.working("checking what changed"):
            bring_up_to_date(place, terminal)
            refuse_changed_weights(place)
            examine_status = _glance(place)
        if examine_status.nothing_to_do and not force and place.config().finetune.warm_start == "champion":
            with terminal.working("asking the registry for the champion"):
                if follow_champion(place, terminal):
                    examine_status = _glance(place)
        clock.lap("asking DVC")
        if examine_status.nothing_to_do and not force:
            _say_unchanged(terminal, place, examine_status)
            clock.lap("ours")
        else:
            stale = {*force, *(name for name, state in examine_status.states.items() if not state.fresh)}
            summary = _conduct(terminal, place, force, stale, clock)
            _say_result(terminal, place, summary.evaluated, summary.registered)
        if timings:
            _say_timings(terminal, clock)


class StepClock:
    """Where a command's seconds went."""

    def __init__(self) -> None:
        import psutil

        started = psutil.Process().create_time()
        self.laps = {"starting Python": time.time() - started}
        self._last = time.time()

    def lap(self, name: str) -> None:
        now = time.time()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


def _say_timings(terminal: Terminal, clock: StepClock) -> None:
    terminal.info(", ".join(f"{name} {seconds:.2f} s" for name, seconds in clock.laps.items()))


def _glance(place: Workspace) -> WorkspaceStatus:
    from flows.status import examine_status

    return examine_status(place)


def _say_unchanged(terminal: Terminal, place: Workspace, examine_status: WorkspaceStatus) -> None:
    from pipeline.steps.summary import step_line, summarize

    assert examine_status.evaluated is not None
    assert examine_status.registered is not None
    terminal.heading(f"{place.root.name}: nothing changed since the last run, nothing to train")
    for step in examine_status.states:
        terminal.info(step_line(step, "unchanged"))
    terminal.info(step_line("register", f"unchanged: {summarize(examine_status.registered)}"))
    if examine_status.report:
        from flows.status import make_report

        with terminal.working("writing the report"):
            make_report(place, examine_status.registered, terminal)
        terminal.info(step_line("report", f"{examine_status.report}: made again"))
    _say_result(terminal, place, examine_status.evaluated, examine_status.registered)


def _conduct(terminal: Terminal, place: Workspace, force: list[str], stale: set[str], clock: StepClock) -> Summary:
    from flows import temporary
    from flows.status import check

    def meanwhile() -> None:
        from flows import preload

        preload.up(stale)
        clock.lap("importing")

    with terminal.working("checking the workspace"):
        check(place, stale, force)
    terminal.heading(f"{place.root.name}: retraining")
    with terminal.working("retraining"), ExitStack() as prefect:
        with terminal.working("starting Prefect, importing libraries"):
            prefect.enter_context(temporary.server(place.scratch, meanwhile))
        clock.lap("starting Prefect")
        summary = _flow(terminal, place, force)
        clock.lap("flow")
    clock.lap("ending Prefect")
    clock.laps["of which steps"] = sum(outcome.seconds for outcome in summary.outcomes)
    return summary


def _flow(terminal: Terminal, place: Workspace, force: list[str]) -> Summary:
    import logging

    from flows.retrain import retrain
    from flows.stage import CONSOLE

    # Prefect's own lines go to its server; here they would break into ours.
    logging.getLogger().handlers = [h for h in logging.getLogger().handlers if type(h).__module__[:7] != "prefect"]
    token = CONSOLE.set(terminal)
    try:
        return retrain(str(place.root), tuple(force))
    except RuntimeError as fault:
        if "server" not in str(fault).lower() and "api" not in str(fault).lower():
            raise
        raise _no_server(fault) from fault
    finally:
        CONSOLE.reset(token)


def _no_server(fault: Exception) -> ThawError:
    import os

    return ThawError(
        f"Prefect's server {os.environ.get('PREFECT_API_URL', '(temporary)')}", found=str(fault).splitlines()[0],
        expected="an answer", hint="start it, or unset PREFECT_API_URL to use a temporary one; see thaw doctor",
    )  # fmt: skip


def _say_result(terminal: Terminal, place: Workspace, evaluated: EvaluateRecord, registered: RegisterRecord) -> None:
    """The closing lines of a run: a heading with the result, and what there is to know of it, one line each."""
    from flows.status import unshared
    from pipeline.steps.summary import summarize

    terminal.heading(summarize(evaluated))
    for comparison in evaluated.comparisons:
        terminal.info(_comparison_line(comparison))
    terminal.info(f"registered as {registered.model} v{registered.version}; {registered.reason}")
    terminal.info(f"report: {place.report.resolve().as_uri()}")
    for line in unshared(place):
        terminal.info(line)


def _comparison_line(comparison: Comparison) -> str:
    difference = comparison.difference
    verdict = {"cannot-tell": "too little to tell them apart"}.get(comparison.verdict, comparison.verdict)
    return (
        f"compared with {comparison.other}: {100 * difference.value:+.1f} points of {comparison.metric} "
        f"({100 * difference.low:+.1f} to {100 * difference.high:+.1f}), {verdict}"
    )


@app.command()
def step(name: Annotated[str, typer.Argument(help="validate, split, backbone, finetune or evaluate.")]) -> None:
    """Run one step alone.

    Neither DVC nor Prefect takes part: this is what the stages of dvc.yaml run.

    Example:

      thaw step validate
    """
    from flows.terminal import Terminal
    from pipeline.steps import run as steps

    with Terminal() as terminal, terminal.working(name):
        steps.run_alone(_workspace(), name, console=terminal)


@app.command()
def status() -> None:
    """Show what is stale and what is registered.

    Each step is fresh or stale, with the reason; then the versions in the model registry.

    Example:

      thaw status
    """
    from flows.terminal import Terminal
    from pipeline.upgrade import outdated
    from pipeline.versioning import Versioning

    place = _workspace()
    with Terminal() as terminal:
        terminal.heading(str(place.root))
        with terminal.working("reading the data's version"):
            terminal.info(_data_line(place))
        for change in outdated(place):
            terminal.info(f"`thaw run` will write {change.meaning}")
        if not Versioning(place.root).pins_are_current():
            terminal.info("`thaw run` will bring the data and the ledger to what data.dvc and ledger.dvc pin")
        with terminal.working("checking what changed"):
            examine_status = _glance(place)
        _say_states(terminal, examine_status)
        _say_changed_weights(terminal, place)
        with terminal.working("asking the model registry"):
            from pipeline.tracking.registry import registered

            versions = registered(place.config(), place)
        terminal.heading("registered" if versions else "nothing registered yet")
        for version in versions:
            terminal.info(str(version))


def _data_line(place: Workspace) -> str:
    from pipeline.steps.summary import step_line
    from pipeline.versioning import Versioning

    version = Versioning(place.root).data_version()
    dirty = f", {version.dirty_reason}" if version.dirty else ""
    return step_line("data", f"{version.files:,} files, {version.md5}{dirty}")


def _say_states(terminal: Terminal, examine_status: WorkspaceStatus) -> None:
    from pipeline.steps.summary import step_line

    for name, state in examine_status.states.items():
        terminal.info(step_line(name, "fresh" if state.fresh else f"stale: {'; '.join(state.why)}"))
    is_registered = examine_status.registered is not None
    terminal.info(step_line("register", "fresh" if is_registered else "stale: the last evaluation is not registered"))


def _say_changed_weights(terminal: Terminal, place: Workspace) -> None:
    from flows.status import refuse_changed_weights
    from pipeline.errors import BackboneError

    try:
        refuse_changed_weights(place)
    except BackboneError as fault:
        terminal.info(f"`thaw run` will refuse {fault.subject}: {fault.found}; expected {fault.expected}; {fault.hint}")


@app.command()
def lr_find(
    recipe: Annotated[
        str, typer.Option(help="One of finetune.recipes, or a built-in one; default: the first of finetune.recipes.")
    ] = "",
    stage: Annotated[str, typer.Option(help="A stage of that recipe; default: its first.")] = "",
) -> None:
    """Suggest a learning rate for a stage.

    A learning-rate range test: a short training from the backbone's weights at rates that rise exponentially, of which
    nothing is kept. `lr: auto` in params.yaml does the same at the beginning of every stage.

    Examples:

      thaw lr-find

      thaw lr-find --recipe gradual --stage head
    """
    from flows.terminal import Terminal

    place = _workspace()
    with Terminal() as terminal:
        terminal.heading(f"{place.root.name}: learning-rate range test")
        with terminal.working("importing libraries"):
            from flows import lr_find as finder
        with terminal.working("learning-rate range test"):
            found = finder.lr_find(place, recipe or None, stage or None, terminal)
        _say_sweep(terminal, found)


def _say_sweep(terminal: Terminal, found: Found) -> None:
    sweep = found.sweep
    subject = f"{sweep.candidate}, stage {sweep.stage}"
    if sweep.suggestion is None:
        terminal.heading(f"{subject}: no rate from {sweep.rates[0]:.1g} to {sweep.rates[-1]:.1g} lowered the loss")
    else:
        terminal.heading(f"{subject}: suggested learning rate {sweep.suggestion:.1e}")
        terminal.info("set it as lr: in params.yaml, or set lr: auto to have every stage find its own")
    terminal.info(f"plot: {found.page.as_uri()}")


@app.command()
def sample(
    folder: Annotated[Path | None, typer.Argument(help="Where to; default: the workspace's data folder.")] = None,
    task: Annotated[
        str, typer.Option(help="The task it is for; default: the workspace's, or image-classification.")
    ] = "",
) -> None:
    """Generate the sample data set of a task.

    For image classification, surface inspection in five classes; the files are byte-identical on every machine.

    Examples:

      thaw sample

      thaw sample /tmp/surfaces

      thaw sample /tmp/reviews --task text-classification
    """
    from flows.terminal import Terminal
    from pipeline import task_catalog
    from pipeline.tasks import catalog
    from pipeline.upgrade import upgrade
    from pipeline.workspace import lock

    with Terminal() as terminal:
        kind = task or task_catalog.DEFAULT
        if folder is None:
            workspace = _workspace()
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
            kind = config.task.name
            folder = workspace.root / config.data.path
        with terminal.working("generating the sample"):
            made = catalog.find(kind).sample().generate(folder)
        already = "" if made.written else " (already there)"
        terminal.line(f"{made.description}, in {folder}{already}")


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    model: Annotated[str, typer.Option(help="models:/NAME@ALIAS or models:/NAME/VERSION; default: the champion.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Predict labels with a registered model.

    For files, and for all files in folders.

    Examples:

      thaw predict photo.jpg

      thaw predict photos/ --json

      thaw predict photo.jpg --model models:/flowers/3
    """
    from flows.terminal import Terminal

    place = _workspace()
    with Terminal() as terminal:
        with terminal.working("importing libraries"):
            from flows import predict as predictions
        with terminal.working("predicting"):
            answer = predictions.predict(files, model or None, place)
        if json:
            for line in predictions.as_lines(answer):
                print(line)
        else:
            for line in predictions.as_table(answer):
                terminal.line(line)
    if any(row.error for row in answer):
        raise typer.Exit(1)


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server, if it is free.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server, if it is free.")] = 5000,
) -> None:
    """Run the Prefect and MLflow servers.

    This workspace's, on loopback, until interrupted. While they run, `thaw run` uses them.

    Example:

      thaw up
    """
    from flows import up as servers
    from flows.terminal import Terminal

    place = _workspace()
    with Terminal() as terminal, ExitStack() as starting:

        def ready(started: list[Server], secret: str) -> None:
            starting.close()
            for server in started:
                terminal.line(f"{server.name:<8} {server.url}{server.page}")
            terminal.line(f"Prefect asks for: {secret}")
            terminal.line("Ctrl-C ends both.")

        terminal.line("starting Prefect and MLflow")
        starting.enter_context(terminal.working("starting"))
        servers.up(place, prefect_port, mlflow_port, ready, terminal.line)


@app.command()
def doctor() -> None:
    """Diagnose the installation and suggest fixes.

    Versions, disk, write access, settings, data, servers and accelerator.

    Example:

      thaw doctor
    """
    from flows.doctor import examine
    from flows.terminal import Terminal

    bad = 0
    with Terminal() as terminal, terminal.working("examining"):
        for check in examine(Path.cwd()):
            mark, style = MARKS[check.state]
            beginning = f"{mark} {check.name:<19} "
            hanging = len(beginning)
            terminal.line(beginning + check.found, hanging=hanging, style=style)
            if check.hint:
                terminal.line(f"fix: {check.hint}", indent=hanging, hanging=hanging, style=style)
            bad += check.state == "bad"
    if bad:
        raise typer.Exit(1)


@app.command()
def clean(
    trainings: Annotated[bool, typer.Option("--trainings", help="Also checkpoints and finished candidates.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Also times and logs of past runs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it, only list what would go.")] = False,
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

    place = _workspace()
    with lock(place), Terminal() as terminal:
        with terminal.working("measuring"):
            items = cleaning.removable(place, trainings=trainings, history=history)
        for item in items:
            name = item.path.relative_to(place.root)
            terminal.line(f"{_mebibytes(item.bytes)}  {name}  ({item.meaning})")
        if yes:
            with terminal.working("removing"):
                cleaning.remove(items)
        total = _mebibytes(sum(item.bytes for item in items))
        terminal.line(f"{total}  " + ("removed" if yes else "in all; to remove it: --yes"))


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:9.1f} MiB"


if __name__ == "__main__":
    main()
