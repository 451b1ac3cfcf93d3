"""A store that is away, broken or slow costs a training seconds, and the record nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.context import Metric
from pipeline.errors import TrackingError
from pipeline.tracking import runs, store
from pipeline.workspace import Workspace
from store_helpers import Flaky, Said, flaky_server, lay_store, tracker

KEY = "c" * 64


@pytest.fixture
def workspace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return lay_store(tmp_path / "insects", tmp_path_factory)


@pytest.fixture
def server(workspace: Workspace) -> Iterator[Flaky]:
    with pytest.MonkeyPatch.context() as patch, flaky_server(workspace, patch) as flaky:
        patch.setitem(store.PATIENT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield flaky


def curve(*steps: int) -> list[Metric]:
    return [Metric("train/loss", 1.0 / (1 + step), step) for step in steps]


def recorded(workspace: Workspace, run_id: str) -> list[int]:
    client = tracker(workspace).store.client
    return [point.step for point in client.get_metric_history(run_id, "train/loss")]


def test_a_server_that_breaks_in_the_middle_is_told_everything_once_it_answers(
    server: Flaky, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_EVERY", 0.0)
    monkeypatch.setattr(runs, "_RATIO", 0.0)
    said = Said()
    opened = tracker(workspace, said, uri=server.url)
    run = opened.open(KEY, "head")
    run.metrics(curve(0, 1, 2))
    opened.settle()  # however slow this machine is
    server.mode = "500"
    began = time.monotonic()
    for step in range(3, 200):
        run.metrics(curve(step))
    assert time.monotonic() - began < 4, "the training waited"
    assert 0 < server.fired <= 3, "the fault did not fire, or the server was asked again and again"
    assert len(said.lines) == 1
    assert "away" in said.lines[0]
    server.mode = "ok"
    monkeypatch.setattr(opened, "_away_until", 0.0)  # the pause is over
    run.metrics(curve(200))
    run.close()
    assert recorded(workspace, run.id) == list(range(201))
    assert len(said.lines) == 2
    assert "answers again" in said.lines[1]
    assert not list((workspace.scratch / "spool").glob("*"))


def test_what_a_slow_server_did_without_answering_in_time_is_not_done_twice(
    server: Flaky, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_EVERY", 0.0)
    monkeypatch.setattr(runs, "_RATIO", 0.0)
    opened = tracker(workspace, Said(), uri=server.url)
    run = opened.open(KEY, "head")
    run.metrics(curve(0))
    opened.settle()  # however slow this machine is
    monkeypatch.setitem(store.TRAINING, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.mode = "lost"
    began = time.monotonic()
    run.metrics(curve(1, 2, 3))
    assert time.monotonic() - began < 2.5, "the training waited"
    assert server.fired == 1
    time.sleep(0.2)
    assert sorted(recorded(workspace, run.id)) == [0, 1, 2, 3], "the server did nothing: this test tests nothing"
    assert run.spool.ops, "the tracker took a lost answer for a yes"
    server.mode = "ok"
    monkeypatch.setitem(store.TRAINING, "MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    opened.settle()
    assert sorted(recorded(workspace, run.id)) == [0, 1, 2, 3]
    resumed = tracker(workspace, Said(), uri=server.url)  # and once more by the next process
    again = resumed.open(KEY, "head")
    again.metrics(curve(2, 3, 4))
    again.close()
    resumed.settle()
    assert again.id == run.id
    assert sorted(recorded(workspace, run.id)) == [0, 1, 2, 3, 4]


def test_a_run_begun_with_the_server_down_is_recorded_by_the_next(workspace: Workspace, tmp_path: Path) -> None:
    said = Said()
    (tmp_path / "report.html").write_text("<p>")
    away = tracker(workspace, said, uri="http://127.0.0.1:9")  # nobody listens at the discard port
    began = time.monotonic()
    parent = away.open(KEY, "insects", tags={"git": "abc"})
    run = away.open("d" * 64, "head", parent=parent)
    run.params({"lr": 0.1})
    for step in range(100):
        run.metrics(curve(step))
    run.artifact(tmp_path / "report.html")
    run.close()
    parent.close()
    assert time.monotonic() - began < 15
    assert (parent.id, run.id) == ("", "")
    assert len(said.lines) == 1
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
        away.settle()

    later = tracker(workspace)
    later.open("e" * 64, "another")
    client = later.store.client
    found = {one.info.run_name: one for one in client.search_runs([later.store.experiment_id])}
    assert found["head"].data.tags["mlflow.parentRunId"] == found["insects"].info.run_id
    assert found["head"].data.params == {"lr": "0.1"}
    assert {found["head"].info.status, found["insects"].info.status} == {"FINISHED"}
    assert recorded(workspace, found["head"].info.run_id) == list(range(100))
    assert [file.path for file in client.list_artifacts(found["head"].info.run_id)] == ["report.html"]
    assert found["insects"].data.tags["git"] == "abc"
    assert [path.stem for path in (workspace.scratch / "spool").glob("*")] == []


def test_a_write_the_server_refuses_is_left_out_and_does_not_block_the_others(workspace: Workspace) -> None:
    said = Said()
    opened = tracker(workspace, said)
    run = opened.open(KEY, "head")
    run.spool.append({"op": "metrics", "points": [["a\nb", 1.0, 1, 1]]})
    run.tags({"after": "it"})
    assert opened.store.client.get_run(run.id).data.tags["after"] == "it"
    assert len(said.lines) == 1
    assert "refused" in said.lines[0]
