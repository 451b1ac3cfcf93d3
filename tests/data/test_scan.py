"""The scan pays once for each content, and survives what happens to its memory and its
workers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from image_builders import dataset, encoded, picture, save
from pipeline.context import SilentConsole
from pipeline.data.scan import scan
from pipeline.data.scan_cache import ScanCache
from pipeline.examples import ExampleFault, MeasuredExample
from pipeline.modalities.image.measurement import measure_image as measure
from pipeline.modalities.image.settings import ImageIntakeConfig

Results = dict[str, MeasuredExample | ExampleFault]


class Counting:
    """Measures, and counts how often."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: list[str] = []

    def __call__(self, path: str) -> MeasuredExample | ExampleFault:
        self.paths.append(path)
        return measure(self.root, path, ImageIntakeConfig())


def listed(root: Path) -> list[str]:
    return sorted(
        str(file.relative_to(root)) for file in root.rglob("*") if not file.is_dir()
    )


def run(root: Path, folder: Path, key: str = "k") -> tuple[list[str], Results]:
    """Scans with the memory in `folder`; what was measured anew, and all results."""
    counting = Counting(root)
    return counting.paths, scan(
        root, listed(root), counting, ScanCache(folder, key), SilentConsole()
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return dataset(tmp_path / "data", each=3)


def test_second_scan_measures_nothing_and_finds_the_same(
    data: Path, tmp_path: Path
) -> None:
    save(data / "cat" / "broken.png", b"text")
    first, before = run(data, tmp_path / "memory")
    second, after = run(data, tmp_path / "memory")
    assert sorted(first) == listed(data)
    assert second == []
    assert after == before


def test_files_beside_the_table_are_known_as_well(tmp_path: Path) -> None:
    root = tmp_path / "flat"
    save(root / "a.png", seed=1)
    run(root, tmp_path / "memory")
    assert run(root, tmp_path / "memory")[0] == []


def test_a_shortage_of_memory_is_not_held_against_the_file(
    data: Path, tmp_path: Path
) -> None:
    def short(path: str) -> ExampleFault:
        return ExampleFault(
            path,
            "out-of-memory",
            "f",
            "e",
            "m",
            hashlib.md5((data / path).read_bytes()).hexdigest(),
        )

    scan(
        data, listed(data), short, ScanCache(tmp_path / "memory", "k"), SilentConsole()
    )
    assert run(data, tmp_path / "memory")[0] == listed(data)


def test_grown_data_pay_for_what_is_new(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "memory")
    save(data / "cat" / "new.png", seed=99)
    assert run(data, tmp_path / "memory")[0] == ["cat/new.png"]


def test_moved_and_copied_contents_are_known(data: Path, tmp_path: Path) -> None:
    _, before = run(data, tmp_path / "memory")
    (data / "cat" / "cat0000.png").rename(data / "dog" / "moved.png")
    anew, after = run(data, tmp_path / "memory")
    assert anew == []
    assert after["dog/moved.png"] == before["cat/cat0000.png"]


def test_another_extension_is_another_result(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "memory")
    (data / "cat" / "cat0000.png").rename(data / "cat" / "moved.jpg")
    anew, after = run(data, tmp_path / "memory")
    assert anew == ["cat/moved.jpg"]
    assert after["cat/moved.jpg"].converted == ("extension",)


def test_changed_content_is_measured_although_size_and_time_are_the_same(
    data: Path, tmp_path: Path
) -> None:
    file = data / "cat" / "cat0000.png"
    run(data, tmp_path / "memory")
    status = file.stat()
    changed = bytearray(file.read_bytes())
    changed[-20] ^= 1
    file.write_bytes(changed)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    anew, after = run(data, tmp_path / "memory")
    assert anew == ["cat/cat0000.png"]
    assert isinstance(after["cat/cat0000.png"], ExampleFault)


def test_stamped_files_are_not_read_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.files.SETTLED_SECONDS", -60.0)
    _, before = run(data, tmp_path / "memory")
    monkeypatch.setattr(
        "pipeline.data.scan._md5", lambda path: pytest.fail(f"{path} was read")
    )
    assert run(data, tmp_path / "memory") == ([], before)


def test_file_changed_a_moment_ago_is_hashed_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, tmp_path / "memory")
    read: list[Path] = []
    monkeypatch.setattr("pipeline.data.scan._md5", lambda path: read.append(path))
    run(data, tmp_path / "memory")
    assert len(read) == 6


def test_other_settings_have_another_memory(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "memory", "one")
    assert len(run(data, tmp_path / "memory", "other")[0]) == 6


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def _flip(file: Path) -> None:
    content = file.read_text()
    file.write_text(content.replace('"brightness": 1', '"brightness": 2', 1))


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _other_version(file: Path) -> None:
    text = '{"stamps": {}, "results": {"x": {"unknown": 1}}}'
    file.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


