"""The samples of detection and segmentation are the same everywhere, and pass their own
intake without a fault.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotated_images import take_in
from pipeline.config_section import TaskConfig
from pipeline.data.sample_trays import (
    LABELS,
    PALETTE,
    SIDE,
    generate_boxes,
    generate_masks,
)
from pipeline.examples import CheckedTargets
from pipeline.tasks.base import Reader
from pipeline.tasks.object_detection.reader import DetectionReader
from pipeline.tasks.object_detection.sample import DetectionSample
from pipeline.tasks.object_detection.settings import ObjectDetectionConfig
from pipeline.tasks.semantic_segmentation.reader import SegmentationReader
from pipeline.tasks.semantic_segmentation.sample import SegmentationSample
from pipeline.tasks.semantic_segmentation.settings import SemanticSegmentationConfig

BOXES_MD5 = "9d1272c4bb895525779153fc5e3a494c"
MASKS_MD5 = "c92b89b77a43d93dd19d5532695fcaff"


@pytest.mark.slow
def test_every_byte_is_as_it_always_was(tmp_path: Path) -> None:
    assert generate_boxes(tmp_path / "boxes").md5 == BOXES_MD5
    assert generate_masks(tmp_path / "masks").md5 == MASKS_MD5
    assert not generate_boxes(tmp_path / "boxes").written


def test_boxes_pass_their_intake(tmp_path: Path) -> None:
    DetectionSample().generate(tmp_path / "data")
    checked = taken(
        DetectionReader("object-detection"), tmp_path / "data", ObjectDetectionConfig()
    )
    assert len(checked.usable) == 118
    assert checked.labels == LABELS
    assert any(not example.classes for example, _ in checked.usable)


def test_masks_pass_their_intake(tmp_path: Path) -> None:
    sample = SegmentationSample()
    sample.generate(tmp_path / "data")
    task = SemanticSegmentationConfig.model_validate(sample.settings["task"])
    checked = taken(
        SegmentationReader("semantic-segmentation"), tmp_path / "data", task
    )
    assert checked.labels == ("background", *LABELS)
    with Image.open(tmp_path / "data" / "masks" / "tray-000-0.png") as mask:
        assert mask.mode == "P"
        palette = mask.getpalette() or []
    assert palette[: 3 * len(PALETTE)] == list(np.ravel(PALETTE))


def taken(reader: Reader, root: Path, task: TaskConfig) -> CheckedTargets:
    """What the intake leaves of a sample, which is all of it."""
    listing, checked = take_in(reader, root, task)
    assert not (*listing.faults, *listing.findings, *listing.object_faults)
    assert not (*checked.faults, *checked.findings, *checked.object_faults)
    return checked


def test_a_tray_is_a_group_of_several_pictures(tmp_path: Path) -> None:
    generate_boxes(tmp_path / "data", trays=3)
    rows = list(
        csv.DictReader((tmp_path / "data" / "metadata.csv").read_text().splitlines())
    )
    assert {row["group"] for row in rows} == {"tray-000", "tray-001", "tray-002"}
    with Image.open(tmp_path / "data" / rows[0]["path"]) as photograph:
        assert photograph.size == (SIDE, SIDE)
