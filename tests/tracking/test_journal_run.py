"""The journal in MLflow: of writers at once none is lost and none is believed twice,
and the alias follows.
"""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TrackingError
from pipeline.promotion_journal import (
    MOST_OF_A_NAME,
    Entry,
    JournalMovedError,
    TestSplit,
    now,
    read_history,
    to_reason,
)
from pipeline.tracking import registry
from pipeline.tracking.journal_run import JOURNAL_TAG, JournalRun
from pipeline.tracking.store import TrackingStore
from store_helpers import lay_store

pytestmark = pytest.mark.slow
NAME = "flowers 'é'"
WRITERS = 4


@pytest.fixture
def store(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrackingStore:
    """A registry with three versions of a model."""
    lay_store(tmp_path, tmp_path_factory)
    folder = tmp_path / "mlflow"
    made = TrackingStore(
        f"sqlite:///{folder / 'mlflow.db'}",
        (folder / "artifacts").as_uri(),
        "journals",
        folder,
    )
    made.client.create_registered_model(NAME)
    for _ in range(3):
        run = made.client.create_run(made.experiment_id)
        made.client.create_model_version(NAME, tmp_path.as_uri(), run.info.run_id)
    return made


def entry(champion: str, version: str, **more: Any) -> Entry:
    return Entry(
        kind="promoted",
        champion=champion,
        version=version,
        by="test",
        reason="r",
        time=now(),
        **more,
    )


def alias(store: TrackingStore) -> str | None:
    return registry.aliases_of(store, NAME).get(registry.CHAMPION)


def test_the_alias_follows_the_journal_from_any_process(store: TrackingStore) -> None:
    assert JournalRun(store, NAME).read() == []
    assert JournalRun(store, NAME).reconcile() == ""
    JournalRun(store, NAME).append(entry("", "2"))
    assert alias(store) is None
    assert JournalRun(store, NAME).reconcile() == "2"
    assert alias(store) == "2"
    store.client.set_registered_model_alias(NAME, registry.CHAMPION, "1")
    assert JournalRun(store, NAME).reconcile() == "2"
    assert alias(store) == "2"


def test_an_entry_on_another_champion_is_not_added(store: TrackingStore) -> None:
    journal = JournalRun(store, NAME)
    journal.append(entry("", "1"))
    with pytest.raises(JournalMovedError, match="version 1"):
        journal.append(entry("", "2"))
    assert len(journal.read()) == 1


def test_where_the_champion_was_deleted_there_is_none_until_another_is_made_champion(
    store: TrackingStore,
) -> None:
    journal = JournalRun(store, NAME)
    journal.append(entry("", "2"))
    journal.reconcile()
    store.client.delete_model_version(NAME, "2")
    assert journal.reconcile() == ""
    assert alias(store) is None
    journal.append(entry("2", "3"))
    assert journal.reconcile() == "3"
    assert alias(store) == "3"


def test_the_longest_reason_with_what_json_lengthens_most_is_read_back(
    store: TrackingStore,
) -> None:
    journal = JournalRun(store, NAME)
    worst = chr(34) * 3000 + "\x1b\udcff" * 700
    kept = entry("", "1").model_copy(
        update={"reason": to_reason(worst), "by": to_reason(worst, MOST_OF_A_NAME)}
    )
    journal.append(kept)
    (read,) = journal.read()
    assert (read.reason, read.by) == (kept.reason, kept.by)


def test_a_secret_in_a_reason_is_not_kept_for_ever() -> None:
    assert "hunter2" not in to_reason("see https://bob:hunter2@host/x")


def test_the_journal_is_found_where_the_version_that_pointed_to_it_is_deleted(
    store: TrackingStore,
) -> None:
    JournalRun(store, NAME).append(entry("", "2"))
    store.client.delete_model_version(NAME, "1")
    assert JournalRun(store, NAME).reconcile() == "2"
    JournalRun(store, NAME).append(entry("2", "3"))
    assert [one.version for one in JournalRun(store, NAME).read()] == ["2", "3"]


def test_a_journal_that_was_removed_for_good_begins_again_with_the_champion_there_is(
    store: TrackingStore,
) -> None:
    journal = JournalRun(store, NAME)
    journal.append(entry("", "2"))
    journal.reconcile()
    (run,) = store.client.search_runs(
        [store.experiment_id], f"tags.`{JOURNAL_TAG}` != ''"
    )
    store.client.delete_run(run.info.run_id)
    purge = [
        sys.executable,
        "-P",
        "-m",
        "mlflow",
        "gc",
        "--backend-store-uri",
        store.uri,
        "--tracking-uri",
        store.uri,
    ]
    purge += ["--run-ids", run.info.run_id]
    subprocess.run(purge, check=True, capture_output=True)
    assert JournalRun(store, NAME).reconcile() == "2"
    (adopted,) = JournalRun(store, NAME).read()
    assert (adopted.kind, adopted.version) == ("adopted", "2")


def test_a_test_split_is_kept_beside_the_entries(
    store: TrackingStore, tmp_path: Path
) -> None:
    kept = TestSplit(digest="d" * 64, examples=("a", "b"), units=("1", "1"))
    JournalRun(store, NAME).keep_test_split(kept, tmp_path / "here")
    assert (
        JournalRun(store, NAME).find_test_split(kept.digest, tmp_path / "elsewhere")
        == kept
    )
    assert (
        JournalRun(store, NAME).find_test_split("e" * 64, tmp_path / "elsewhere")
        is None
    )


def test_a_test_split_is_kept_with_every_journal_that_has_looks_at_it(
    store: TrackingStore, tmp_path: Path
) -> None:
    kept = TestSplit(digest="d" * 64, examples=("a", "b"), units=("1", "1"))
    run = store.client.create_run(store.experiment_id)
    store.client.create_registered_model("renamed")
    store.client.create_model_version("renamed", tmp_path.as_uri(), run.info.run_id)
    for name in (NAME, "renamed"):
        JournalRun(store, name).keep_test_split(kept, tmp_path / "here")
    found = JournalRun(store, "renamed").find_test_split(kept.digest, tmp_path / "else")
    assert found == kept


def test_a_test_split_that_was_cut_short_is_fetched_again_once_it_is_whole(
    store: TrackingStore, tmp_path: Path
) -> None:
    kept = TestSplit(digest="d" * 64, examples=("a", "b"), units=("1", "1"))
    JournalRun(store, NAME).keep_test_split(kept, tmp_path / "here")
    (stored,) = (tmp_path / "mlflow").rglob("test-splits/*.json")
    whole = stored.read_text()
    for text, expected in ((whole[:20], None), (whole, kept)):
        stored.write_text(text)
        journal = JournalRun(store, NAME)
        assert journal.find_test_split(kept.digest, tmp_path / "else") == expected


def test_without_the_store_no_test_split_passes_for_new(
    store: TrackingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = JournalRun(store, NAME)
    kept = TestSplit(digest="d" * 64, examples=("a", "b"), units=("1", "1"))
    journal.keep_test_split(kept, tmp_path / "here")

    def is_away(*_: Any) -> Any:
        raise ConnectionError("HTTP 503")

    monkeypatch.setattr(store.client, "list_artifacts", is_away)
    monkeypatch.setattr(store.client, "download_artifacts", is_away)
    with pytest.raises(TrackingError, match="HTTP 503"):
        journal.find_test_split(kept.digest, tmp_path / "elsewhere")


def write(store: TrackingStore, seed: int, written: Any) -> None:
    generator = random.Random(seed)
    journal = JournalRun(store, NAME)
    won = 0
    for _ in range(4):
        champion = read_history(journal.read()).champion
        version = generator.choice([number for number in "123" if number != champion])
        try:
            journal.append(entry(champion, version))
            won += 1
        except JournalMovedError:
            pass
        journal.reconcile()
    written.put(won)


def test_of_writers_at_once_none_is_lost_and_none_believed_twice(
    store: TrackingStore,
) -> None:
    processes = multiprocessing.get_context("spawn")
    written: Any = processes.Queue()
    uri = TrackingStore(store.uri, None, store.experiment)
    writers = [
        processes.Process(target=write, args=(uri, seed, written))
        for seed in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    won = sum(written.get(timeout=240) for _ in writers)
    for writer in writers:
        writer.join()
    entries = JournalRun(store, NAME).read()
    assert len(entries) == won, "an entry was lost or stands twice"
    assert len({one.nonce for one in entries}) == won
    assert (
        JournalRun(store, NAME).reconcile()
        == read_history(entries).champion
        == alias(store)
    )
