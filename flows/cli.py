"""The `thaw` command: the only place that prints and exits."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import ThawError

if TYPE_CHECKING:
    from flows.glance import Glance
    from flows.retrain import Summary
    from flows.servers import Server
    from pipeline.records import EvaluateRecord, RegisterRecord
    from pipeline.workspace import Workspace

app = typer.Typer(
    name="thaw",
    help="Fine-tune a pretrained network on your own data, again and again, and register the better model with the "
    "evidence for it.\n\nStart: thaw init DIR --data FOLDER, then thaw run inside DIR.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Force = Annotated[
    list[str], typer.Option("--force", metavar="STEP", help="Run this step even if nothing changed; repeatable.")
]


def main() -> None:
    """Runs the command line; a mendable error is printed without a traceback and exits with 2."""
    try:
        app()
    except ThawError as fault:
        print(f"\n{fault}", file=sys.stderr)
        sys.exit(fault.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _workspace() -> Workspace:
    from flows import settings
    from pipeline.workspace import Workspace

    place = Workspace.find(Path.cwd())
    settings.prepare(place.scratch)
    return place


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The workspace to make; may exist, unless it is one already.")],
    data: Annotated[Path, typer.Option("--data", help="Your folder of examples; copied in, never moved or linked.")],
    backbone: Annotated[str, typer.Option(help="provider/name of the pretrained network.")] = "",
    weights: Annotated[str, typer.Option(help="default, shipped, a file, or a URL.")] = "",
    given_val_as: Annotated[str, typer.Option(help="What a given val split is: val or test.")] = "",
    recipe: Annotated[
        list[str], typer.Option(help="head, full, gradual, lp-ft, scratch, or compare: all of them; repeatable.")
    ] = [],  # noqa: B006
    remote: Annotated[str, typer.Option(help="DVC remote for the data: a folder, s3://…; default: local.")] = "",
) -> None:
    """Make a workspace for a folder of your own examples.

    Examples:

      thaw init flowers --data ~/photos/flowers

      thaw init flowers --data ~/photos/flowers --backbone torchvision/resnet50 --weights ~/resnet50.pth

      thaw init flowers --data ~/photos/flowers --recipe head --recipe gradual --remote s3://team/flowers
    """
    from pipeline import config, preflight, setup
    from pipeline.workspace import Workspace

    changes: dict[str, Any] = {"backbone": {}, "split": {}, "finetune": {}}
    changes["backbone"] |= {"name": backbone} if backbone else {}
    changes["backbone"] |= {"weights": _weights(weights)} if weights else {}
    changes["split"] |= {"given_val_as": given_val_as} if given_val_as else {}
    changes["finetune"] |= {"recipes": recipe} if recipe else {}
    settings = config.parse(changes, "thaw init")
    preflight.require(list(preflight.quick_checks(Workspace(folder.absolute()), settings)))
    made = setup.init(folder, source=data, config=settings, remote=remote or None)
    print(made)


def _weights(reference: str) -> str:
    path = Path(reference).expanduser()
    return str(path.resolve()) if path.is_file() else reference


@app.command()
def run(
    force: Force = [],  # noqa: B006
    timings: Annotated[bool, typer.Option("--timings", help="Say where the seconds went.")] = False,
) -> None:
    """Retrain what changed, and register the result.

    Six steps: validate, split, backbone, finetune, evaluate, register. Only what depends on something changed runs again; with nothing changed it says so and trains nothing.

    Examples:

      thaw run

      thaw run --force finetune
    """
    from flows.glance import bring_up_to_date
    from flows.terminal import Terminal

    clock = Clock()
    place = _workspace()
    terminal = Terminal()
    bring_up_to_date(place, terminal)
    glance = _glance(place)
    clock.lap("asking DVC")
    if glance.nothing_to_do and not force:
        _say_unchanged(terminal, place, glance)
        clock.lap("ours")
        _timings(timings, clock)
        return
    stale = {*force, *(name for name, state in glance.states.items() if not state.fresh)}
    summary = _conduct(terminal, place, force, stale, clock)
    _closing(terminal, summary.evaluated, summary.registered, summary.report)
    _timings(timings, clock)


class Clock:
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


def _timings(wanted: bool, clock: Clock) -> None:
    if wanted:
        print("    " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in clock.laps.items()))


def _glance(place: Workspace) -> Glance:
    from flows.glance import glance

    return glance(place)


def _say_unchanged(terminal: Any, place: Workspace, glance: Glance) -> None:
    assert glance.evaluated is not None
    assert glance.registered is not None
    terminal.heading(f"{place.root.name}: nothing changed since the last run, nothing to train")
    for step in glance.states:
        terminal.say(f"{step:<9} unchanged")
    terminal.say(f"register  unchanged: {glance.registered.model} v{glance.registered.version}")
    _closing(terminal, glance.evaluated, glance.registered, place.report)


def _conduct(terminal: Any, place: Workspace, force: list[str], stale: set[str], clock: Clock) -> Summary:
    from flows.glance import check

    check(place, stale, force)
    terminal.heading(f"{place.root.name}: retraining")
    from flows import temporary

    def meanwhile() -> None:
        from flows import warm

        warm.up(stale)
        clock.lap("importing")

    with temporary.server(place.scratch, meanwhile):
        clock.lap("starting Prefect")
        summary = _flow(terminal, place, force)
        clock.lap("flow")
    clock.lap("ending Prefect")
    clock.laps["of which steps"] = sum(outcome.seconds for outcome in summary.outcomes)
    return summary


def _flow(terminal: Any, place: Workspace, force: list[str]) -> Summary:
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
        terminal.close()
        CONSOLE.reset(token)


def _no_server(fault: Exception) -> ThawError:
    import os

    return ThawError(
        f"Prefect's server {os.environ.get('PREFECT_API_URL', '(temporary)')}", found=str(fault).splitlines()[0],
        expected="an answer", mend="start it, or unset PREFECT_API_URL to use a temporary one; see thaw doctor",
    )  # fmt: skip


def _closing(terminal: Any, evaluated: EvaluateRecord, registered: RegisterRecord, report: Path) -> None:
    score = evaluated.metrics[evaluated.primary]
    terminal.heading(
        f"{evaluated.candidate}: test {evaluated.primary} {score.value:.1%} "
        f"({score.low:.1%} to {score.high:.1%}, {evaluated.examples} examples)"
    )
    for other in evaluated.comparisons:
        terminal.say(
            f"against {other.other}: {other.difference.value:+.1%} "
            f"({other.difference.low:+.1%} to {other.difference.high:+.1%}), {other.verdict.replace('-', ' ')}"
        )
    aliases = f" ({', '.join(registered.aliases)})" if registered.aliases else ""
    terminal.say(f"registered as {registered.model} v{registered.version}{aliases}: {registered.reason}")
    terminal.say(f"report: {report.as_uri()}")


@app.command()
def step(name: Annotated[str, typer.Argument(help="validate, split, backbone, finetune or evaluate.")]) -> None:
    """Run one step alone.

    Without memory and without Prefect: this is what the stages of dvc.yaml call.

    Example:

      thaw step validate
    """
    from flows.terminal import Terminal
    from pipeline.steps import run as steps

    terminal = Terminal()
    try:
        steps.run_alone(_workspace(), name, console=terminal)
    finally:
        terminal.close()


@app.command()
def status() -> None:
    """Say what is fresh, stale and registered, and why.

    Example:

      thaw status
    """
    from flows.terminal import Terminal
    from pipeline.memory import Memory
    from pipeline.upgrade import outdated

    place = _workspace()
    terminal = Terminal()
    terminal.heading(str(place.root))
    version = Memory(place.root).data_version()
    dirty = f", {version.dirty_reason}" if version.dirty else ""
    terminal.say(f"data      {version.files} files, {version.md5}{dirty}")
    for change in outdated(place):
        terminal.say(f"`thaw run` will write {change.meaning}")
    glance = _glance(place)
    for name, state in glance.states.items():
        terminal.say(f"{name:<9} " + ("fresh" if state.fresh else "stale: " + "; ".join(state.why)))
    fresh = glance.registered is not None
    terminal.say(f"register  {'done' if fresh else 'to do: the last evaluation is not registered'}")
    from pipeline.tracking.registry import registered

    versions = registered(place.config(), place)
    terminal.heading("registered" if versions else "nothing registered yet")
    for entry in versions:
        terminal.say(str(entry))


@app.command()
def lr_find(
    recipe: Annotated[str, typer.Option(help="One of finetune.recipes or built in; default: the first of them.")] = "",
    stage: Annotated[str, typer.Option(help="A stage of that recipe; default: its first.")] = "",
) -> None:
    """Find a learning rate for a stage, and train nothing.

    A short sweep from a rate that does nothing to one that destroys, from the backbone's weights. `lr: auto` in
    params.yaml does the same at the beginning of every stage.

    Examples:

      thaw lr-find

      thaw lr-find --recipe gradual --stage head
    """
    from flows.terminal import Terminal

    place = _workspace()
    terminal = Terminal()
    terminal.heading(f"{place.root.name}: looking for a learning rate")
    from flows import lr_find as finder

    try:
        found = finder.lr_find(place, recipe or None, stage or None, terminal)
    finally:
        terminal.close()
    sweep = found.sweep
    what = f"{sweep.candidate}, stage {sweep.stage}"
    if sweep.suggestion is None:
        terminal.heading(f"{what}: no rate from {sweep.rates[0]:.1g} to {sweep.rates[-1]:.1g} lowered the loss")
    else:
        terminal.heading(f"{what}: {sweep.suggestion:.1e}")
        terminal.say("set it as lr: in params.yaml, or lr: auto to have every stage find its own")
    terminal.say(f"the sweep: {found.page.as_uri()}")


@app.command()
def sample(
    folder: Annotated[Path | None, typer.Argument(help="Where to; default: the workspace's data folder.")] = None,
) -> None:
    """Generate the sample data set.

    Surface inspection in five classes, the same bytes on every machine.

    Examples:

      thaw sample

      thaw sample /tmp/surfaces
    """
    from flows.glance import bring_up_to_date
    from flows.terminal import Terminal
    from pipeline.data.sample import generate

    if folder is None:
        place = _workspace()
        bring_up_to_date(place, Terminal())
        folder = place.root / place.config().data.path
    made = generate(folder)
    print(
        f"{made.images} photographs of {made.parts} parts, {len(made.classes)} classes, in {made.folder}"
        + ("" if made.written else " (there already)")
    )


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    model: Annotated[str, typer.Option(help="models:/NAME@ALIAS or models:/NAME/VERSION; default: the champion.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Ask a registered model about files: labels and scores.

    Examples:

      thaw predict photo.jpg

      thaw predict photos/ --json

      thaw predict photo.jpg --model models:/flowers/3
    """
    from flows import predict as predictions

    place = _workspace()
    answer = predictions.predict(files, model or None, place)
    for line in predictions.as_lines(answer) if json else predictions.as_table(answer):
        print(line)
    if any(row.error for row in answer):
        raise typer.Exit(1)


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server, if it is free.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server, if it is free.")] = 5000,
) -> None:
    """Run this workspace's Prefect and MLflow servers.

    On loopback, until interrupted.

    While they run, `thaw run` uses them.

    Example:

      thaw up
    """
    from flows import up as servers

    place = _workspace()

    def ready(started: list[Server], secret: str) -> None:
        for server in started:
            print(f"{server.name:<8} {server.url}{server.page}")
        print(f"Prefect asks for: {secret}\nCtrl-C ends both.", flush=True)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    print("starting Prefect and MLflow …", flush=True)
    servers.up(place, prefect_port, mlflow_port, ready)


