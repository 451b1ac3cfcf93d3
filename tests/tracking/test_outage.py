"""A store that is away, broken or slow costs a training seconds, and the record
nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from consoles import RecordingConsole
from pipeline.config import Config, TrackingConfig
from pipeline.context import MetricPoint
from pipeline.errors import TrackingError
from pipeline.tracking import failures, registered, registered_versions, runs
from pipeline.workspace import Workspace
from store_helpers import Flaky, flaky_server, lay_store, tracker

pytestmark = pytest.mark.slow

KEY = "c" * 64


@pytest.fixture
def workspace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return lay_store(tmp_path / "insects", tmp_path_factory)


@pytest.fixture
def server(workspace: Workspace) -> Iterator[Flaky]:
    with pytest.MonkeyPatch.context() as patch, flaky_server(workspace, patch) as flaky:
        patch.setitem(failures.PATIENT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield flaky


def curve(*steps: int) -> list[MetricPoint]:
    return [MetricPoint("train/loss", 1.0 / (1 + step), step) for step in steps]


def recorded(workspace: Workspace, run_id: str) -> list[int]:
    client = tracker(workspace).store.client
    return [point.step for point in client.get_metric_history(run_id, "train/loss")]


def test_a_server_that_breaks_in_the_middle_is_told_everything_once_it_answers(
    server: Flaky, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SECONDS_BETWEEN_SENDS", 0.0)
    monkeypatch.setattr(runs, "REST_RATIO", 0.0)
    said = RecordingConsole()
    opened = tracker(workspace, said, uri=server.url)
    run = opened.open(KEY, "head")
    run.metrics(curve(0, 1, 2))
    opened.flush()  # however slow this machine is
    said.lines.clear()
    server.mode = "500"
    for step in range(3, 200):
        run.metrics(curve(step))
    assert 0 < server.fired <= 3, (
        "the fault did not fire, or the server was asked again and again"
    )
    assert len(said.lines) == 1
    assert "away" in said.lines[0]
    server.mode = "ok"
    monkeypatch.setattr(opened, "_away_until", 0.0)  # the pause is over
    run.metrics(curve(200))
    run.close()
    assert recorded(workspace, run.id) == list(range(201))
    assert len(said.lines) == 2
    assert "answers again" in said.lines[1]
    assert not list((workspace.scratch / "outbox").glob("*"))


def test_what_a_slow_server_did_without_answering_in_time_is_not_done_twice(
    server: Flaky, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SECONDS_BETWEEN_SENDS", 0.0)
    monkeypatch.setattr(runs, "REST_RATIO", 0.0)
    opened = tracker(workspace, RecordingConsole(), uri=server.url)
    run = opened.open(KEY, "head")
    run.metrics(curve(0))
    opened.flush()  # however slow this machine is
    monkeypatch.setitem(failures.TRAINING, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.mode = "lost"
    run.metrics(curve(1, 2, 3))
    assert server.fired == 1
    time.sleep(0.2)
    assert sorted(recorded(workspace, run.id)) == [0, 1, 2, 3], (
        "the server did nothing: this test tests nothing"
    )
    assert run.outbox.writes, "the tracker took a lost answer for a yes"
    server.mode = "ok"
    monkeypatch.setitem(failures.TRAINING, "MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    opened.flush()
    assert sorted(recorded(workspace, run.id)) == [0, 1, 2, 3]
    # And once more by the next process.
    resumed = tracker(workspace, RecordingConsole(), uri=server.url)
    again = resumed.open(KEY, "head")
    again.metrics(curve(2, 3, 4))
    again.close()
    resumed.flush()
    assert again.id == run.id
    assert sorted(recorded(workspace, run.id)) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_run_begun_with_the_server_down_is_recorded_by_the_next(
    workspace: Workspace, tmp_path: Path
) -> None:
    said = RecordingConsole()
    (tmp_path / "report.html").write_text("<p>")
    # Nobody listens at the discard port.
    away = tracker(workspace, said, uri="http://127.0.0.1:9")
    parent = away.open(KEY, "insects", tags={"git": "abc"})
    run = away.open("d" * 64, "head", parent=parent)
    run.params({"lr": 0.1})
    for step in range(100):
        run.metrics(curve(step))
    run.artifact(tmp_path / "report.html")
    run.close()
    parent.close()
    assert (parent.id, run.id) == ("", "")
    assert len(said.lines) == 1
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
        away.flush()

    later = tracker(workspace)
    later.open("e" * 64, "another")
    client = later.store.client
    found = {
        one.info.run_name: one
        for one in client.search_runs([later.store.experiment_id])
    }
    assert found["head"].data.tags["mlflow.parentRunId"] == found["insects"].info.run_id
    assert found["head"].data.params == {"lr": "0.1"}
    assert {found["head"].info.status, found["insects"].info.status} == {"FINISHED"}
    assert recorded(workspace, found["head"].info.run_id) == list(range(100))
    assert [file.path for file in client.list_artifacts(found["head"].info.run_id)] == [
        "report.html"
    ]
    assert found["insects"].data.tags["git"] == "abc"
    assert [path.stem for path in (workspace.scratch / "outbox").glob("*")] == []


def test_a_write_the_server_refuses_is_left_out_and_does_not_block_the_others(
    workspace: Workspace,
) -> None:
    said = RecordingConsole()
    opened = tracker(workspace, said)
    run = opened.open(KEY, "head")
    run.outbox.append({"op": "metrics", "points": [["a\nb", 1.0, 1, 1]]})
    run.tags({"after": "it"})
    assert opened.store.client.get_run(run.id).data.tags["after"] == "it"
    assert len(said.lines) == 1
    assert "refused" in said.lines[0]


AWAY = "http://127.0.0.1:9"  # nobody listens at the discard port


def tables(folder: Path, text: str) -> Path:
    """What a run leaves: a table, written over in place, and a folder of pictures, made
    anew.
    """
    shutil.rmtree(folder / "worst", ignore_errors=True)
    (folder / "worst" / "deep").mkdir(parents=True)
    (folder / "per_class.csv").write_text(text)
    (folder / "worst" / "deep" / "1.png").write_text(f"picture {text}")
    return folder


def artifacts(workspace: Workspace, name: str) -> dict[str, str]:
    """The content of every artifact of the run of that name, by its path."""
    store = tracker(workspace).store
    (found,) = [
        run
        for run in store.client.search_runs([store.experiment_id])
        if run.info.run_name == name
    ]
    folder = Path(store.client.download_artifacts(found.info.run_id, ""))
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def left(workspace: Workspace) -> list[str]:
    outboxes = workspace.scratch / "outbox"
    return sorted(path.relative_to(outboxes).as_posix() for path in outboxes.rglob("*"))


def test_a_run_recorded_late_has_its_own_tables_and_not_its_successors(
    workspace: Workspace, tmp_path: Path
) -> None:
    for key, name in (("1" * 64, "first"), ("2" * 64, "second")):
        run = tracker(workspace, RecordingConsole(), uri=AWAY).open(key, name)
        run.artifact(tables(tmp_path / "out", name) / "per_class.csv", "test")
        run.artifact(tmp_path / "out" / "worst", "test/worst")
        run.close()
    shutil.rmtree(tmp_path / "out")
    said = RecordingConsole()
    tracker(workspace, said).open("3" * 64, "third")  # the store is back
    for name in ("first", "second"):
        assert artifacts(workspace, name) == {
            "test/per_class.csv": name,
            "test/worst/deep/1.png": f"picture {name}",
        }
    assert said.lines == []
    assert left(workspace) == []


def test_a_file_of_one_content_is_kept_once_and_until_every_write_of_it_is_confirmed(
    server: Flaky, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.mode = "500"
    opened = tracker(workspace, RecordingConsole(), uri=server.url)
    run = opened.open(KEY, "head")
    run.artifact(tables(tmp_path, "same") / "per_class.csv", "one")
    run.artifact(tmp_path / "per_class.csv", "two")
    assert len(left(workspace)) == 3, "the writes, and a folder with one content"
    server.mode = "ok"
    opened.flush()
    assert artifacts(workspace, "head") == {
        "one/per_class.csv": "same",
        "two/per_class.csv": "same",
    }
    assert left(workspace) == []


def test_what_cannot_be_kept_is_said_and_never_replaced(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    said = RecordingConsole()
    run = tracker(workspace, said, uri=AWAY).open(KEY, "head")
    run.artifact(tables(tmp_path, "first") / "per_class.csv")
    run.artifact(tmp_path / "worst", "worst")
    run.artifact(tmp_path / "gone.csv")
    assert [line.split(";")[0] for line in said.lines[1:]] == [
        "tracking: no copy of per_class.csv could be kept (No space left on device)",
        "tracking: no copy of deep/1.png could be kept (No space left on device)",
        "tracking: gone.csv cannot be read and is left out (No such file or directory)",
    ]
    (tmp_path / "per_class.csv").write_text("second")  # the next run writes over it
    later = RecordingConsole()
    tracker(workspace, later).open("d" * 64, "another")
    assert artifacts(workspace, "head") == {"worst/deep/1.png": "picture first"}, (
        "this one was still as it was"
    )
    assert len(later.lines) == 1
    assert later.lines[0].endswith("changed or removed since: per_class.csv")
    assert left(workspace) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.config import TrackingConfig
from pipeline.context import MetricPoint
from pipeline.tracking import open_tracker, outbox
from pipeline.workspace import Workspace

drop, wanted = outbox.Outbox.drop, int(sys.argv[3])

def killed(self, count):
    global wanted
    wanted -= 1
    if wanted < 0:
        os.kill(os.getpid(), signal.SIGKILL)  # the store has it, and the outbox still says that it has not
    drop(self, count)

outbox.Outbox.drop = killed
tracker = open_tracker(TrackingConfig(system_metrics=False), Workspace(Path(sys.argv[1])))
run = tracker.open("9" * 64, "killed", tags={"git": "abc"})
run.params({"lr": 0.1})
run.metrics([MetricPoint("train/loss", 1.0 / (1 + step), step) for step in range(5)])
run.artifact(Path(sys.argv[2]), "test")
run.close()
tracker.flush()
"""


