"""The validate step: what it writes, what it refuses, what it remembers."""

from __future__ import annotations

import datetime
import decimal
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consoles import RecordingConsole
from image_builders import dataset, encoded, picture, placeholder, save
from pipeline import manifest
from pipeline.config import DataConfig
from pipeline.context import Context
from pipeline.errors import DataError
from pipeline.evaluation.bootstrap import BootstrapSettings
from pipeline.evaluation.slices import score_slices, slice_columns
from pipeline.records import ValidateRecord
from pipeline.steps.validate import validate
from pipeline.tasks.image_classification.settings import ImageClassificationConfig


class Bench:
    """A workspace's folders around a data folder, and the step run in them again and
    again.
    """

    def __init__(self, base: Path) -> None:
        self.base, self.data, self.runs = base, base / "data", 0
        self.lines: list[str] = []

    @property
    def out(self) -> Path:
        return self.base / f"out{self.runs}"

    @property
    def run_dir(self) -> Path:
        return self.base / ".thaw" / "runs" / str(self.runs) / "validate"

    def run(self, **settings: object) -> ValidateRecord:
        self.runs += 1
        self.out.mkdir()
        console = RecordingConsole()
        context = Context(
            self.base, self.data, self.base / ".thaw", self.run_dir, console
        )
        config = DataConfig.model_validate({"min_per_class": 5, **settings})
        try:
            return validate(config, ImageClassificationConfig(), self.out, context)
        finally:
            self.lines = console.lines

    def outputs(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted(self.out.iterdir())}

    def drift(self) -> list[str]:
        return [
            finding["code"]
            for finding in json.loads((self.run_dir / "drift.json").read_text())
        ]


@pytest.fixture
def bench(tmp_path: Path, without_data_docs: None) -> Bench:
    dataset(tmp_path / "data")
    return Bench(tmp_path)


def test_manifest_quarantine_and_record(tmp_path: Path) -> None:
    dataset(tmp_path / "data")
    bench = Bench(tmp_path)
    save(bench.data / "cat" / "broken.png", b"text")
    save(
        bench.data / "cat" / "copy.png",
        (bench.data / "cat" / "cat0003.png").read_bytes(),
    )
    save(
        bench.data / "dog" / "wide.png",
        encoded(picture(77, size=(90, 40), mode="L"), "PNG"),
    )
    record = bench.run()
    assert record == ValidateRecord.load(bench.out)
    assert (record.files, record.examples, record.aliases, record.quarantined) == (
        27,
        25,
        1,
        1,
    )
    assert record.labels == ("cat", "dog")
    assert record.per_class == {"cat": 12, "dog": 13}
    assert record.converted == {"grey": 1}
    assert record.checks > 8
    assert [finding.code for finding in record.findings] == ["copies"]
    table = manifest.read(record.manifest)
    assert table.schema.field("id") == manifest.COLUMNS.field("id").with_nullable(True)
    rows = {row["path"]: row for row in table.to_pylist()}
    assert rows["cat/cat0003.png"]["aliases"] == ["cat/copy.png"]
    assert (
        rows["dog/wide.png"]["scan.width"],
        rows["dog/wide.png"]["scan.height"],
    ) == (90, 40)
    assert list(rows) == sorted(rows, key=lambda path: rows[path]["id"])
    (quarantined,) = pq.read_table(record.quarantine).to_pylist()
    assert (quarantined["path"], quarantined["code"]) == (
        "cat/broken.png",
        "not-an-image",
    )
    assert any("cat/broken.png" in line for line in bench.lines)
    assert (bench.run_dir / "data-docs" / "index.html").is_file()


def test_the_first_quarantined_files_are_named_then_how_many_more_and_where_all_are(
    bench: Bench,
) -> None:
    for number in range(7):
        save(bench.data / "cat" / f"broken{number}.png", b"text")
    bench.run(max_bad_fraction=0.5)
    named = [line for line in bench.lines if line.startswith("quarantined")]
    assert [line.split(":")[0] for line in named] == [
        f"quarantined cat/broken{number}.png" for number in range(5)
    ]
    assert "… and 2 more, all in artifacts/validate/quarantine.parquet" in bench.lines


def test_outputs_are_the_same_bytes_whatever_happened_before(bench: Bench) -> None:
    save(bench.data / "cat" / "broken.png", b"text")
    bench.run()
    before = bench.outputs()
    bench.run()
    assert bench.outputs() == before
    shutil.rmtree(bench.base / ".thaw")
    shutil.copytree(bench.data, bench.base / "copy")
    shutil.rmtree(bench.data)
    for file in sorted((bench.base / "copy").rglob("*.png"), reverse=True):
        save(bench.data / file.relative_to(bench.base / "copy"), file.read_bytes())
    bench.run()
    assert bench.outputs() == before
    assert sorted(before) == ["manifest.parquet", "quarantine.parquet", "record.json"]


