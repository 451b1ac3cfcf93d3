"""The decoded store: decoded once, whole or not at all, bounded, and the same whoever
fills it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consoles import RecordingConsole
from disks import small_disk, small_files
from pipeline.context import SilentConsole
from pipeline.data import decoded_store
from pipeline.errors import TrainingError
from pipeline.records import ImageInputSpec

SPEC = ImageInputSpec(size=4, resize=4)
BYTES = 4 * 4 * 3


class Bytes:
    """A decoder for files that hold one byte: an array full of it. Counts what it
    decodes.
    """

    name = "bytes"

    def __init__(self) -> None:
        self.decoded: list[str] = []

    def shape(self, spec: ImageInputSpec) -> tuple[int, ...]:
        return (spec.resize, spec.resize, 3)

    def decode(self, path: Path, spec: ImageInputSpec) -> np.ndarray[Any, Any]:
        self.decoded.append(path.name)
        (value,) = path.read_bytes()
        return np.full(self.shape(spec), value, np.uint8)


def files(folder: Path, values: range) -> list[tuple[str, Path]]:
    folder.mkdir(exist_ok=True)
    rows = []
    for value in values:
        path = folder / f"{value}.bin"
        path.write_bytes(bytes([value]))
        rows.append((hashlib.md5(bytes([value])).hexdigest(), path))
    return rows


def opened(
    rows: list[tuple[str, Path]],
    scratch: Path,
    *,
    task: Any = None,
    spec: ImageInputSpec = SPEC,
    limit_gb: float = 1.0,
    console: Any = None,
) -> tuple[decoded_store.DecodedStore, Any]:
    task = task or Bytes()
    return decoded_store.open_store(
        task,
        spec,
        rows,
        scratch,
        limit_gb=limit_gb,
        console=console or SilentConsole(),
        workers=2,
    ), task


def values(store: decoded_store.DecodedStore, rows: list[int]) -> list[int]:
    found = store.batch(np.array(rows, np.int64))
    assert tuple(found.shape) == (len(rows), 4, 4, 3)
    assert all(len(example.unique()) == 1 for example in found)
    return [int(example[0, 0, 0]) for example in found]


def segments(scratch: Path) -> list[Path]:
    return sorted(scratch.glob("pixels/*/*.u8"))


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_store, "SEGMENT_BYTES", 4 * BYTES)


def test_rows_come_in_the_order_asked_for_and_may_repeat(tmp_path: Path) -> None:
    rows = files(tmp_path / "data", range(10))
    store, _ = opened(rows, tmp_path)
    assert len(store) == 10
    assert store.ids == tuple(name for name, _ in rows)
    assert values(store, [7, 0, 7, 3]) == [7, 0, 7, 3]


def test_what_was_decoded_is_not_decoded_again(tmp_path: Path) -> None:
    opened(files(tmp_path / "data", range(6)), tmp_path)
    store, task = opened(files(tmp_path / "data", range(9))[::-1], tmp_path)
    assert sorted(task.decoded) == ["6.bin", "7.bin", "8.bin"]
    assert values(store, list(range(9))) == list(range(8, -1, -1))


def test_another_presentation_is_another_store(tmp_path: Path) -> None:
    rows = files(tmp_path / "data", range(3))
    opened(rows, tmp_path)
    other, task = opened(rows, tmp_path, spec=SPEC.model_copy(update={"fit": "pad"}))
    assert len(task.decoded) == 3
    assert values(other, [2]) == [2]


def test_what_another_version_of_the_engine_decoded_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = files(tmp_path / "data", range(3))
    opened(rows, tmp_path)
    monkeypatch.setattr(decoded_store, "ENGINE", decoded_store.ENGINE + 1)
    _, task = opened(rows, tmp_path)
    assert len(task.decoded) == 3


def test_content_listed_twice_is_decoded_once(tmp_path: Path) -> None:
    rows = files(tmp_path / "data", range(3))
    store, task = opened([*rows, rows[1]], tmp_path)
    assert len(task.decoded) == 3
    assert values(store, [3]) == [1]


def test_no_examples_are_no_trouble(tmp_path: Path) -> None:
    store, _ = opened([], tmp_path)
    assert len(store) == 0


def test_a_file_that_cannot_be_decoded_is_named_and_nothing_else_is_lost(
    tmp_path: Path,
) -> None:
    rows = files(tmp_path / "data", range(5))
    broken = tmp_path / "data" / "broken.bin"
    broken.write_bytes(b"two")
    with pytest.raises(TrainingError, match=r"broken\.bin"):
        opened([*rows, (hashlib.md5(b"two").hexdigest(), broken)], tmp_path)
    assert values(opened(rows, tmp_path)[0], [4]) == [4]


def test_all_files_that_cannot_be_decoded_are_named_at_once(tmp_path: Path) -> None:
    rows = files(tmp_path / "data", range(5))
    rows[1][1].unlink()
    rows[3][1].unlink()
    with pytest.raises(TrainingError) as caught:
        opened(rows, tmp_path)
    assert [
        detail.split(":")[0].rsplit("/")[-1] for detail in caught.value.details
    ] == ["1.bin", "3.bin"]


def test_content_that_changed_since_it_was_validated_is_refused(tmp_path: Path) -> None:
    rows = files(tmp_path / "data", range(3))
    rows[1][1].write_bytes(b"x")
    with pytest.raises(TrainingError, match="changed since it was validated"):
        opened(rows, tmp_path)


# --- damage ---------------------------------------------------------------------------
def _truncate(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 1)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "data cut short": _truncate,
    "data gone": Path.unlink,
    "index gone": lambda path: path.with_suffix(".json").unlink(),
    "index empty": lambda path: path.with_suffix(".json").write_text(""),
    "index not ours": lambda path: path.with_suffix(".json").write_text("[1, 2]"),
    "ids altered": lambda path: path.with_suffix(".json").write_text(
        path.with_suffix(".json")
        .read_text()
        .replace(hashlib.md5(b"\x02").hexdigest(), hashlib.md5(b"?").hexdigest())
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_segment_is_decoded_again(
    tmp_path: Path, small_segments: None, damage: str
) -> None:
    rows = files(tmp_path / "data", range(8))
    opened(rows, tmp_path)
    first = segments(tmp_path)[0]
    DAMAGE[damage](first)
    store, task = opened(rows, tmp_path)
    assert sorted(task.decoded) == ["0.bin", "1.bin", "2.bin", "3.bin"]
    assert values(store, list(range(8))) == list(range(8))
    assert opened(rows, tmp_path)[1].decoded == []


KILLED = """
import os, signal, sys
from pathlib import Path
import test_cache
from pipeline.data import decoded_store
decoded_store.SEGMENT_BYTES = 4 * test_cache.BYTES
class Deadly(test_cache.Bytes):
    def decode(self, path, spec):
        if path.name == "9.bin":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(path, spec)
