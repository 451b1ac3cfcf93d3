"""Annotations that were cut, edited or forged: each is a fault or an error by name, and
none ends Thaw.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from annotated_images import (
    half_mask,
    save_mask,
    save_picture,
    save_text,
    take_in,
    voc_folder,
)
from pipeline.config_section import TaskConfig
from pipeline.errors import ThawError
from pipeline.tasks.base import Reader
from pipeline.tasks.object_detection.reader import DetectionReader
from pipeline.tasks.object_detection.settings import ObjectDetectionConfig
from pipeline.tasks.semantic_segmentation.reader import SegmentationReader
from pipeline.tasks.semantic_segmentation.settings import SemanticSegmentationConfig

MUTATIONS = 60
INSERTED = (
    b"1e999",
    b"nan",
    b"-",
    b"null",
    b"{}",
    b"[]",
    b'"',
    b"<a>",
    b"9" * 30,
    b"\n",
    b"#",
    b"\0",
    b"\r",
    b"\\ud800",
    b"\xff",
)


def voc(root: Path) -> tuple[TaskConfig, list[str]]:
    voc_folder(root, {"a": [("nut", (1, 1, 9, 9)), ("screw", (5, 5, 20, 20))], "b": []})
    save_text(root / "ImageSets" / "Main" / "train.txt", "a\nb\n")
    return ObjectDetectionConfig(), ["Annotations/a.xml", "ImageSets/Main/train.txt"]


def coco(root: Path) -> tuple[TaskConfig, list[str]]:
    save_picture(root / "images" / "a.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 8, 8], "iscrowd": 0}
    polygon = {
        "id": 2,
        "image_id": 1,
        "category_id": 1,
        "segmentation": [[1, 2, 3, 4, 5, 6]],
    }
    values = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "annotations": [box, polygon],
        "categories": [{"id": 1, "name": "nut"}],
    }
    save_text(root / "instances.json", json.dumps(values))
    return ObjectDetectionConfig.model_validate({"annotations": {"format": "coco"}}), [
        "instances.json"
    ]


def yolo(root: Path) -> tuple[TaskConfig, list[str]]:
    save_picture(root / "images" / "a.png")
    save_text(
        root / "labels" / "a.txt", "0 0.5 0.5 0.1 0.1\n1 0.1 0.1 0.2 0.1 0.2 0.4\n"
    )
    save_text(
        root / "data.yaml", "path: x\ntrain: images\nnames: [nut, screw]\nnc: 2\n"
    )
    return ObjectDetectionConfig.model_validate({"annotations": {"format": "yolo"}}), [
        "labels/a.txt",
        "data.yaml",
    ]


def masks(root: Path) -> tuple[TaskConfig, list[str]]:
    save_picture(root / "images" / "a.png")
    save_mask(root / "masks" / "a.png", half_mask(1), palette=(0, 0, 0, 9, 9, 9))
    save_text(root / "classes.txt", "background\nnut\n")
    save_text(root / "class_dict.csv", "name,r,g,b\nbackground,0,0,0\nnut,9,9,9\n")
    values = {"classes": {"background": 0, "nut": 1}}
    task = SemanticSegmentationConfig.model_validate({"masks": {"values": values}})
    return task, ["masks/a.png", "classes.txt", "class_dict.csv"]


def mutate(content: bytes, dice: random.Random) -> bytes:
    """A few bytes changed, removed, inserted or repeated."""
    mutated = bytearray(content)
    for _ in range(dice.randint(1, 5)):
        at = dice.randrange(len(mutated) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            mutated[at : at + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            del mutated[at : at + dice.randint(1, 20)]
        elif kind == 2:
            mutated[at:at] = dice.choice(INSERTED)
        else:
            mutated[at:at] = mutated[at // 2 : at // 2 + 40]
    return bytes(mutated)


@pytest.mark.parametrize("kind", [voc, coco, yolo, masks])
def test_no_file_ends_the_intake(
    tmp_path: Path, kind: Callable[[Path], tuple[TaskConfig, list[str]]]
) -> None:
    root = tmp_path / "data"
    task, files = kind(root)
    is_masks = isinstance(task, SemanticSegmentationConfig)
    reader: Reader = SegmentationReader("x") if is_masks else DetectionReader("x")
    dice = random.Random(0)
    for number in range(MUTATIONS):
        path = root / files[number % len(files)]
        before = path.read_bytes()
        path.write_bytes(mutate(before, dice))
        with suppress(ThawError):
            take_in(reader, root, task)
        with suppress(ThawError):
            reader.describe_source(root)
        path.write_bytes(before)
    listing, checked = take_in(reader, root, task)
    assert not (*listing.faults, *checked.faults)
