"""A deployed retraining whose process is killed: Prefect's retry goes on from the
checkpoint, in the same runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from commands import THAW, Thaw, change
from flows import settings
from pipeline.config import TrackingConfig
from pipeline.records import CandidateRecord, FinetuneRecord
from pipeline.steps.recorded_facts import curve_points
from pipeline.tracking.store import find
from pipeline.training.candidates import read_curves
from pipeline.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.full]

T = TypeVar("T")


def test_a_retry_of_a_killed_flow_goes_on_in_the_same_runs(
    finished: Path, thaw: Thaw, tmp_path: Path
) -> None:
    lengthen(finished)
    runs_before = len(recorded(finished))
    with running(
        THAW,
        "up",
        "--prefect-port",
        "0",
        "--mlflow-port",
        "0",
        cwd=finished,
        log=tmp_path / "up.log",
    ):
        prefect = Prefect(
            awaited("thaw up", lambda: settings.servers(finished / ".thaw"))
        )
        serve = f"from flows.retrain import retrain; retrain.serve('night', parameters={{'workspace': {str(finished)!r}}})"
        log = tmp_path / "serve.log"
        with running(
            sys.executable, "-P", "-c", serve, cwd=finished, log=log, env=prefect.env
        ) as runner:
            awaited(
                "the deployment",
                lambda: "night" in prefect.says("deployment", "ls") or None,
            )
            created = prefect.says("deployment", "run", "retrain/night")
            run = re.findall(r"UUID: (\S+)", created)[0]
            victim = awaited(
                "a checkpoint of the second stage", lambda: training(runner, finished)
            )
            victim.kill()
            awaited(
                "the crash to be noticed",
                lambda: prefect.state(run) == "CRASHED" or None,
            )
            assert list((finished / ".thaw/checkpoints").glob("*/*")), (
                "it was finished before it was killed"
            )
            prefect.says("flow-run", "retry", run)
            awaited("the retry", lambda: prefect.state(run) == "COMPLETED" or None)
        assert "going on from epoch" in log.read_text()

    retried = candidate(finished)
    after = recorded(finished)
    assert len(after) == runs_before + 2, (
        "one run for the step and one for its candidate"
    )
    wanted = Counter(
        (point.name, point.step, point.value)
        for point in curve_points(read_curves(retried.folder))
    )
    assert max(wanted.values()) == 1
    assert after[retried.key] == wanted, "points are doubled or lost"

    thaw("clean", "--trainings", "--yes", cwd=finished)
    thaw("run", "--force", "finetune", cwd=finished)
    assert candidate(finished).model_sha256 == retried.model_sha256


def lengthen(place: Path) -> None:
    """One training of two stages, seconds long, which saves all the time."""
    for old, new in {
        'recipes: ["head", "gradual"]': 'recipes: ["gradual"]',
        'baseline: "first"': 'baseline: "never"',
        "epochs: 4": "epochs: 24",
        "every_seconds: 60.0": "every_seconds: 0.2",
    }.items():
        change(place, old, new)


class Prefect:
    """Prefect's command line, as an operator uses it against the servers of `thaw up`."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.env = {
            "PREFECT_API_URL": known["prefect"],
            "PREFECT_API_AUTH_STRING": known["prefect_auth"],
        }

    def says(self, *arguments: str) -> str:
        command = [Path(sys.executable).with_name("prefect"), *arguments]
        return subprocess.run(
            command,
            env={**os.environ, **self.env},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout

    def state(self, run: str) -> str:
        return str(
            json.loads(self.says("flow-run", "inspect", run, "-o", "json"))["state"][
                "type"
            ]
        )


def training(runner: psutil.Process, place: Path) -> psutil.Process | None:
    """The flow's own process, once the training has saved within a stage after its
    first.
    """
    if not list((place / ".thaw" / "checkpoints").glob("*/00001?-step-*")):
        return None
    flows = [
        child
        for child in runner.children()
        if "spawn_main" in " ".join(child.cmdline())
    ]
    return flows[0] if flows else None


def candidate(place: Path) -> CandidateRecord:
    return FinetuneRecord.load(place / "artifacts" / "finetune").candidate()


def recorded(place: Path) -> dict[str, Counter[tuple[str, int, float]]]:
    """`thaw.key` → how often each point of its curves is recorded, for every run of the
    workspace's store.
    """
    client = find(TrackingConfig(), Workspace(place)).client
    found: dict[str, Counter[tuple[str, int, float]]] = {}
    for run in client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()]
    ):
        key = run.data.tags["thaw.key"]
        assert key not in found, f"two runs of {run.info.run_name}"
        found[key] = Counter(
            (name, point.step, point.value)
            for name in run.data.metrics
            if not name.startswith("system/")
            for point in client.get_metric_history(run.info.run_id, name)
        )
    return found


def awaited(what: str, ask: Callable[[], T | None], seconds: float = 240) -> T:
    """The first answer that is something; the test fails where there is none in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = ask()
        if answer is not None:
            return answer
        time.sleep(0.05)
    pytest.fail(f"{what}: not within {seconds:.0f} s")


@contextmanager
def running(
    *command: str | Path, cwd: Path, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """A program that runs meanwhile; at the end it is ended, and what it began with it."""
    with log.open("wb") as stream:
        process = psutil.Popen(
            [*map(str, command)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdout=stream,
            stderr=stream,
        )
    try:
        yield process
    finally:
        children = process.children(recursive=True)
        process.terminate()
        process.wait(60)
        for child in children:
            if child.is_running():
                child.kill()
