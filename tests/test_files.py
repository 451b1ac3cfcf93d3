"""Files: who may read them, whole or not at all, which version lies there, and which of
a cache are removed first.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from disks import small_files
from flows import up
from flows.servers import Server
from pipeline import files
from pipeline.report.page import write_page


@pytest.fixture(params=[0o077, 0o027, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    wanted: int = request.param
    before = os.umask(wanted)
    yield wanted
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_report_has_the_mode_that_the_umask_says(
    tmp_path: Path, umask: int
) -> None:
    report = tmp_path / "report.html"
    write_page("<p>", report)
    assert mode(report) == 0o666 & ~umask


def test_a_replaced_report_gets_the_umasks_mode_too(tmp_path: Path, umask: int) -> None:
    report = tmp_path / "report.html"
    report.write_text("old")
    report.chmod(0o604)
    write_page("<p>new", report)
    assert mode(report) == 0o666 & ~umask
    assert report.read_text() == "<p>new"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_file_that_finds_no_room_is_named(tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    with small_files(8), pytest.raises(OSError, match="File too large") as caught:
        files.replace_text(receipt, "more than eight bytes")
    assert caught.value.filename == str(receipt)
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_writes_for_its_owner_alone_is_corrected(
    tmp_path: Path, umask: int
) -> None:
    import torch
    from safetensors.torch import save_file

    weights = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, weights)
    files.apply_umask(weights)
    assert mode(weights) == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_the_secret_of_the_servers_is_its_owners_alone_also_where_the_file_was_open_to_all(
    tmp_path: Path, umask: int
) -> None:
    note = tmp_path / "servers.json"
    note.write_text("{}")
    note.chmod(0o644)
    opened_before = note.open()
    servers = [
        Server(name, 1, "/", [sys.executable], {}, tmp_path / "log", tmp_path)
        for name in ("Prefect", "MLflow")
    ]
    up._write_note(note, servers, "thaw:canary")
    assert mode(note) == 0o600
    with opened_before:
        assert opened_before.read() == "{}", (
            "who had the old file open reads the secret"
        )


class TestReplacing:
    def test_the_old_file_is_there_until_the_new_one_is_whole(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "sub" / "table.bin"
        files.replace_text(path, "old")
        with files.replacing(path) as part:
            part.write_text("ne")
            assert path.read_text() == "old"
            part.write_text("new")
        assert path.read_text() == "new"
        assert names(path.parent) == ["table.bin"]

    def test_an_error_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "table.bin"
        files.replace_text(path, "old")
        with contextlib.suppress(KeyboardInterrupt), files.replacing(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt
        assert path.read_text() == "old"
        assert names(tmp_path) == ["table.bin"]

    def test_a_block_that_writes_nothing_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "table.bin"):
            pass
        assert names(tmp_path) == []

    def test_a_link_into_a_cache_is_replaced_and_what_it_leads_to_stays(
        self, tmp_path: Path
    ) -> None:
        cached = tmp_path / "cached"
        cached.write_text("old")
        cached.chmod(0o444)
        linked, named = tmp_path / "linked", tmp_path / "named"
        linked.hardlink_to(cached)
        named.symlink_to(cached)
        for path in (linked, named):
            files.replace_text(path, "new")
            assert path.read_text() == "new"
        assert cached.read_text() == "old"
        assert not named.is_symlink()

    def test_two_threads_that_write_the_same_file_do_not_mix(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "table.bin"
        texts = [str(number) * 50_000 for number in range(8)]
        threads = [
            threading.Thread(target=files.replace_text, args=(path, text))
            for text in texts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert path.read_text() in texts
        assert names(tmp_path) == ["table.bin"]

    def test_durable_syncs_the_content_before_the_name_and_the_folder_after_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "table.bin"
        synced: list[tuple[bool, bool]] = []
        monkeypatch.setattr(
            files, "sync", lambda it: synced.append((it.is_dir(), path.exists()))
        )
        files.replace_text(path, "new", durable=True)
        assert synced == [(False, False), (True, True)]

    def test_a_disk_that_refuses_the_content_keeps_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(descriptor: int) -> None:
            raise OSError(28, os.strerror(28))

        path = tmp_path / "table.bin"
        files.replace_text(path, "old")
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="space"):
            files.replace_text(path, "new", durable=True)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["table.bin"]


class TestDigests:
    def test_they_are_those_of_the_content(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"abc")
        assert files.md5(path) == "900150983cd24fb0d6963f7d28e17f72"
        assert (
            files.sha256(path)
            == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        )


class TestFileStat:
    def test_same_size_and_time_of_modification_do_not_hide_a_change(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"one")
        before, status = files.FileStat.of(path), path.stat()
        path.unlink()
        path.write_bytes(b"two")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert files.FileStat.of(path) != before

    def test_a_link_is_what_it_leads_to_and_no_plain_file(self, tmp_path: Path) -> None:
        path, link = tmp_path / "file", tmp_path / "link"
        path.write_bytes(b"one")
        link.symlink_to(path)
        assert (
            files.FileStat.of(link)
            == files.FileStat.of(path)
            == files.FileStat.of_plain_file(path)
        )
        for other in (link, tmp_path, tmp_path / "missing", Path("\0")):
            assert files.FileStat.of_plain_file(other) is None

    def test_a_file_is_settled_when_no_clock_is_too_coarse(self) -> None:
        changed = files.FileStat(
            size=1, mtime_ns=5_000_000_000, ctime_ns=100_000_000_000, inode=1
        )
        assert not changed.was_settled(100.0 + files.SETTLED_SECONDS)
        assert changed.was_settled(100.1 + files.SETTLED_SECONDS)


class TestEviction:
    def cache(self, folder: Path) -> list[files.CacheEntry]:
        """Files of 10, 20 and 30 bytes; the last was used first."""
        entries = []
        for number, name in enumerate(("new", "middle", "old")):
            path = folder / name
            path.write_bytes(bytes(10 * (number + 1)))
            os.utime(path, ns=(0, 10**9 * (3 - number)))
            entries.append(
                files.CacheEntry((path,), files.used_ns(path), path.stat().st_size)
            )
        return entries

    @pytest.mark.parametrize(
        ("limit", "left"),
        [(60, 60), (59, 30), (30, 30), (29, 10), (9, 0)],
        ids=lambda value: str(value),
    )
    def test_what_was_used_longest_ago_goes_until_the_rest_fits(
        self, tmp_path: Path, limit: int, left: int
    ) -> None:
        assert (
            files.evict_least_recently_used(
                self.cache(tmp_path), lambda held: held <= limit
            )
            == left
        )
        assert files.folder_size(tmp_path) == left

    def test_what_is_in_use_stays_and_counts(self, tmp_path: Path) -> None:
        entries = self.cache(tmp_path)
        left = files.evict_least_recently_used(
            entries, lambda held: held <= 30, keep={tmp_path / "old"}
        )
        assert left == 30
        assert names(tmp_path) == ["old"]

    def test_an_entry_of_several_paths_goes_whole(self, tmp_path: Path) -> None:
        folder, index = tmp_path / "store", tmp_path / "index"
        folder.mkdir()
        (folder / "data").write_bytes(b"1")
        index.write_bytes(b"2")
        entry = files.CacheEntry((index, folder, tmp_path / "gone"), used_ns=1, size=2)
        assert files.evict_least_recently_used([entry], lambda held: held == 0) == 0
        assert names(tmp_path) == []

    def test_two_uses_in_a_row_can_be_told_apart(self, tmp_path: Path) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        for path in (first, second):
            path.mkdir()
            files.mark_used(path)
        assert files.used_ns(first) < files.used_ns(second)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