@app.command()
def doctor() -> None:
    """Look for what is wrong, and name the mend.

    Versions, disk, write access, settings, data, servers and accelerator.

    Example:

      thaw doctor
    """
    from flows.doctor import examine

    marks = {"ok": "ok  ", "note": "note", "bad": "BAD "}
    bad = 0
    for check in examine(Path.cwd()):
        print(f"{marks[check.state]}  {check.name:<19} {check.found}")
        if check.mend:
            print(f"      {'':<19} mend: {check.mend}")
        bad += check.state == "bad"
    if bad:
        raise typer.Exit(1)


@app.command()
def clean(
    trainings: Annotated[bool, typer.Option("--trainings", help="Also checkpoints and finished candidates.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Also times and logs of past runs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only say what would go.")] = False,
) -> None:
    """Remove caches that can be made again.

    Never data, the ledger, outputs or models.

    Examples:

      thaw clean

      thaw clean --trainings --yes
    """
    from flows import clean as cleaning
    from pipeline.workspace import lock

    place = _workspace()
    with lock(place):
        items = cleaning.removable(place, trainings=trainings, history=history)
        for item in items:
            print(f"{item.bytes / 2**20:9.1f} MiB  {item.path.relative_to(place.root)}  ({item.meaning})")
        if yes:
            cleaning.remove(items)
    total = sum(item.bytes for item in items) / 2**20
    print(f"{total:9.1f} MiB  " + ("removed" if yes else "in all; remove it with --yes"))


if __name__ == "__main__":
    main()
