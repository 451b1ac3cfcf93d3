"""The sample is the same everywhere, keeps its promises, and never overwrites anything."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import zlib
from collections import Counter, defaultdict
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.sample import COLUMNS, SIDE, SampleSummary, generate, png
from pipeline.errors import WorkspaceError

MD5 = "4e3713da5e5b15df762f4e966715a260"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleSummary:
    return generate(tmp_path_factory.mktemp("sample") / "data")


@pytest.fixture(scope="module")
def rows(sample: SampleSummary) -> list[dict[str, str]]:
    return list(
        csv.DictReader((sample.folder / "metadata.csv").read_text().splitlines())
    )


def test_every_byte_is_as_it_always_was(sample: SampleSummary) -> None:
    assert sample.written
    assert sample.md5 == MD5


@pytest.mark.slow
def test_bytes_do_not_depend_on_vector_units(tmp_path: Path) -> None:
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    off = [name for name in __cpu_dispatch__ if __cpu_features__[name]]
    assert off, (
        "this numpy dispatches to no vector unit of this CPU, so nothing can be switched off"
    )
    code = (
        "import sys; from pathlib import Path\n"
        "from numpy._core._multiarray_umath import __cpu_features__ as on\n"
        "assert not any(on[name] for name in sys.argv[2:])\n"
        "from pipeline.data.sample import generate; print(generate(Path(sys.argv[1])).md5)\n"
    )
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(off)}
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "data"), *off]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == MD5, done.stderr


def test_metadata_names_every_picture_once(
    sample: SampleSummary, rows: list[dict[str, str]]
) -> None:
    pictures = {
        path.relative_to(sample.folder).as_posix()
        for path in sample.folder.rglob("*.png")
    }
    assert tuple(rows[0]) == COLUMNS
    assert {row["path"] for row in rows} == pictures
    assert len(rows) == len(pictures) == sample.images
    assert all(row["path"].startswith(row["label"] + "/") for row in rows)
    assert not any(value == "" for row in rows for value in row.values())


def test_a_part_is_one_label_material_and_line_in_two_to_four_views(
    sample: SampleSummary, rows: list[dict[str, str]]
) -> None:
    parts = defaultdict(list)
    for row in rows:
        parts[row["group"]].append(row)
    assert len(parts) == sample.parts
    assert all(2 <= len(views) <= 4 for views in parts.values())
    for views in parts.values():
        assert len({(row["label"], row["material"], row["line"]) for row in views}) == 1


def test_classes_and_slices_are_large_enough_to_measure(
    sample: SampleSummary, rows: list[dict[str, str]]
) -> None:
    assert set(sample.classes) == {"ok", "scratch", "pit", "stain", "crack"}
    assert min(sample.classes.values()) >= 50
    assert 350 <= sample.images <= 450
    for column in ("line", "material", "lighting"):
        assert min(Counter(row[column] for row in rows).values()) >= 60


def test_pictures_are_plain_rgb_and_all_different(sample: SampleSummary) -> None:
    contents = set()
    for path in sample.folder.rglob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert (image.format, image.mode, image.size) == (
                "PNG",
                "RGB",
                (SIDE, SIDE),
            )
        contents.add(path.read_bytes())
    assert len(contents) == sample.images


def test_dim_pictures_are_darker_and_noisier(
    sample: SampleSummary, rows: list[dict[str, str]]
) -> None:
    ratio = defaultdict(list)
    for row in rows:
        if row["material"] == "painted" and row["label"] == "ok":
            pixels = np.asarray(
                Image.open(sample.folder / row["path"]).convert("L"), dtype=float
            )
            ratio[row["lighting"]].append(
                np.abs(np.diff(pixels)).mean() / pixels.mean()
            )
    assert np.mean(ratio["dim"]) > 2 * np.mean(ratio["ring"])


def test_the_same_sample_is_left_alone(sample: SampleSummary) -> None:
    before = {path: path.stat().st_mtime_ns for path in sample.folder.rglob("*")}
    again = generate(sample.folder)
    assert not again.written
    assert again.md5 == sample.md5
    assert {
        path: path.stat().st_mtime_ns for path in sample.folder.rglob("*")
    } == before


@pytest.mark.parametrize("name", ["ok/part-0000-0.png", "notes.txt"])
def test_a_folder_with_anything_else_is_refused_untouched(
    tmp_path: Path, name: str
) -> None:
    generate(tmp_path / "data", parts=6)
    (tmp_path / "data" / name).write_bytes(b"mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(WorkspaceError, match="not this sample"):
        generate(tmp_path / "data", parts=6)
    assert {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    } == before


def test_an_empty_folder_is_filled_and_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert generate(tmp_path / "empty", parts=2).written
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WorkspaceError):
        generate(tmp_path / "file", parts=2)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_interruption_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def stop_at_third(self: Path, body: bytes) -> int:
        written.append(self)
        if len(written) == 3:
            raise KeyboardInterrupt
        return len(body)

    monkeypatch.setattr(Path, "write_bytes", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "data", parts=2)
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []


def test_more_parts_only_add(tmp_path: Path) -> None:
    few, more = (
        generate(tmp_path / "few", parts=6),
        generate(tmp_path / "more", parts=12),
    )
    for path in few.folder.rglob("*.png"):
        assert (
            more.folder / path.relative_to(few.folder)
        ).read_bytes() == path.read_bytes()


def test_another_seed_is_another_sample(tmp_path: Path) -> None:
    assert (
        generate(tmp_path / "a", parts=2).md5
        != generate(tmp_path / "b", parts=2, seed=1).md5
    )


def test_large_pictures_take_several_stored_blocks() -> None:
    pixels = (
        np.arange(200 * 150 * 3, dtype=np.uint32).reshape(200, 150, 3).astype(np.uint8)
    )
    encoded = png(pixels)
    with Image.open(BytesIO(encoded)) as image:
        assert np.array_equal(np.asarray(image), pixels)
    start = encoded.index(b"IDAT") + 4
    length = int.from_bytes(encoded[start - 8 : start - 4], "big")
    assert len(zlib.decompress(encoded[start : start + length])) == 200 * (1 + 150 * 3)
