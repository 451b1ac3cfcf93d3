"""Boxes and masks through validate and split: counted by class, assigned by the rarest
one, remembered for ever.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from annotated_images import (
    half_mask,
    save_mask,
    save_picture,
    save_text,
    voc_folder,
    voc_xml,
)
from consoles import RecordingConsole
from pipeline import manifest
from pipeline.config import DataConfig, SplitConfig
from pipeline.config_section import TaskConfig
from pipeline.context import Context
from pipeline.data import checks
from pipeline.data.ledger import load
from pipeline.errors import DataError, SplitError
from pipeline.records import SplitRecord, ValidateRecord
from pipeline.steps.split import split
from pipeline.steps.validate import validate
from pipeline.tasks.object_detection.settings import ObjectDetectionConfig
from pipeline.tasks.semantic_segmentation.settings import SemanticSegmentationConfig

RARE = ("rare", (5, 5, 20, 20))
COMMON = ("common", (1, 1, 9, 9))
NOTHING = ("common", (5, 5, 5, 9))  # a box without an area


pytestmark = pytest.mark.usefixtures("without_data_docs")


@pytest.fixture
def without_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what the split step does: the checks of this data find nothing, and take most
    of the time.
    """
    monkeypatch.setattr(checks, "judge", lambda suites, run_dir: [])


class Steps:
    """A workspace's folders around a data folder."""

    def __init__(self, base: Path, data: Path) -> None:
        self.base = base
        self.data = data
        self.runs = 0
        self.console = RecordingConsole()

    def context(self) -> Context:
        self.runs += 1
        run_dir = self.base / ".thaw" / "runs" / str(self.runs)
        self.console = RecordingConsole()
        return Context(self.base, self.data, self.base / ".thaw", run_dir, self.console)

    def validate(self, task: TaskConfig, **settings: object) -> ValidateRecord:
        data = DataConfig.model_validate({"min_per_class": 2, **settings})
        context = self.context()
        out = self.base / f"validated{self.runs}"
        out.mkdir()
        return validate(data, task, out, context)

    def split(self, validated: ValidateRecord) -> SplitRecord:
        context = self.context()
        out = self.base / f"split{self.runs}"
        out.mkdir()
        return split(SplitConfig(near_duplicates=-1), validated, out, context)


def boxes(tmp_path: Path) -> Steps:
    """36 images: a third with a rare class, the others with a common one; one with a
    box that marks nothing.
    """
    images = {
        f"{number:02d}": [COMMON, RARE] if number % 3 == 0 else [COMMON]
        for number in range(36)
    }
    images["01"] = [COMMON, NOTHING]
    return Steps(tmp_path, voc_folder(tmp_path / "data", images))


def test_boxes_are_counted_by_class_and_assigned_by_the_rarest(tmp_path: Path) -> None:
    steps = boxes(tmp_path)
    validated = steps.validate(ObjectDetectionConfig())
    assert validated.labels == ("common", "rare")
    assert validated.per_class == {"common": 36, "rare": 12}
    assert (validated.files, validated.quarantined) == (36, 0)
    assert [finding.code for finding in validated.findings] == ["objects-left-out"]
    record = steps.split(validated)
    table = manifest.read(record.manifest)
    strata = table["stratum"].to_pylist()
    rare = [
        place
        for place, stratum in zip(table["split"].to_pylist(), strata, strict=True)
        if stratum == "rare"
    ]
    assert sorted(rare).count("train") == 8
    assert record.counts["train"]["rare"] == 8
    assert record.counts["train"]["common"] == sum(
        place == "train" for place in table["split"].to_pylist()
    )
    assert {
        entry.target for entry in load(tmp_path / "ledger.parquet").entries.values()
    } == {"common", "rare"}


def test_an_object_left_out_alone_is_in_the_quarantine_and_no_bad_example(
    tmp_path: Path,
) -> None:
    steps = boxes(tmp_path)
    record = steps.validate(ObjectDetectionConfig(), max_bad_fraction=0)
    (row,) = pq.read_table(record.quarantine).to_pylist()
    assert (row["path"], row["code"]) == ("Annotations/01.xml#5", "zero-area")
    assert row["expected"]
    assert row["hint"]
    assert any(
        "left out of its image Annotations/01.xml#5" in line
        for line in steps.console.lines
    )


@pytest.mark.usefixtures("without_checks")
def test_a_relabelled_image_keeps_its_split(tmp_path: Path) -> None:
    steps = boxes(tmp_path)
    before = manifest.read(
        steps.split(steps.validate(ObjectDetectionConfig())).manifest
    )
    annotation = steps.data / "Annotations" / "02.xml"
    annotation.write_text(annotation.read_text().replace("common", "rare"))
    after = manifest.read(steps.split(steps.validate(ObjectDetectionConfig())).manifest)
    assert before["target"].to_pylist() != after["target"].to_pylist()
    assert before["split"].to_pylist() == after["split"].to_pylist()


def test_outputs_are_the_same_bytes_with_and_without_memory(tmp_path: Path) -> None:
    steps = boxes(tmp_path)
    first = steps.validate(ObjectDetectionConfig())
    assert steps.validate(ObjectDetectionConfig()) == first.model_copy(
        update={"folder": tmp_path / "validated2"}
    )