@pytest.mark.slow
@pytest.mark.parametrize("confirmed", [0, 2, 3])
def test_a_kill_between_sending_and_confirming_doubles_nothing(
    workspace: Workspace, tmp_path: Path, confirmed: int
) -> None:
    table = tables(tmp_path / "out", "first") / "per_class.csv"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(workspace.root), str(table), str(confirmed)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert left(workspace), "nothing was left to send again: this test tests nothing"
    table.write_text("second")
    tracker(workspace, RecordingConsole()).open("d" * 64, "another")
    store = tracker(workspace).store
    found = [
        run
        for run in store.client.search_runs([store.experiment_id])
        if run.info.run_name == "killed"
    ]
    assert len(found) == 1
    assert found[0].data.tags["git"] == "abc"
    if confirmed > 0:
        assert found[0].data.params == {"lr": "0.1"}
        assert recorded(workspace, found[0].info.run_id) == list(range(5))
    if confirmed > 2:
        assert artifacts(workspace, "killed") == {"test/per_class.csv": "first"}
    assert left(workspace) == []


def test_what_an_earlier_version_left_unconfirmed_is_recorded_first(
    workspace: Workspace, tmp_path: Path
) -> None:
    run = tracker(workspace, RecordingConsole(), uri=AWAY).open(KEY, "head")
    run.tags({"earlier": "yes", "both": "earlier"})
    run.artifact(tables(tmp_path / "out", "first") / "per_class.csv")
    # As it was called.
    (workspace.scratch / "outbox").rename(workspace.scratch / "spool")
    (workspace.scratch / "outbox").mkdir()
    (workspace.scratch / "outbox" / f"{KEY}.jsonl").write_text(
        '{"op": "tags", "values": {"both": "later"}}\n'
    )
    later = tracker(workspace, RecordingConsole()).open(KEY, "head")
    assert not (workspace.scratch / "spool").exists()
    data = tracker(workspace).store.client.get_run(later.id).data
    assert (data.tags["earlier"], data.tags["both"]) == ("yes", "later")
    assert artifacts(workspace, "head") == {"per_class.csv": "first"}
    assert left(workspace) == []


def test_a_proxys_no_is_not_the_stores_and_loses_nothing(
    server: Flaky, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tracker(workspace, said := RecordingConsole(), uri=server.url)
    run = opened.open(KEY, "head")
    server.mode = "404"
    run.tags({"kept": "yes"})
    assert run.outbox.writes, "a proxy's answer was taken for the store's"
    assert "away" in said.lines[0]
    server.mode = "ok"
    opened.flush()
    assert opened.store.client.get_run(run.id).data.tags["kept"] == "yes"


def test_who_asks_a_silent_server_is_told_so_instead_of_waiting_for_each_request(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registered_versions, "SECONDS_OF_COMMANDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, never answers
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config = Config(tracking=TrackingConfig(uri=uri))
        with pytest.raises(TrackingError, match=r"no answer within 0\.5 s"):
            registered(config, workspace)
