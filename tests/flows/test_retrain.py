"""One command retrains: what a user sees of the first run, and of every kind of run
after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from commands import Thaw, change, run_thaw
from pipeline.config import TrackingConfig
from pipeline.records import EvaluateRecord, FinetuneRecord
from pipeline.step_table import DVC_STAGES, STEPS
from pipeline.tracking.journal_run import JOURNAL_TAG
from pipeline.tracking.store import find
from pipeline.workspace import Workspace, lock

pytestmark = pytest.mark.slow


def steps(printed: str) -> dict[str, str]:
    """Step → what the run said of it."""
    found = re.findall(rf"^    ({'|'.join(STEPS)}) +(\S.*)$", printed, re.M)
    return dict(reversed(found))


def test_the_first_run_registers_a_champion_and_explains_itself(
    finished: Path, first_run_output: str
) -> None:
    evaluated = EvaluateRecord.load(finished / "artifacts" / "evaluate")
    assert evaluated.comparisons, "the comparison with training from scratch is missing"
    assert "scratch" in {comparison.other for comparison in evaluated.comparisons}
    assert "surfaces v1 promoted" in first_run_output
    report = (finished / "report.html").read_text()
    assert "surfaces" in report
    assert not re.search(r'(src|href)="https?://', report)


def test_nothing_changed_means_nothing_done(finished: Path, thaw: Thaw) -> None:
    before = (finished / "dvc.lock").read_bytes()
    done = thaw("run", cwd=finished)
    assert "nothing changed" in done.stdout
    assert set(steps(done.stdout)) == set(STEPS)
    assert all(said.startswith("unchanged") for said in steps(done.stdout).values())
    assert (finished / "dvc.lock").read_bytes() == before


def test_asking_needs_neither_torch_nor_prefect(finished: Path, thaw: Thaw) -> None:
    # Looks once whether the ledger agrees with the split, which takes pyarrow.
    thaw("status", cwd=finished)
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.workspace import Workspace\n"
        "from flows.status import examine_status\nfrom pipeline.steps import summary\n"
        "assert examine_status(Workspace(Path.cwd())).nothing_to_do\n"
        "print([m for m in ('torch', 'prefect', 'mlflow', 'great_expectations', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=finished,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_report_that_is_missing_or_edited_is_made_again_though_nothing_else_changed(
    finished: Path, thaw: Thaw
) -> None:
    report = finished / "report.html"
    times = re.search(r"Time of each step, .*", report.read_text())
    assert times is not None
    report.unlink()
    done = thaw("run", cwd=finished)
    assert "nothing changed" in done.stdout
    assert "report.html is missing" in done.stdout
    assert times.group() in report.read_text(), (
        "the times of the run that made the results are lost"
    )
    report.write_text("edited")
    assert "report.html was edited" in thaw("run", cwd=finished).stdout
    assert "surfaces" in report.read_text()
    assert "made again" not in thaw("run", cwd=finished).stdout


def test_making_the_report_again_needs_neither_torch_nor_prefect(
    finished: Path,
) -> None:
    (finished / "report.html").unlink()
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.context import SilentConsole\n"
        "from pipeline.workspace import Workspace\nfrom flows.status import examine_status, make_report\n"
        "place = Workspace(Path.cwd())\nmake_report(place, examine_status(place), SilentConsole())\n"
        "print([m for m in ('torch', 'prefect', 'great_expectations') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=finished,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert (finished / "report.html").is_file()


def test_a_kill_between_registration_and_report_still_ends_in_a_report_of_these_results(
    finished: Path, thaw: Thaw
) -> None:
    change(finished, "bootstrap: 200", "bootstrap: 110")
    code = (
        "import os, signal, sys\nfrom flows import cli, report\n"
        "report.make_report = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nsys.argv = ['thaw', 'run']\ncli.main()"
    )
    killed = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=finished,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    before = (finished / "report.html").read_bytes()
    done = thaw("run", cwd=finished)
    assert "nothing changed" in done.stdout
    assert "report.html was made from earlier results" in done.stdout
    assert (finished / "report.html").read_bytes() != before


def test_dvc_agrees_after_a_run(finished: Path) -> None:
    dvc = Path(sys.executable).with_name("dvc")
    environment = {**os.environ, "PATH": f"{dvc.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [dvc, "repro"],
        cwd=finished,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Running stage" not in done.stdout


@pytest.mark.full
def test_dvc_alone_gives_the_same_outputs(finished: Path) -> None:
    def outputs() -> dict[str, str]:
        files = (path for path in (finished / "artifacts").rglob("*") if path.is_file())
        return {
            str(path.relative_to(finished)): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in files
        }

    before = outputs()
    shutil.rmtree(finished / "artifacts")
    shutil.rmtree(finished / ".thaw")
    shutil.rmtree(finished / ".dvc" / "cache" / "runs")
    (finished / "dvc.lock").unlink()
    dvc = Path(sys.executable).with_name("dvc")
    environment = {**os.environ, "PATH": f"{dvc.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [dvc, "repro"],
        cwd=finished,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Running stage") == len(DVC_STAGES)
    assert outputs() == before


def test_a_changed_setting_reruns_what_depends_on_it_and_back_again_restores(
    finished: Path, thaw: Thaw
) -> None:
    first = (finished / "artifacts/evaluate/record.json").read_bytes()
    change(finished, "bootstrap: 200", "bootstrap: 150")
    changed = thaw("run", cwd=finished)
    said = steps(changed.stdout)
    assert {name for name in DVC_STAGES if said[name] == "unchanged"} == {
        "validate",
        "split",
        "backbone",
        "finetune",
    }
    assert "evaluate.bootstrap 200 → 150" in said["evaluate"]
    assert (finished / "artifacts/evaluate/record.json").read_bytes() != first
    change(finished, "bootstrap: 150", "bootstrap: 200")
    back = thaw("run", cwd=finished)
    assert steps(back.stdout)["evaluate"] == "restored"
    assert (finished / "artifacts/evaluate/record.json").read_bytes() == first


@pytest.mark.full
def test_a_kill_before_registering_still_ends_in_a_registration(
    finished: Path, thaw: Thaw
) -> None:
    (finished / ".thaw/receipts/register.json").unlink()
    done = thaw("run", cwd=finished)
    said = steps(done.stdout)
    assert all(said[name] == "unchanged" for name in DVC_STAGES)
    assert "surfaces v1 " in done.stdout, "the same evaluation was registered twice"


def list_artifacts(
    client: Any, run_id: str, folder: str | None = None
) -> Iterator[str]:
    """The paths of a run's files; a run may have none, and then not even a folder."""
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from list_artifacts(client, run_id, entry.path)
        else:
            yield entry.path