@pytest.mark.parametrize("damage", [_cut, _flip, _empty, _other_version])
def test_damaged_memory_is_thrown_away(
    data: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    _, before = run(data, tmp_path / "memory")
    (file,) = (tmp_path / "memory").iterdir()
    content = file.read_bytes()
    damage(file)
    assert file.read_bytes() != content
    anew, after = run(data, tmp_path / "memory")
    assert len(anew) == 6
    assert after == before


def test_link_out_of_the_folder_is_not_recalled(data: Path, tmp_path: Path) -> None:
    """The same content was accepted once; a path to it that leads outside is still
    refused.
    """
    run(data, tmp_path / "memory")
    (tmp_path / "out").mkdir()
    (data / "cat" / "cat0000.png").rename(tmp_path / "out" / "x.png")
    (data / "away").symlink_to(tmp_path / "out")
    counting = Counting(data)
    for path in ("away/x.png", "../out/x.png", str(tmp_path / "out" / "x.png")):
        results = scan(
            data, [path], counting, ScanCache(tmp_path / "memory", "k"), SilentConsole()
        )
        assert isinstance(results[path], ExampleFault)


def test_broken_off_scan_keeps_what_it_measured(data: Path, tmp_path: Path) -> None:
    class StopSignal(Exception):
        pass

    counting = Counting(data)

    def stops(path: str) -> MeasuredExample | ExampleFault:
        if len(counting.paths) == 4:
            raise StopSignal
        return counting(path)

    with pytest.raises(StopSignal):
        scan(
            data,
            listed(data),
            stops,
            ScanCache(tmp_path / "memory", "k"),
            SilentConsole(),
        )
    assert len(run(data, tmp_path / "memory")[0]) == 2


def _dies(root: Path, path: str) -> MeasuredExample | ExampleFault:
    if path == "cat/cat0007.png":
        os._exit(1)
    return measure(root, path, ImageIntakeConfig())


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data that are shared out to worker processes in several chunks."""
    monkeypatch.setattr("pipeline.data.scan._IN_PROCESS", 4)
    monkeypatch.setattr("pipeline.data.scan._CHUNK", 4)
    return dataset(tmp_path / "data", each=10)


@pytest.mark.slow
def test_worker_processes_find_the_same(shared: Path, tmp_path: Path) -> None:
    alone = run(shared, tmp_path / "alone")[1]
    measures = partial(measure, shared, intake=ImageIntakeConfig())
    assert (
        scan(
            shared,
            listed(shared),
            measures,
            ScanCache(tmp_path / "m", "k"),
            SilentConsole(),
            workers=2,
        )
        == alone
    )


@pytest.mark.full
def test_file_that_kills_its_worker_is_named_and_the_others_are_measured(
    shared: Path, tmp_path: Path
) -> None:
    alone = run(shared, tmp_path / "alone")[1]
    dies = partial(_dies, shared)
    results = scan(
        shared,
        listed(shared),
        dies,
        ScanCache(tmp_path / "m", "k"),
        SilentConsole(),
        workers=2,
    )
    culprit = results.pop("cat/cat0007.png")
    alone.pop("cat/cat0007.png")
    assert isinstance(culprit, ExampleFault)
    assert culprit.code == "crashed"
    assert results == alone


def _marked(root: Path, marks: Path, path: str) -> MeasuredExample | ExampleFault:
    (marks / path.replace("/", "-")).touch()
    return measure(root, path, ImageIntakeConfig())


@pytest.mark.slow
def test_an_interrupt_leaves_what_no_worker_has_begun(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.scan._CHUNK", 1)
    monkeypatch.setattr("pipeline.data.scan._TOLD_EVERY", 1)
    data, marks = dataset(tmp_path / "more", each=60), tmp_path / "marks"
    marks.mkdir()

    class Interrupting(SilentConsole):
        def progress(self, what: str, done: int, total: int, note: str = "") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(
            data,
            listed(data),
            partial(_marked, data, marks),
            ScanCache(tmp_path / "m", "k"),
            Interrupting(),
            2,
        )
    assert 1 <= len(list(marks.iterdir())) < len(listed(data)) / 2


def test_progress_reaches_the_end(data: Path, tmp_path: Path) -> None:
    class Console(SilentConsole):
        def progress(self, what: str, done: int, total: int, note: str = "") -> None:
            told.append((what, done, total))

    told: list[tuple[str, int, int]] = []
    scan(data, listed(data), Counting(data), ScanCache(tmp_path, "k"), Console())
    assert told[-1] == ("scan", 6, 6)


def test_same_path_twice_is_measured_once(tmp_path: Path) -> None:
    save(tmp_path / "a.png", encoded(picture(), "PNG"))
    counting = Counting(tmp_path)
    scan(
        tmp_path,
        ["a.png", "a.png"],
        counting,
        ScanCache(tmp_path / "m", "k"),
        SilentConsole(),
    )
    assert counting.paths == ["a.png"]
