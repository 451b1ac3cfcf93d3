"""Runs are found by key, survive kills, and hold every point once."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import TrackingConfig
from pipeline.context import MetricPoint, NoTracker
from pipeline.errors import ConfigError, StorageError, TrackingError
from pipeline.storage import storage_errors
from pipeline.tracking import open_tracker, server_command
from pipeline.tracking.failures import to_tracking_error, with_retries
from pipeline.tracking.store import find
from pipeline.workspace import Workspace
from store_helpers import lay_store, tracker

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def workspace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return lay_store(tmp_path / "some insects", tmp_path_factory)


def steps(client: Any, run_id: str, name: str) -> list[int]:
    return sorted(point.step for point in client.get_metric_history(run_id, name))


def test_a_run_is_made_once_for_its_key(workspace: Workspace) -> None:
    first = tracker(workspace)
    parent = first.open(KEY, "insects", tags={"git": "abc"})
    child = first.open(OTHER, "head", parent=parent)
    child.close()
    parent.close()
    again = tracker(workspace).open(KEY, "insects")
    assert again.id == parent.id
    client = first.store.client
    assert len(client.search_runs([first.store.experiment_id])) == 2
    run = client.get_run(child.id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "head")
    assert run.data.tags["mlflow.parentRunId"] == parent.id
    assert client.get_run(parent.id).data.tags["git"] == "abc"
    # Opened again to look, not to run.
    assert client.get_run(parent.id).info.status == "FINISHED"


def test_a_killed_run_goes_on_with_no_point_lost_or_doubled(
    workspace: Workspace,
) -> None:
    killed = tracker(workspace)
    run = killed.open(KEY, "head")
    run.metrics([MetricPoint("train/loss", 1.0, step) for step in range(1200)])
    # Not sent yet: only kept on disk.
    run.metrics([MetricPoint("train/loss", 1.0, step) for step in range(1200, 1300)])
    assert len(steps(killed.store.client, run.id, "train/loss")) < 1300, (
        "everything was sent: this test tests nothing"
    )
    assert killed.store.client.get_run(run.id).info.status == "RUNNING"
    resumed = tracker(workspace)
    run = resumed.open(KEY, "head")
    # From the last checkpoint on.
    run.metrics([MetricPoint("train/loss", 1.0, step) for step in range(1000, 2500)])
    run.close()
    assert steps(resumed.store.client, run.id, "train/loss") == list(range(2500))
    assert resumed.store.client.get_run(run.id).info.status == "FINISHED"
    assert not list((workspace.scratch / "outbox").glob("*"))


def test_a_line_cut_short_by_a_kill_is_left_out(workspace: Workspace) -> None:
    outbox = workspace.scratch / "outbox" / f"{KEY}.jsonl"
    outbox.parent.mkdir(parents=True)
    outbox.write_text('{"op": "tags", "values": {"a": "1"}}\n{"op": "tags", "val')
    run = tracker(workspace).open(KEY, "head")
    assert tracker(workspace).store.client.get_run(run.id).data.tags["a"] == "1"


def test_params_may_be_long_changed_or_oddly_named(workspace: Workspace) -> None:
    first = tracker(workspace)
    run = first.open(KEY, "head")
    run.params({"lr": 0.1, "long": "x" * 9000, "class [naïve] #1": 1})
    run.params({f"p{index}": index for index in range(250)})
    run = tracker(workspace).open(KEY, "head")
    run.params({"lr": 0.2, "new": True})
    data = first.store.client.get_run(run.id).data
    assert (data.params["lr"], data.tags["changed.lr"], data.params["new"]) == (
        "0.1",
        "0.2",
        "True",
    )
    assert len(data.params["long"]) == 6000
    assert data.params["class _naïve_ _1"] == "1"
    assert data.params["p249"] == "249"


def test_a_later_evaluation_replaces_a_test_metric_but_no_point_of_a_curve(
    workspace: Workspace,
) -> None:
    first = tracker(workspace)
    run = first.open(KEY, "head")
    run.metrics(
        [
            MetricPoint("test/accuracy", 0.8, 0),
            MetricPoint("val/accuracy", 0.1, 0),
            MetricPoint("val/accuracy", 0.2, 1),
        ]
    )
    run.close()
    run = tracker(workspace).open(KEY, "head")
    run.metrics(
        [
            MetricPoint("test/accuracy", 0.9, 0),
            MetricPoint("val/accuracy", 0.3, 0),
            MetricPoint("val/accuracy", 0.4, 1),
        ]
    )
    run.close()
    client = first.store.client
    assert client.get_run(run.id).data.metrics == {
        "test/accuracy": 0.9,
        "val/accuracy": 0.2,
    }
    assert steps(client, run.id, "val/accuracy") == [0, 1]


def test_files_and_folders_are_kept_with_the_run(
    workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv").write_text("1")
    opened = tracker(workspace)
    run = opened.open(KEY, "head")
    run.artifact(tmp_path / "tables" / "a.csv", "test")
    run.artifact(tmp_path / "tables", "all")
    # Removed before it could be sent: no reason to fail.
    run.artifact(tmp_path / "gone.csv")
    assert [
        file.path for file in opened.store.client.list_artifacts(run.id, "test")
    ] == ["test/a.csv"]
    assert [
        file.path for file in opened.store.client.list_artifacts(run.id, "all")
    ] == ["all/a.csv"]


def test_the_machine_is_sampled_while_a_run_without_a_parent_is_open(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.tracking import system_metrics

    monkeypatch.setattr(system_metrics.SystemSampler.__init__, "__defaults__", (0.05,))
    opened = tracker(workspace, system_metrics=True)
    parent = opened.open(KEY, "insects")
    child = opened.open(OTHER, "head", parent=parent)
    assert child.sampler is None
    time.sleep(0.3)
    child.close()
    parent.close()
    assert parent.sampler is None
    metrics = opened.store.client.get_run(parent.id).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert metrics["system/system_memory_usage_megabytes"] > 0


def test_a_copied_workspace_keeps_its_files_to_itself(
    workspace: Workspace, tmp_path: Path
) -> None:
    from mlflow.tracking._tracking_service import utils as client

    (tmp_path / "a.txt").write_text("1")
    run = tracker(workspace).open(KEY, "head")
    run.artifact(tmp_path / "a.txt", "first")
    copy = Workspace(tmp_path / "copied insects")
    shutil.copytree(workspace.root, copy.root)
    shutil.rmtree(workspace.root)
    moved = tracker(copy, experiment="some insects")
    client._artifact_repos_cache.clear()  # which a new process begins without
    run = moved.open(KEY, "head")
    run.artifact(tmp_path / "a.txt", "second")
    folder = Path(moved.store.client.download_artifacts(run.id, ""))
    assert sorted(path.name for path in folder.iterdir()) == ["first", "second"]
    assert copy.root in folder.parents
    assert not workspace.root.exists()


@pytest.fixture
def locked(workspace: Workspace) -> Any:
    """Another process has the database for itself."""
    hold = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('begin exclusive'); "
    hold += "print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(workspace.mlflow / "mlflow.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


@pytest.mark.slow
def test_a_locked_database_names_its_holder_and_loses_nothing(
    workspace: Workspace, locked: Any
) -> None:
    opened = tracker(workspace)
    run = opened.open(KEY, "head")
    run.metrics([MetricPoint("val/accuracy", 0.5, 1)])
    assert run.id == "", "the database was not locked: this test tests nothing"
    with pytest.raises(
        TrackingError, match=f"locked, held open by process {locked.pid}"
    ):
        with_retries(
            opened.store,
            "asking",
            lambda: opened.store.client.search_experiments(),
            seconds=0.1,
        )
    locked.kill()
    locked.wait()
    opened.flush()
    assert steps(opened.store.client, run.id, "val/accuracy") == [1]


def test_a_database_on_another_disk_that_is_full_is_named(
    workspace: Workspace, tmp_path: Path
) -> None:
    opened = tracker(workspace, uri=f"sqlite:///{workspace.mlflow / 'mlflow.db'}")

    def write() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(StorageError) as caught, storage_errors(tmp_path):
        with_retries(opened.store, "recording", write)
    assert caught.value.subject == str(workspace.mlflow / "mlflow.db")


def test_what_a_database_refuses_is_told_by_the_error_alone(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    opened = tracker(workspace)
    name = opened.store.client.search_experiments()[0].name
    with closing(sqlite3.connect(workspace.mlflow / "mlflow.db")) as database, database:
        database.execute("DROP TABLE experiments")

    def ask() -> Any:
        return opened.store.client.get_experiment_by_name(name)

    with pytest.raises(TrackingError, match="no such table"):
        with_retries(opened.store, "asking", ask)
    assert "Traceback" not in capfd.readouterr().err


def test_a_database_of_another_mlflow_says_how_to_upgrade_it(
    workspace: Workspace,
) -> None:
    with closing(sqlite3.connect(workspace.mlflow / "mlflow.db")) as database, database:
        # Of MLflow 1.
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(TrackingError, match="mlflow db upgrade sqlite:///"):
        tracker(workspace).store.client  # noqa: B018


def test_patience_waits_for_a_lock_that_passes(workspace: Workspace) -> None:
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) < 2:
            fault = sqlite3.OperationalError("database is locked")
            fault.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise fault
        return "done"

    assert with_retries(tracker(workspace).store, "asking", call) == "done"
    assert len(calls) == 2


def test_a_uri_that_mlflow_has_no_store_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        open_tracker(TrackingConfig(uri="./mlruns"), Workspace(tmp_path))


def test_a_relative_database_is_below_the_workspace_and_a_password_is_not_shown(
    tmp_path: Path,
) -> None:
    assert (
        find(TrackingConfig(uri="sqlite:///my.db"), Workspace(tmp_path)).uri
        == f"sqlite:///{tmp_path}/my.db"
    )
    store = find(
        TrackingConfig(uri="https://me:secret@mlflow.example.com"), Workspace(tmp_path)
    )
    assert store.shown == "https://***@mlflow.example.com"
    assert "secret" not in str(
        to_tracking_error(store, "asking", OSError(f"no route to {store.uri}"))
    )


def test_tracking_can_be_off(tmp_path: Path) -> None:
    off = open_tracker(TrackingConfig(enabled=False), Workspace(tmp_path))
    assert isinstance(off, NoTracker)
    off.open(KEY, "head").metrics([MetricPoint("val/accuracy", 1.0, 0)])
    assert not list(tmp_path.iterdir())


def test_nothing_is_asked_or_imported_before_a_run_is_opened(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline import receipts, tracking; "
        "from pipeline.config import TrackingConfig; from pipeline.workspace import Workspace; "
        "tracking.open_tracker(TrackingConfig(), Workspace(Path(sys.argv[1]))); "
        "print([name for name in ('mlflow', 'torch', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_server_is_small_on_loopback_and_leaves_files_to_clients(
    tmp_path: Path,
) -> None:
    argv, env = server_command(Workspace(tmp_path), "127.0.0.1", 5123)
    text = " ".join(argv)
    assert "--host 127.0.0.1 --port 5123 -w 1" in text
    assert "--no-serve-artifacts" in argv
    assert (
        env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"],
        env["MLFLOW_DISABLE_TELEMETRY"],
    ) == ("false", "true")