def test_refusal_names_everything_at_once_and_touches_nothing(bench: Bench) -> None:
    (bench.data / "eel").mkdir()
    save(bench.data / "yak" / "few.png", seed=5)
    save(
        bench.data / "dog" / "same.png",
        (bench.data / "cat" / "cat0000.png").read_bytes(),
    )
    for number in range(3):
        save(bench.data / "cat" / f"broken{number}.png", b"")
    before = {file: file.read_bytes() for file in bench.data.rglob("*.png")}
    with pytest.raises(DataError) as refused:
        bench.run()
    told = "\n".join(refused.value.details)
    for item in (
        "eel",
        "yak: 1",
        "cat/cat0000.png is cat, dog/same.png is dog",
        "cat/broken0.png",
        "cat/broken1.png",
        "cat/broken2.png",
    ):
        assert item in told
    for code in ("empty-class", "small-class", "conflicting-labels", "too-many-bad"):
        assert code in refused.value.found
    assert {file: file.read_bytes() for file in bench.data.rglob("*.png")} == before
    assert list(bench.out.iterdir()) == []
    assert pq.read_table(bench.run_dir / "quarantine.parquet").num_rows == 3
    findings = json.loads((bench.run_dir / "findings.json").read_text())
    assert {"conflicting-labels", "empty-class"} <= {
        finding["code"] for finding in findings
    }


def test_nothing_usable_is_said_by_file(bench: Bench) -> None:
    for file in bench.data.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"nothing-usable[\s\S]*dog/dog0011\.png: empty"
    ):
        bench.run()


@pytest.mark.slow
def test_drift_is_told_and_stays_out_of_the_outputs(bench: Bench) -> None:
    bench.run()
    assert bench.drift() == []
    dataset(bench.data, classes=("owl",), each=40, first=500)
    record = bench.run()
    assert bench.drift() == ["drift-labels-added", "drift-label-shares"]
    assert record.findings == ()
    assert any(line.endswith("owl") for line in bench.lines)
    grown = bench.outputs()
    # The same data again: still judged against the version before them, and the same
    # bytes.
    bench.run()
    assert bench.drift() == ["drift-labels-added", "drift-label-shares"]
    assert bench.outputs() == grown


@pytest.mark.slow
def test_a_misspelt_class_is_told_by_name(bench: Bench) -> None:
    bench.run()
    dataset(bench.data, classes=("dogs", "Cat"), each=6, first=500)
    record = bench.run()
    (similar,) = record.findings
    assert similar.items == ("'Cat' (6) and 'cat' (12)",)
    assert "Cat: did you mean cat?" in "\n".join(bench.lines)
    assert "dogs: did you mean dog?" in "\n".join(bench.lines)
    assert "'Cat' (6) and 'cat' (12)" in "\n".join(bench.lines)
    with pytest.raises(DataError, match=r"unknown-label[\s\S]*Cat: did you mean cat\?"):
        bench.run(labels=["cat", "dog"])


@pytest.mark.slow
def test_more_items_than_a_reader_reads_are_counted(bench: Bench) -> None:
    bench.run()
    dataset(
        bench.data,
        classes=tuple(f"class{number}" for number in range(8)),
        each=5,
        first=500,
    )
    bench.run()
    (rest,) = (line for line in bench.lines if line.startswith("… and 3 more"))
    assert rest.endswith("validate/drift.json")


def test_refused_data_are_no_reference_for_drift(bench: Bench) -> None:
    dataset(bench.data, classes=("owl",), each=2)
    with pytest.raises(DataError, match="small-class"):
        bench.run()
    assert not (bench.base / ".thaw" / "accepted").exists()


@pytest.mark.slow
def test_few_placeholders_are_left_out_and_many_are_what_the_data_look_like(
    bench: Bench,
) -> None:
    save(bench.data / "cat" / "placeholder.gif", encoded(placeholder(), "GIF"))
    record = bench.run()
    (left_out,) = pq.read_table(record.quarantine).to_pylist()
    assert (left_out["path"], left_out["code"]) == ("cat/placeholder.gif", "no-detail")
    for number in range(5):
        save(
            bench.data / "dog" / f"card{number}.png",
            encoded(placeholder(100 + number), "PNG"),
        )
    record = bench.run()
    assert record.quarantined == 0
    (warning,) = record.findings
    assert (warning.code, warning.severity, len(warning.items)) == (
        "no-detail",
        "warning",
        6,
    )