def test_one_class_of_objects_is_enough(tmp_path: Path) -> None:
    steps = Steps(
        tmp_path,
        voc_folder(tmp_path / "data", {f"{number}": [COMMON] for number in range(6)}),
    )
    assert steps.validate(ObjectDetectionConfig()).labels == ("common",)


def test_no_object_at_all_stops_the_run(tmp_path: Path) -> None:
    steps = Steps(
        tmp_path,
        voc_folder(tmp_path / "data", {f"{number}": [] for number in range(6)}),
    )
    with pytest.raises(DataError, match="no-objects"):
        steps.validate(ObjectDetectionConfig())


@pytest.mark.usefixtures("without_checks")
@pytest.mark.parametrize("given", ["train", "val", "test"])
def test_a_split_without_any_object_stops_before_a_training(
    tmp_path: Path, given: str
) -> None:
    splits = {"train": range(12), "val": range(12, 16), "test": range(16, 20)}
    data = voc_folder(
        tmp_path / "data",
        {
            f"{number:02d}": [] if number in splits[given] else [COMMON]
            for number in range(20)
        },
    )
    for name, numbers in splits.items():
        names = "".join(f"{number:02d}\n" for number in numbers)
        save_text(data / "ImageSets" / "Main" / f"{name}.txt", names)
    steps = Steps(tmp_path, data)
    validated = steps.validate(ObjectDetectionConfig())
    with pytest.raises(
        SplitError, match=rf"{given} split[\s\S]* examples, none with an object"
    ):
        steps.split(validated)


def test_one_picture_with_two_truths_stops_the_run_by_name(tmp_path: Path) -> None:
    steps = boxes(tmp_path)
    save_picture(steps.data / "JPEGImages" / "01.png", 0)
    with pytest.raises(
        DataError,
        match=r"JPEGImages/00\.png is common, rare, JPEGImages/01\.png is common",
    ):
        steps.validate(ObjectDetectionConfig())
    record = steps.validate(
        ObjectDetectionConfig(), conflicts="quarantine", max_bad_fraction=0.2
    )
    codes = [row["code"] for row in pq.read_table(record.quarantine).to_pylist()]
    assert codes == ["zero-area", "conflicting-labels", "conflicting-labels"]


def test_too_few_of_a_class_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="small-class"):
        boxes(tmp_path).validate(ObjectDetectionConfig(), min_per_class=13)


def test_masks_are_counted_by_class(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in range(24):
        save_picture(data / "images" / f"{number}.png", number)
        save_mask(data / "masks" / f"{number}.png", half_mask(255 if number % 2 else 0))
    values = {"values": {"classes": {"background": 0, "crack": 255}}}
    task = SemanticSegmentationConfig.model_validate({"masks": values})
    steps = Steps(tmp_path, data)
    validated = steps.validate(task)
    assert validated.labels == ("background", "crack")
    assert validated.per_class == {"background": 24, "crack": 12}
    record = steps.split(validated)
    assert record.counts["val"]["crack"] >= 1
    table = manifest.read(record.manifest)
    assert set(table["stratum"].to_pylist()) == {"background", "crack"}
    assert "scan.foreground" in table.column_names
    changed = save_mask(data / "masks" / "0.png", half_mask(7))
    with pytest.raises(DataError, match=r"masks/0\.png: 7 \(50\.00%\)"):
        steps.validate(task, max_bad_fraction=0)
    assert changed.is_file()


@pytest.mark.real
def test_bccd_loses_two_boxes_by_name_and_no_picture(
    real: Path, tmp_path: Path
) -> None:
    steps = Steps(tmp_path, real / "data" / "bccd")
    validated = steps.validate(ObjectDetectionConfig(), min_per_class=10)
    rows = pq.read_table(validated.quarantine).to_pylist()
    assert [(row["path"], row["code"]) for row in rows] == [
        ("Annotations/BloodImage_00338.xml#158", "zero-area"),
        ("Annotations/BloodImage_00343.xml#50", "zero-area"),
    ]
    assert (validated.examples, validated.quarantined) == (364, 0)
    table = manifest.read(steps.split(validated).manifest)
    assert table["given_split"].to_pylist() == table["split"].to_pylist()


def test_drift_is_of_classes_and_of_the_number_of_objects(tmp_path: Path) -> None:
    steps = boxes(tmp_path)
    steps.validate(ObjectDetectionConfig())
    for number in (3, 6, 9):
        annotation = steps.data / "Annotations" / f"{number:02d}.xml"
        annotation.write_text(annotation.read_text().replace("rare", "new"))
    crowded = [("common", (1 + at, 1, 9 + at, 9)) for at in range(9)]
    for number in range(1, 36, 3):
        (steps.data / "Annotations" / f"{number:02d}.xml").write_text(voc_xml(crowded))
    steps.validate(ObjectDetectionConfig())
    drift = json.loads((steps.base / ".thaw" / "runs" / "2" / "drift.json").read_text())
    assert {"drift-labels-added", "drift-objects"} <= {
        finding["code"] for finding in drift
    }