def recorded_runs(workspace: Path) -> dict[str, dict[str, Any]]:
    """`thaw.key` → what the tracking store holds of the run, but for samples of the
    machine and MLflow's own tags.
    """
    client = find(TrackingConfig(), Workspace(workspace)).client
    experiments = [
        experiment.experiment_id for experiment in client.search_experiments()
    ]
    runs = {}
    for run in client.search_runs(experiments):
        if JOURNAL_TAG in run.data.tags:
            continue
        metrics = {
            name: value
            for name, value in run.data.metrics.items()
            if not name.startswith("system/")
        }
        curves = {
            name: len(client.get_metric_history(run.info.run_id, name))
            for name in metrics
        }
        runs[run.data.tags["thaw.key"]] = {
            "name": run.info.run_name,
            "status": run.info.status,
            "params": {
                name: value
                for name, value in run.data.params.items()
                if not name.startswith(JOURNAL_TAG)
            },
            "tags": {
                name: value
                for name, value in run.data.tags.items()
                if not name.startswith("mlflow.")
            },
            "metrics": metrics,
            "curves": curves,
            "artifacts": sorted(list_artifacts(client, run.info.run_id)),
            "data": [
                (one.dataset.name, one.dataset.digest)
                for one in run.inputs.dataset_inputs
            ],
        }
    return runs