def test_copies_across_given_splits_belong_to_the_test_set(tmp_path: Path) -> None:
    dataset(tmp_path / "data" / "train")
    dataset(tmp_path / "data" / "test", each=6, first=100)
    copied = tmp_path / "data" / "test" / "cat" / "cat0100.png"
    save(tmp_path / "data" / "train" / "cat" / "again.png", copied.read_bytes())
    record = Bench(tmp_path).run()
    warning = next(
        finding for finding in record.findings if finding.code == "copies-across-splits"
    )
    assert warning.items == (
        "test/cat/cat0100.png = train/cat/again.png (test, train)",
    )
    rows = {row["path"]: row for row in manifest.read(record.manifest).to_pylist()}
    assert rows["test/cat/cat0100.png"]["given_split"] == "test"


def test_table_with_metadata_reaches_the_manifest(bench: Bench) -> None:
    files = sorted(
        str(file.relative_to(bench.data)) for file in bench.data.rglob("*.png")
    )
    lines = [
        f"{file},{file[:3]},part{at % 7},{at},line{at % 2}"
        for at, file in enumerate(files)
    ]
    save(
        bench.data / "list.csv",
        "\n".join(
            ["path,label,group,number,line", *lines, "absent.png,cat,x,0,x"]
        ).encode(),
    )
    record = bench.run(table="list.csv")
    row = next(
        row
        for row in manifest.read(record.manifest).to_pylist()
        if row["path"] == files[3]
    )
    assert (row["group"], row["meta.number"], row["meta.line"]) == (
        "part3",
        "3",
        "line1",
    )
    assert pq.read_table(record.quarantine)["code"].to_pylist() == ["missing"]


def test_odd_metadata_reach_the_manifest_and_can_be_sliced(bench: Bench) -> None:
    files = sorted(
        str(file.relative_to(bench.data)) for file in bench.data.rglob("*.png")
    )
    count = len(files)
    odd = {
        "serial": [2**60 + at for at in range(count)],
        "unsigned": pa.array([2**64 - 1 - at for at in range(count)], pa.uint64()),
        "checked": [None if at % 3 else at % 2 == 0 for at in range(count)],
        "day": [datetime.date(2024, 1, 1 + at % 5) for at in range(count)],
        "moment": [
            datetime.datetime(2024, 1, 1, at % 24, tzinfo=datetime.UTC)
            for at in range(count)
        ],
        "size": [(-1) ** at * 1.7e308 / (at + 1) for at in range(count)],
        "gap": [float("inf") if at % 2 else float("nan") for at in range(count)],
        "nested": [{"a": [at % 3]} for at in range(count)],
        "text": ["x" * 200_000 for at in range(count)],
        "price": [decimal.Decimal(at) / 100 for at in range(count)],
        "nothing": pa.nulls(count),
    }
    table = {"path": files, "label": [file[:3] for file in files], **odd}
    pq.write_table(pa.table(table), bench.data / "list.parquet")
    rows = manifest.read(bench.run(table="list.parquet").manifest)
    assert set(odd) == {
        name.removeprefix("meta.")
        for name in rows.column_names
        if name.startswith("meta.")
    }
    for name in odd:
        correct, units = np.ones(count, dtype=bool), np.arange(count)
        columns = slice_columns(rows, (name,))
        found = score_slices(
            rows,
            correct,
            units,
            columns,
            smallest=1,
            settings=BootstrapSettings(10, 0.9, 0),
        )
        assert sum(one.examples for one in found) == count


def test_odd_names_reach_the_manifest_and_never_the_terminal(bench: Bench) -> None:
    save(bench.data / "cat" / "new\nline \x1b[31m.png", b"")
    save(bench.data / "cat" / "-rf \udce9.png", seed=12345)
    record = bench.run()
    paths = manifest.read(record.manifest)["path"].to_pylist()
    assert all(manifest.real_path(bench.data, path).is_file() for path in paths)
    assert "cat/-rf \\xe9.png" in paths
    assert all(line.isprintable() for line in bench.lines)


@pytest.mark.real
@pytest.mark.slow
def test_real_photos_lose_just_their_placeholder(real: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.data = real / "data" / "hymenoptera"
    record = bench.run()
    assert pq.read_table(record.quarantine)["path"].to_pylist() == [
        "train/ants/imageNotFound.gif"
    ]
    assert (record.examples, record.per_class) == (397, {"ants": 193, "bees": 204})
    assert record.findings == ()
