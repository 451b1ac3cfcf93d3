"""What a person sees on a terminal, wide and narrow, with and without colour."""

from __future__ import annotations

import pytest

from pseudo_terminal import python_on_terminal

PROGRESS = """
from flows.terminal import Terminal
terminal = Terminal()
terminal.progress("head: top", 0, 3)
terminal.progress("head: top", 1, 3, "loss 0.5000")
terminal.say("half way")
terminal.progress("head: top", 3, 3)
terminal.close()
"""


@pytest.mark.parametrize("columns", [60, 120])
def test_progress_shows_and_goes(columns: int) -> None:
    with python_on_terminal(PROGRESS, columns=columns) as terminal:
        assert terminal.wait() == 0, "\n".join(terminal.lines())
        assert b"head: top" in terminal.raw
        assert terminal.lines() == ["    half way"]
        assert not terminal.cursor_hidden
