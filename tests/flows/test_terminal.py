"""What a person sees on a terminal, wide and narrow, with and without colour, and what
a pipe gets instead.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from commands import REPOSITORY
from flows.terminal import Progress, Terminal, TerminalActivity, live_line
from pipeline.steps.summary import running_line
from pipeline.text import format_seconds
from pseudo_terminal import python_on_terminal

STEPS = """
import time
from flows.terminal import Terminal
with Terminal() as terminal:
    terminal.info("finetune  running (first run)")
    with terminal.working("finetune"):
        time.sleep(0.5)
        terminal.progress("head: top", 0, 25)
        terminal.progress("head: top", 21, 25, "accuracy 0.5000 and a note that is far too long for any terminal")
        time.sleep(0.5)
        terminal.info("half way " * 20)
        terminal.progress("head: deep", 3, 24)
        time.sleep(0.5)
    terminal.info("finetune  done in 2 s: head")
"""
HOSTILE = """
from flows.terminal import Terminal
with Terminal() as terminal:
    terminal.heading("head\\x1b[31ming")
    terminal.info("quarantined cat/a\\nb\\x1b]0;owned\\x07.png \\u202etxt \\udce9 [bold]é[/bold] \\x9b5A")
    with terminal.working("evil\\x1b[2J"):
        terminal.progress("evil\\r\\x1b[2J", 1, 2, "note\\x1b[2J")
"""


@pytest.mark.parametrize("columns", [60, 120])
def test_only_the_newest_piece_of_work_has_a_bar_and_it_goes_with_the_work(
    columns: int,
) -> None:
    with python_on_terminal(STEPS, columns=columns) as terminal:
        terminal.wait(
            until=lambda: any("21 of 25" in line for line in terminal.lines())
        )
        assert terminal.lines()[0] == "    finetune  running (first run)"
        assert len(terminal.lines()) == 2, "the live line has wrapped"
        terminal.wait(until=lambda: any("3 of 24" in line for line in terminal.lines()))
        assert not any("21 of 25" in line for line in terminal.lines()), (
            "a piece of work that is over still has a bar"
        )
        assert terminal.wait() == 0, "\n".join(terminal.lines())
        assert not re.search(r" of \d", "\n".join(terminal.lines())), "a bar stays"
        assert terminal.lines()[-1] == "    finetune  done in 2 s: head"
        assert all(len(line) <= columns for line in terminal.lines())
        assert all(line.startswith("        ") for line in terminal.lines()[2:-1])


@pytest.mark.slow
def test_something_moves_while_nothing_reports() -> None:
    code = "import time\nfrom flows.terminal import Terminal\nwith Terminal() as t, t.working('importing'): time.sleep(3)"
    with python_on_terminal(code) as terminal:
        assert terminal.wait() == 0
        drawn = set(
            re.findall(
                r"importing  (\d) s",
                re.sub(r"\x1b\[[0-9;]*m", "", terminal.raw.decode()),
            )
        )
        assert {"0", "1", "2"} <= drawn
        assert terminal.lines() == []


@pytest.mark.parametrize("text", ["", "words " * 30])
def test_a_width_of_nothing_is_no_width(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Some programs set COLUMNS to 0 where they do not know it."""
    monkeypatch.setenv("COLUMNS", "0")
    for forced in ("", "1"):
        monkeypatch.setenv("FORCE_COLOR", forced)
        Terminal().line(f"first {text}")
        assert "first" in capsys.readouterr().out


def test_the_cursor_is_never_hidden() -> None:
    """So a run that is killed, and can clean up nothing, leaves a terminal that is in
    order.
    """
    with python_on_terminal(STEPS) as terminal:
        terminal.wait(
            until=lambda: any("21 of 25" in line for line in terminal.lines())
        )
        assert not terminal.cursor_hidden
        terminal.wait()
        assert b"\x1b[?25l" not in terminal.raw


@pytest.mark.parametrize(
    ("environment", "coloured", "live"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, False, True),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colour_and_live_lines_are_the_users_choice(
    environment: dict[str, str], coloured: bool, live: bool
) -> None:
    with python_on_terminal(STEPS, environment=environment) as terminal:
        assert terminal.wait() == 0
        assert terminal.coloured == coloured
        assert (b"21 of 25" in terminal.raw) == live
        assert live or b"\x1b" not in terminal.raw
        assert terminal.lines()[-1] == "    finetune  done in 2 s: head"


@pytest.mark.parametrize("columns", [60, 120])
def test_names_cannot_steer_the_terminal(columns: int) -> None:
    with python_on_terminal(HOSTILE, columns=columns) as terminal:
        assert terminal.wait() == 0, "\n".join(terminal.lines())
        shown = "\n".join(terminal.lines())
        assert shown.startswith(r"head\x1b[31ming")
        assert r"cat/a\nb\x1b]0;owned\x07.png" in shown
        assert r"\u202etxt" in shown
        assert r"\udce9" in shown
        assert "[bold]é[/bold]" in shown
        assert b"\x1b[2J" not in terminal.raw


def test_a_pipe_gets_whole_lines_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEPS], cwd=REPOSITORY, capture_output=True, check=True
    )
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "    finetune  running (first run)"
    assert lines[1].rstrip() == "    " + ("half way " * 20).rstrip()
    assert lines[2:] == ["    finetune  done in 2 s: head"]
    assert b"\x1b" not in done.stdout


def test_a_pipe_is_told_now_and_then_how_far_it_is() -> None:
    code = STEPS.replace(
        "import time\n",
        "import time\nimport flows.terminal\nflows.terminal.SECONDS_BETWEEN_LINES = 0.0\n",
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
    )
    assert "    head: top: 21 of 25 accuracy 0.5000" in done.stdout


@pytest.mark.parametrize("columns", [20, 60, 120, 200])
@pytest.mark.parametrize("total", [0, 7])
def test_the_live_line_says_what_how_far_and_how_long(columns: int, total: int) -> None:
    progress = Progress("scan", 3, total, "note", began=100.0, done_at_first=1)
    line = live_line(
        TerminalActivity("validate", 90.0, progress), 104.0, columns, ascii_only=True
    ).plain
    assert "scan  " in line
    assert ("3 of 7" in line) == bool(total)
    assert ("8 s left" if total else "14 s") in line
    assert line.isascii()


def test_seconds_and_steps_read_as_what_they_are() -> None:
    assert [
        format_seconds(seconds) for seconds in (0.04, 9.94, 9.96, 89.4, 185, 7800)
    ] == [
        "0.0 s",
        "9.9 s",
        "10 s",
        "89 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
    assert running_line("validate", ("never run",)) == "validate  running (first run)"
    assert (
        running_line("split", ("a changed", "b changed"))
        == "split     running (a changed; b changed)"
    )
