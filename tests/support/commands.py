"""Running `thaw` as a user does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
THAW = Path(sys.executable).with_name("thaw")

Thaw = Callable[..., subprocess.CompletedProcess[str]]


def run_thaw(
    *arguments: str | Path,
    cwd: Path,
    check: bool = True,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`thaw ARGUMENTS` as a user runs it; fails the test with all it printed where
    `check` is not met.
    """
    done = subprocess.run(
        [str(THAW), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert not check or done.returncode == 0, (
        f"{arguments} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done


def run_dvc(*arguments: str, cwd: Path) -> None:
    """DVC's own command, in this process, which has imported it."""
    from dvc.cli import main

    with contextlib.chdir(cwd), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own libraries
        assert main(["--quiet", *arguments]) == 0


def change(place: Path, old: str, new: str) -> None:
    """Changes one setting of a workspace as a user would, in the file."""
    params = place / "params.yaml"
    text = params.read_text()
    assert old in text
    params.write_text(text.replace(old, new, 1))