@pytest.mark.full
def test_runs_that_the_store_lost_are_recorded_again_with_all_they_had(
    finished: Path, thaw: Thaw
) -> None:
    before = recorded_runs(finished)
    assert len(before) == 4, "the fine-tuning, two candidates and the baseline"
    parent = next(run for run in before.values() if run["data"])
    assert {"report.html", "test/confusion.csv"} <= set(parent["artifacts"])
    assert {"recipes", "best", "finetune.epochs"} <= parent["params"].keys()
    assert any(
        tag.startswith("thaw.solve_seconds.")
        for run in before.values()
        for tag in run["tags"]
    )
    client = find(TrackingConfig(), Workspace(finished)).client
    experiments = [
        experiment.experiment_id for experiment in client.search_experiments()
    ]
    for run in client.search_runs(experiments):
        client.delete_run(run.info.run_id)
    (finished / ".thaw/receipts/register.json").unlink()
    thaw("run", cwd=finished)
    assert recorded_runs(finished) == before


def test_a_missing_ledger_stops_the_run(finished: Path, thaw: Thaw) -> None:
    (finished / "ledger.parquet").unlink()
    shutil.rmtree(finished / ".dvc" / "cache")
    done = thaw("run", cwd=finished, check=False)
    assert done.returncode == 2
    assert "ledger" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (finished / "ledger.parquet").exists()


