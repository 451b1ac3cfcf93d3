"""The ledger: append-only, atomic, and never quietly another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.ledger import SCHEMA, Ledger, LedgerEntry, agrees, load, merged
from pipeline.errors import LedgerError

A = LedgerEntry("a" * 32, "g", "train", "cat", "00ff00ff00ff00ff", 0)
B = LedgerEntry("b" * 32, None, "test", "dog", None, 0)


def ledger(*entries: LedgerEntry) -> Ledger:
    return Ledger({entry.id: entry for entry in entries})


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    ledger(B, A).save(tmp_path / "ledger.parquet")
    assert load(tmp_path / "ledger.parquet") == ledger(A, B)


def test_the_file_depends_on_the_entries_alone(tmp_path: Path) -> None:
    ledger(A, B).save(tmp_path / "1")
    ledger(B, A).save(tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_read_only_link_into_a_cache_is_replaced_not_written_to(
    tmp_path: Path,
) -> None:
    cached, path = tmp_path / "cached", tmp_path / "ledger.parquet"
    ledger(A).save(cached)
    before = cached.read_bytes()
    cached.chmod(0o444)
    path.hardlink_to(cached)
    ledger(A, B).save(path)
    assert cached.read_bytes() == before
    assert load(path) == ledger(A, B)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cached", "ledger.parquet"]


def test_a_save_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.parquet"
    ledger(A).save(path)

    def full(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        ledger(A, B).save(path)
    assert load(path) == ledger(A)
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.parquet"]


def test_it_only_grows() -> None:
    grown = ledger(A).extended([B])
    assert grown.next_batch == 1
    assert grown == ledger(A, B)
    with pytest.raises(LedgerError, match="already"):
        grown.extended([replace(A, split="val")])


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.parquet"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"dvc checkout ledger\.dvc"):
        load(path)


def test_another_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.parquet"
    pq.write_table(pa.table({"id": ["a"], "split": ["train"]}), path)
    with pytest.raises(LedgerError):
        load(path)


def test_entries_that_contradict_one_another_are_refused(tmp_path: Path) -> None:
    rows = [A, replace(A, split="test"), replace(B, split="holdout")]  # type: ignore[arg-type]
    pq.write_table(
        pa.table(
            {f.name: [getattr(r, f.name) for r in rows] for f in SCHEMA}, schema=SCHEMA
        ),
        tmp_path / "x",
    )
    with pytest.raises(LedgerError) as caught:
        load(tmp_path / "x")
    assert caught.value.details == (f"{B.id}: split holdout", f"{A.id}: twice")


def test_ledgers_that_grew_apart_are_merged_unless_they_contradict() -> None:
    assert merged(ledger(A), ledger(A, B), "x") == ledger(A, B)
    with pytest.raises(LedgerError, match=A.id):
        merged(ledger(A), ledger(replace(A, split="test")), "x")


def test_whether_a_split_agrees(tmp_path: Path) -> None:
    path, split = tmp_path / "ledger.parquet", tmp_path / "manifest.parquet"
    ledger(A, B).save(path)
    for splits, expected in (
        (["train", "test"], True),
        (["train", None], True),
        (["val", "test"], False),
    ):
        pq.write_table(pa.table({"id": [A.id, B.id], "split": splits}), split)
        assert agrees(path, split) is expected
    pq.write_table(pa.table({"id": ["c" * 32], "split": ["train"]}), split)
    assert not agrees(path, split)