test_cache.opened(test_cache.files(Path(sys.argv[1]) / "data", range(12)), Path(sys.argv[1]), task=Deadly())
"""


def in_another_process(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_kill_while_decoding_loses_only_the_segment_being_written(
    tmp_path: Path, small_segments: None
) -> None:
    done = in_another_process(KILLED, tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store, task = opened(files(tmp_path / "data", range(12)), tmp_path)
    assert sorted(task.decoded) == ["10.bin", "11.bin", "8.bin", "9.bin"]
    assert values(store, list(range(12))) == list(range(12))
    assert not list(tmp_path.glob("pixels/*/*part"))


def test_two_at_once_decode_everything_once(tmp_path: Path) -> None:
    rows = files(tmp_path / "data", range(40))
    tasks, stores = [Bytes(), Bytes()], {}

    def open_one(turn: int) -> None:
        stores[turn] = opened(rows, tmp_path, task=tasks[turn])[0]

    threads = [threading.Thread(target=open_one, args=(turn,)) for turn in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tasks[0].decoded) + len(tasks[1].decoded) == 40
    assert values(stores[0], [39]) == values(stores[1], [39]) == [39]


# --- bounds ---------------------------------------------------------------------------
def test_what_was_used_longest_ago_goes_first(
    tmp_path: Path, small_segments: None
) -> None:
    opened(files(tmp_path / "a", range(4)), tmp_path)
    opened(files(tmp_path / "b", range(10, 14)), tmp_path)
    opened(files(tmp_path / "a", range(4)), tmp_path)  # used again
    opened(files(tmp_path / "c", range(20, 24)), tmp_path, limit_gb=8 * BYTES / 1e9)
    assert len(segments(tmp_path)) == 2
    assert opened(files(tmp_path / "a", range(4)), tmp_path)[1].decoded == []
    assert len(opened(files(tmp_path / "b", range(10, 14)), tmp_path)[1].decoded) == 4


def test_an_evicted_store_that_is_open_goes_on(tmp_path: Path) -> None:
    store, _ = opened(files(tmp_path / "a", range(4)), tmp_path)
    opened(files(tmp_path / "b", range(10, 14)), tmp_path, limit_gb=4 * BYTES / 1e9)
    assert len(segments(tmp_path)) == 1
    assert values(store, [0, 1, 2, 3]) == [0, 1, 2, 3]


def test_beyond_the_limit_examples_are_decoded_each_time_and_that_is_said(
    tmp_path: Path,
) -> None:
    rows, console = files(tmp_path / "data", range(10)), RecordingConsole()
    store, task = opened(rows, tmp_path, limit_gb=6.5 * BYTES / 1e9, console=console)
    assert "room for 6 of 10" in console.lines[0]
    assert sum(path.stat().st_size for path in segments(tmp_path)) == 6 * BYTES
    for _ in range(2):
        assert values(store, list(range(10))) == list(range(10))
    assert len(task.decoded) == 6 + 2 * 4


def test_a_full_disk_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: Usage(decoded_store.SPARE_BYTES // 2)
    )
    rows, console = files(tmp_path / "data", range(3)), RecordingConsole()
    store, _ = opened(rows, tmp_path, console=console)
    assert "room for 0 of 3" in console.lines[0]
    assert "MB free, of which 1,074 MB stay free" in console.lines[0]
    assert values(store, [2]) == [2]


FILLED = """
import sys
from pathlib import Path
import test_cache
from pipeline.data import decoded_store
decoded_store.SPARE_BYTES = -(10**12)  # there was room when it was looked for
decoded_store.SEGMENT_BYTES = 64 * 2**20
class Large(test_cache.Bytes):
    def shape(self, spec):
        return (400, 400, 3)
    def decode(self, path, spec):
        (value,) = path.read_bytes()
        return test_cache.np.full((400, 400, 3), value, test_cache.np.uint8)
