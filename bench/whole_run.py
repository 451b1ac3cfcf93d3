"""A whole `thaw run`, from the command to the registered model and the report: imports,
servers and all.

Twice, in the same workspace: the first run trains the comparison from scratch as well;
before the second one every cache, training and output is removed and every step is
forced, so that only the comparison is remembered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import Result, Setting, given, leave, printed_laps

THAW = Path(sys.executable).with_name("thaw")
STEPS = ("validate", "split", "backbone", "finetune", "evaluate", "register")


def whole_run(setting: Setting) -> Result:
    folder = Path(setting.scratch) / "workspace"
    command(
        "init",
        str(folder),
        "--data",
        setting.data,
        "--backbone",
        f"torchvision/{setting.architecture}",
        "--weights",
        setting.weights,
        "--given-val-as",
        "test",
    )
    first = timed_run(folder)
    command("clean", "--trainings", "--yes", cwd=folder)
    forced = [word for step in STEPS for word in ("--force", step)]
    remembered = timed_run(folder, *forced)
    marks = [(remembered["seconds"], 0, remembered["accuracy"])]
    return Result(
        "thaw-run",
        marks,
        remembered["examples"],
        remembered["seconds"],
        0,
        {"first": first, "remembered": remembered},
    )


def timed_run(folder: Path, *options: str) -> dict[str, Any]:
    """One `thaw run`: its seconds by the clock on the wall, where they went, and what
    it came to.
    """
    began = time.perf_counter()
    printed = command("run", "--timings", *options, cwd=folder)
    seconds = time.perf_counter() - began
    record = json.loads((folder / "artifacts" / "evaluate" / "record.json").read_text())
    assert (folder / "report.html").is_file()
    return {
        "seconds": seconds,
        "laps": printed_laps(printed),
        "steps": step_seconds(folder),
        "candidate": record["candidate"],
        "accuracy": record["metrics"]["accuracy"]["value"],
        "examples": record["examples"],
        "against": {
            other["other"]: other["difference"] for other in record["comparisons"]
        },
    }


def step_seconds(folder: Path) -> dict[str, float]:
    """Seconds of each step of the newest run."""
    newest = max(folder.glob(".thaw/runs/*/outcomes.json"), key=os.path.getmtime)
    return {
        outcome["step"]: outcome["seconds"]
        for outcome in json.loads(newest.read_text())
    }


def command(*words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [THAW, *words], cwd=cwd, capture_output=True, text=True, timeout=3000
    )
    if done.returncode:
        raise SystemExit(
            f"thaw {' '.join(words)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done.stdout


if __name__ == "__main__":
    leave([whole_run(given())])
