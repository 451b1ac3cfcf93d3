"""Every command on a terminal, narrow and wide, with colour and without, and in a pipe
that is not UTF-8.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from commands import THAW
from image_builders import save
from pipeline.config import parse
from pipeline.setup import init
from pseudo_terminal import PseudoTerminal, thaw_on_terminal

LIVE = re.compile("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏━─]|[|/\\\\-]  ")
HELP = (
    "run",
    "step",
    "status",
    "init",
    "lr-find",
    "sample",
    "predict",
    "up",
    "doctor",
    "clean",
)
ODD_CLASS = "cät → 🐈"
NO_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN = {"PYTHONIOENCODING": "latin-1"}


class Command(NamedTuple):
    """A command line, what it shows among other things, and how it ends."""

    arguments: tuple[str, ...]
    shown: str
    status: int = 0


COMMANDS = [
    Command(("--help",), "doctor Diagnose the installation and suggest fixes."),
    Command(("status",), "validate stale: never run"),
    Command(("clean",), "in all; to remove it: --yes"),
    Command(("sample", "made"), "photographs of"),
    Command(("init", "made", "--data", "photos"), "copied 2 files"),
    Command(
        ("step", "nonsense"),
        "expected: one of validate, split, backbone, finetune, evaluate",
        2,
    ),
    Command(("run", "--force", "nonsense"), "found: nonsense", 2),
    Command(("lr-find", "--nonsense"), "No such option", 2),
    Command(
        ("predict", "nothing.png", "--model", "models:/none/1"), "no such model", 2
    ),
    Command(("doctor",), "every setting understood"),
]


def named(command: Command) -> str:
    return " ".join(command.arguments)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of a few pictures, with names that a terminal could trip over, in a
    folder that is one too.
    """
    base = tmp_path_factory.mktemp("base")
    photos = base / "photos"
    for name in (ODD_CLASS, "dog"):
        save(photos / name / "a\x1b[2J.png")
    folder = base / "wörk → space"
    init(
        folder,
        source=photos,
        config=parse({"backbone": {"weights": "shipped"}}, "test"),
    )
    photos.rename(folder / "photos")
    return folder


@pytest.fixture
def place(made_once: Path) -> Path:
    """That workspace, without what a command before made in it."""
    shutil.rmtree(made_once / "made", ignore_errors=True)
    return made_once


# One process imports the commands once.
EVERY_HELP = """
import sys
from flows.cli import main
for name in sys.argv[1:]:
    sys.argv = ["thaw", name, "--help"]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, name
"""


def test_help_fits_a_narrow_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", EVERY_HELP, *HELP]
    with PseudoTerminal(command, tmp_path, columns=60) as terminal:
        assert terminal.wait() == 0, terminal.text()
        for name in HELP:
            assert f"Usage: thaw {name}" in terminal.text()
        broken = [line for line in terminal.lines() if len(line) == 60]
        assert not broken, "lines were broken by the terminal"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=named)
@pytest.mark.parametrize(
    ("columns", "environment"),
    [(60, {}), (120, {"NO_COLOR": "1"})],
    ids=["narrow", "wide"],
)
def test_every_command_on_a_terminal(
    command: Command, columns: int, environment: dict[str, str], place: Path
) -> None:
    with thaw_on_terminal(
        *command.arguments, cwd=place, columns=columns, environment=environment
    ) as terminal:
        status = terminal.wait()
        shown = "\n".join(terminal.lines())
        assert status == command.status, shown
        assert command.shown in terminal.text(), shown
        assert "Traceback" not in shown
        assert not LIVE.search(shown), shown
        assert not terminal.cursor_hidden
        assert b"\x1b[2J" not in terminal.raw
        assert not (environment and terminal.coloured)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=named)
def test_every_command_in_a_pipe_that_is_ascii(command: Command, place: Path) -> None:
    environment = {**os.environ, **NO_LOCALE}
    done = subprocess.run(
        [THAW, *command.arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == command.status, printed
    assert b"Traceback" not in printed
    assert b"\x1b" not in printed
    assert printed.isascii()
    assert command.shown in " ".join(printed.decode().split())


@pytest.mark.slow
def test_of_an_error_with_many_details_the_first_are_shown_and_all_are_kept(
    tmp_path: Path,
) -> None:
    photos = tmp_path / "photos"
    for number in range(30):
        (photos / "cat").mkdir(parents=True, exist_ok=True)
        (photos / "cat" / f"broken{number:02d}.png").write_bytes(b"no picture")
    folder = tmp_path / "space"
    init(
        folder,
        source=photos,
        config=parse({"backbone": {"weights": "shipped"}}, "test"),
    )
    with thaw_on_terminal("step", "validate", cwd=folder, columns=60) as terminal:
        assert terminal.wait() == 2
        assert "more, all in" in terminal.text()
        assert "broken29.png" not in terminal.text()
    assert "broken29.png" in (folder / ".thaw" / "error.txt").read_text()


@pytest.mark.slow
def test_a_whole_run_on_a_narrow_terminal(first_run: PseudoTerminal) -> None:
    """Lines say what started and what came of it; imports, decoding and training moved;
    nothing of that stays.
    """
    lines, text = first_run.lines(), first_run.text()
    assert "validate running (first run)" in text
    for outcome in (
        r"validate done in [\d.]+ s: \d+ examples in 5 classes, 0 quarantined",
        r"split done in .+?: \d+ train, \d+ val, \d+ test; .*\b0 left out",
        r"backbone done in .+?: torchvision/mobilenet_v3_small, 1.5 million parameters, weights: shipped",
        r"finetune done in .+?: \w+ with validation accuracy [\d.]+%, the best of 3 candidates",
        r"evaluate done in .+?: \w+ with test accuracy [\d.]+% \([\d.]+% to [\d.]+%\) on \d+ examples",
        r"register done in .+?: surfaces v1",
        r"promote done in .+?: v1 promoted: ",
        r"report: file://",
    ):
        assert re.search(outcome, text), f"{outcome} is missing in\n" + "\n".join(lines)
    assert not LIVE.search("\n".join(lines)), (
        "something of a live line stays: it has wrapped"
    )
    drawn = re.sub(r"\x1b\[[0-9;]*m", "", first_run.raw.decode())
    assert len(set(re.findall(r"importing libraries  (\d+) s", drawn))) > 1, (
        "nothing moved during imports"
    )
    assert re.search(r"gradual: \w+  [━─]+  \d+ of \d+", drawn)
    assert b"\x1b[?25l" not in first_run.raw, "the cursor was hidden"
    assert not any("Traceback" in line or "Warning" in line for line in lines)


@pytest.mark.slow
def test_ctrl_c_while_libraries_are_imported_leaves_the_terminal_in_order(
    finished: Path,
) -> None:
    with thaw_on_terminal(
        "run", "--force", "evaluate", cwd=finished, columns=60
    ) as terminal:
        terminal.wait(until=lambda: "importing libraries" in terminal.text())
        terminal.send(b"\x03")
        assert terminal.wait() == 130
        shown = "\n".join(terminal.lines())
        assert terminal.lines()[-1] == "interrupted", shown
        assert "Traceback" not in shown
        assert not LIVE.search(shown), shown
        assert not terminal.cursor_hidden