console = test_cache.RecordingConsole()
store, _ = test_cache.opened(
    test_cache.files(Path(sys.argv[1]), range(12)), Path(sys.argv[2]), task=Large(), console=console
)
print([int(example[0, 0, 0]) for example in store.batch(test_cache.np.arange(12))])
print(*console.lines, sep="\\n")
"""


@pytest.mark.slow
def test_a_disk_that_fills_meanwhile_is_said_and_the_examples_are_decoded_each_time(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", megabytes=3) as disk:
        done = in_another_process(FILLED, tmp_path / "data", disk)
        left = [
            path for path in disk.rglob("*") if path.is_file() and path.name != "lock"
        ]
    assert done.returncode == 0, f"ended by {done.returncode}: {done.stderr}"
    assert str(list(range(12))) in done.stdout
    assert "No space left on device" in done.stdout
    assert "MB free" in done.stdout
    assert "12 examples are decoded each time" in done.stdout
    assert left == []


def test_a_segment_the_disk_refuses_leaves_nothing_and_those_before_it_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded_store, "SEGMENT_BYTES", 2 * BYTES)
    rows, console = files(tmp_path / "data", range(5)), RecordingConsole()
    opened(rows[:2], tmp_path)
    monkeypatch.setattr(decoded_store, "SEGMENT_BYTES", 64 * BYTES)
    with small_files(2 * BYTES):
        store, task = opened(rows, tmp_path, console=console)
    assert len(segments(tmp_path)) == 1
    assert not list(tmp_path.glob("pixels/*/*part"))
    assert "3 examples are decoded each time" in console.lines[0]
    assert str(segments(tmp_path)[0].parent) in console.lines[0]
    assert values(store, list(range(5))) == list(range(5))
    assert "0.bin" not in task.decoded


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "pixels").write_text("in the way")
    console = RecordingConsole()
    store, _ = opened(files(tmp_path / "data", range(3)), tmp_path, console=console)
    assert str(tmp_path / "pixels") in console.lines[0]
    assert values(store, [0, 1, 2]) == [0, 1, 2]


class Usage:
    def __init__(self, free: int) -> None:
        self.free = free
        self.total = 2**40