def test_a_second_run_at_the_same_time_names_the_holder(
    finished: Path, thaw: Thaw
) -> None:
    change(finished, "bootstrap: 200", "bootstrap: 120")
    with lock(Workspace(finished)):
        done = thaw("run", cwd=finished, check=False)
    assert done.returncode == 2
    assert f"process {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_prefect_server_that_does_not_answer_is_named(
    finished: Path, thaw: Thaw
) -> None:
    change(finished, "bootstrap: 200", "bootstrap: 140")
    away = {
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_CLIENT_MAX_RETRIES": "0",
    }
    done = thaw("run", cwd=finished, env=away, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Prefect's server http://127.0.0.1:9/api" in done.stderr
    assert "unset PREFECT_API_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_says_so_without_a_traceback_and_leaves_no_server(
    finished: Path, thaw: Thaw
) -> None:
    change(finished, "seed: 0\n  batch_size", "seed: 1\n  batch_size")
    command = [str(Path(sys.executable).with_name("thaw")), "run"]
    run = subprocess.Popen(
        command,
        cwd=finished,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    printed = [run.stdout.readline()]
    while printed[-1] and "plan:" not in printed[-1]:
        printed.append(run.stdout.readline())
    servers = [
        child.pid
        for child in psutil.Process(run.pid).children()
        if "flows.temporary" in child.cmdline()
    ]
    assert len(servers) == 1
    os.killpg(run.pid, signal.SIGINT)  # a terminal sends it to the whole group
    printed.append(run.communicate(timeout=60)[0])
    said = "".join(printed)
    assert run.returncode == 130, said
    assert "thaw run goes on from here" in said
    assert "Traceback" not in said
    assert "Error logging to API" not in said
    assert not psutil.pid_exists(servers[0])


def test_without_prefect_and_memory_a_step_gives_the_same_outputs(
    finished: Path,
) -> None:
    before = {
        path.name: path.read_bytes()
        for path in (finished / "artifacts/split").iterdir()
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline", "split"],
        cwd=finished,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {
        path.name: path.read_bytes()
        for path in (finished / "artifacts/split").iterdir()
    } == before


def test_predict_answers_from_the_registry(finished: Path, thaw: Thaw) -> None:
    finetuned = FinetuneRecord.load(finished / "artifacts/finetune")
    picture = next((finished / "data" / "ok").glob("*.png"))
    done = thaw("predict", "--json", picture, cwd=finished)
    answer = json.loads(done.stdout.splitlines()[0])
    assert answer["label"] in finetuned.candidate().labels
    assert 0 < answer["score"] <= 1


def test_status_says_what_is_stale_and_why(finished: Path, thaw: Thaw) -> None:
    change(finished, "min_slice: 10", "min_slice: 5")
    said = thaw("status", cwd=finished).stdout
    assert re.search(r"finetune +fresh", said)
    assert re.search(r"evaluate +stale: .*min_slice 10 → 5", said)
    assert "surfaces v1" in said


def test_clean_removes_caches_and_nothing_else(finished: Path, thaw: Thaw) -> None:
    assert (finished / ".thaw/pixels").is_dir()
    thaw("clean", cwd=finished)
    assert (finished / ".thaw/pixels").is_dir(), "without --yes nothing goes"
    thaw("clean", "--trainings", "--history", "--yes", cwd=finished)
    assert not (finished / ".thaw/pixels").exists()
    assert "nothing changed" in run_thaw("run", cwd=finished).stdout


def prefect_states(place: Path) -> dict[str, list[str]]:
    """The states of all flow runs and of all task runs that the workspace's Prefect
    database holds, oldest first.
    """
    with closing(sqlite3.connect(place / ".thaw/prefect/prefect.db")) as database:
        return {
            table: [
                state
                for (state,) in database.execute(
                    f"SELECT state_type FROM {table} ORDER BY created"
                )
            ]
            for table in ("flow_run", "task_run")
        }


def kill_at(place: Path, line: str) -> None:
    """Runs `thaw run` and kills it when it has printed something."""
    command = [str(Path(sys.executable).with_name("thaw")), "run"]
    with subprocess.Popen(
        command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        printed = [run.stdout.readline()]
        while line not in printed[-1]:
            printed.append(run.stdout.readline())
            assert printed[-1], "".join(printed)
        run.kill()


def test_a_killed_run_is_closed_by_the_next_one(finished: Path, thaw: Thaw) -> None:
    change(finished, "bootstrap: 200", "bootstrap: 130")
    kill_at(finished, "evaluate  running")
    assert prefect_states(finished)["flow_run"][-1] == "RUNNING"
    said = thaw("run", cwd=finished).stdout
    assert "Prefect: 1 earlier run had been killed; set to Crashed" in said
    states = prefect_states(finished)
    assert states["flow_run"][-2:] == ["CRASHED", "COMPLETED"]
    assert "RUNNING" not in states["task_run"]


def test_servers_start_on_loopback_conduct_a_run_and_end(
    finished: Path, thaw: Thaw
) -> None:
    change(finished, "bootstrap: 200", "bootstrap: 110")
    kill_at(finished, "evaluate  running")
    command = [
        str(Path(sys.executable).with_name("thaw")),
        "up",
        "--prefect-port",
        "0",
        "--mlflow-port",
        "0",
    ]
    servers = subprocess.Popen(
        command,
        cwd=finished,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert servers.stdout is not None
        printed = []
        until = time.monotonic() + 180
        while (
            not any("Ctrl-C" in line for line in printed) and time.monotonic() < until
        ):
            printed.append(servers.stdout.readline())
            assert printed[-1], "".join(printed)
        known = json.loads((finished / ".thaw/servers.json").read_text())
        assert known["prefect"].startswith("http://127.0.0.1:")
        assert known["mlflow"].startswith("http://127.0.0.1:")
        assert "evaluate.bootstrap 200 → 110" in thaw("run", cwd=finished).stdout
        assert _flow_runs(known) == ["COMPLETED"]
        assert "RUNNING" not in prefect_states(finished)["flow_run"], (
            "the killed run was not closed"
        )
    finally:
        servers.send_signal(signal.SIGHUP)  # as when its terminal is closed
        servers.communicate(timeout=60)
    assert not (finished / ".thaw/servers.json").exists()


def _flow_runs(known: dict[str, str]) -> list[str]:
    """States of the flow runs that began while these servers ran, newest first: of the
    last one.
    """
    import base64
    import urllib.request

    request = urllib.request.Request(
        f"{known['prefect']}/flow_runs/filter",
        data=b'{"sort":"START_TIME_DESC","limit":1}',
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic "
            + base64.b64encode(known["prefect_auth"].encode()).decode(),
        },
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return [run["state_type"] for run in json.load(answer)]


@pytest.mark.full
def test_a_learning_rate_is_found_and_nothing_trained(
    finished: Path, thaw: Thaw
) -> None:
    before = sorted(
        path
        for path in finished.rglob("*")
        if ".thaw" not in path.parts and "mlflow" not in path.parts
    )
    done = thaw("lr-find", "--recipe", "lp-ft", "--stage", "tune", cwd=finished)
    assert "lp-ft, stage tune: " in done.stdout
    page = Path(re.search(r"file://(\S+sweep\.html)", done.stdout)[1])  # type: ignore[index]
    assert "<svg" in page.read_text()
    assert "Smith 2017" in page.read_text()
    after = sorted(
        path
        for path in finished.rglob("*")
        if ".thaw" not in path.parts and "mlflow" not in path.parts
    )
    assert after == before
