"""What a disk refuses, wherever in a run, is an error that names path and room."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import THAW
from disks import small_disk, small_files
from pipeline.errors import DataError, StorageError, TrackingError
from pipeline.storage import (
    PositionedFile,
    save_tensors,
    storage_errors,
    to_storage_error,
)


def told(fault: BaseException, root: Path) -> StorageError:
    with pytest.raises(StorageError) as caught, storage_errors(root):
        raise fault
    assert "MB free" in caught.value.found
    return caught.value


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "thaw clean"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "mount"),
        (errno.EACCES, "chmod"),
        (errno.EIO, "health"),
        (errno.ENOTDIR, "see that it is there"),
    ],
)
def test_every_kind_names_path_room_and_what_to_do(
    tmp_path: Path, number: int, hint: str
) -> None:
    path = tmp_path / "artifacts" / "model.safetensors"
    error = told(OSError(number, os.strerror(number), str(path)), tmp_path)
    assert error.subject == str(path)
    assert os.strerror(number) in error.found
    assert hint in error.hint


def test_a_fault_that_names_no_path_names_the_workspace(tmp_path: Path) -> None:
    assert told(
        OSError(errno.ENOSPC, "No space left on device"), tmp_path
    ).subject == str(tmp_path)


def test_of_a_copy_the_file_that_lacks_room_is_named(tmp_path: Path) -> None:
    source, copy = tmp_path / "model.safetensors", tmp_path / "disk" / "model"
    full = OSError(errno.ENOSPC, "No space left", str(source), None, str(copy))
    assert told(full, tmp_path).subject == str(copy)


def test_a_full_disk_behind_another_error_is_found(tmp_path: Path) -> None:
    def commit() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "cache/ab")
        except OSError as fault:
            raise TrackingError("register", found="the store did not answer") from fault

    with pytest.raises(StorageError) as caught, storage_errors(tmp_path):
        commit()
    assert caught.value.subject == str(tmp_path / "cache/ab")


def test_a_library_that_hands_it_on_as_words_is_understood(tmp_path: Path) -> None:
    assert told(
        RuntimeError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
        tmp_path,
    )


def test_a_weights_file_that_finds_no_room_is_named(tmp_path: Path) -> None:
    place = tmp_path / "model.safetensors"
    refused = pytest.raises(StorageError)
    with small_files(1000), refused as caught, storage_errors(tmp_path):
        save_tensors({"weight": torch.zeros(10_000)}, place)
    assert caught.value.subject == str(place)


def test_a_database_on_a_full_disk(tmp_path: Path) -> None:
    opened = closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None))
    with (
        opened as database,
        small_files(20_000),
        pytest.raises(sqlite3.OperationalError) as caught,
    ):
        database.execute("CREATE TABLE runs AS SELECT zeroblob(100000)")
    assert to_storage_error(caught.value, tmp_path) is not None


@pytest.mark.parametrize(
    "fault",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        TimeoutError(errno.ETIMEDOUT, "timed out"),
        OSError("cannot identify image file"),
        ValueError("a bug"),
    ],
)
def test_what_no_disk_is_the_cause_of_stays_what_it_is(
    tmp_path: Path, fault: Exception
) -> None:
    with pytest.raises(type(fault)) as caught, storage_errors(tmp_path):
        raise fault
    assert caught.value is fault


def test_an_error_that_says_more_of_a_file_stays(tmp_path: Path) -> None:
    def read() -> None:
        try:
            (tmp_path / "missing").open()
        except OSError as fault:
            raise DataError("data/a.png", found="gone") from fault

    with pytest.raises(DataError), storage_errors(tmp_path):
        read()


def test_a_file_that_cannot_grow_fails_at_the_write_and_keeps_what_it_has(
    tmp_path: Path,
) -> None:
    written = PositionedFile(tmp_path / "pixels")
    written.write(np.arange(8, dtype=np.uint8).reshape(2, 4), 0)
    with small_files(8), pytest.raises(OSError, match="File too large"):
        written.write(np.zeros(8, np.uint8), 4)
    assert (tmp_path / "pixels").read_bytes()[:4] == bytes(range(4))


@pytest.mark.slow
def test_a_step_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", megabytes=64) as disk:
        place = disk / "surfaces"
        made = Path(__file__).parent / "support" / "small_workspace.py"
        subprocess.run([sys.executable, str(made), str(place)], check=True, timeout=120)
        ballast = disk / "ballast"
        fill(ballast)
        full = subprocess.run(
            [THAW, "step", "validate"],
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
        )
        ballast.unlink()
        room = subprocess.run(
            [THAW, "step", "validate"],
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
        )
    assert full.returncode == 2, full.stderr
    assert "Traceback" not in full.stderr
    assert "No space left on device" in full.stderr
    assert "0.0 of 67.1 MB free" in full.stderr
    assert str(place) in full.stderr
    assert room.returncode == 0, room.stderr


def fill(path: Path) -> None:
    """Takes all that a disk has left."""
    with path.open("wb", buffering=0) as stream:
        for size in (2**20, 2**10, 1):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                continue
