"""Boxes as COCO writes them, in the layouts of cocodataset.org and of Roboflow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotated_images import SIZE, save_picture, save_text, take_in
from pipeline.config import DataConfig
from pipeline.errors import DataError
from pipeline.examples import CheckedTargets, ExampleListing
from pipeline.tasks.object_detection.reader import DetectionReader
from pipeline.tasks.object_detection.settings import ObjectDetectionConfig

CATEGORIES = [{"id": 3, "name": "nut"}, {"id": 90, "name": "screw"}]


def detect(root: Path, **annotations: object) -> tuple[ExampleListing, CheckedTargets]:
    task = ObjectDetectionConfig.model_validate(
        {"annotations": {"format": "coco", **annotations}}
    )
    return take_in(DetectionReader("object-detection"), root, task)


def image(
    identity: object, name: str, size: tuple[int, int] = SIZE
) -> dict[str, object]:
    return {"id": identity, "file_name": name, "width": size[0], "height": size[1]}


def box(
    identity: int,
    image_id: object,
    given: object = (1, 2, 8, 6),
    category: object = 3,
    **more: object,
) -> dict:
    values = list(given) if isinstance(given, tuple) else given
    return {
        "id": identity,
        "image_id": image_id,
        "category_id": category,
        "bbox": values,
        **more,
    }


def coco(
    images: Sequence[Any],
    annotations: Sequence[Any],
    categories: Sequence[Any] = CATEGORIES,
) -> str:
    return json.dumps(
        {"images": images, "annotations": annotations, "categories": categories}
    )


def folder(
    root: Path, annotations: Sequence[Any], names: Sequence[str] = ("a.png", "b.png")
) -> Path:
    """Two pictures below images/, with these annotations in one file."""
    for seed, name in enumerate(names):
        save_picture(root / "images" / name, seed)
    entries = [image(number, name) for number, name in enumerate(names, 1)]
    save_text(root / "annotations" / "boxes.json", coco(entries, annotations))
    return root


def targets(checked: CheckedTargets) -> dict[str, str]:
    return {example.path: example.target for example, _ in checked.usable}


def test_boxes_are_left_top_width_height(tmp_path: Path) -> None:
    listing, checked = detect(
        folder(tmp_path / "data", [box(1, 1), box(2, 1, (20.5, 0, 3, 3), 90)])
    )
    assert not listing.faults
    assert targets(checked) == {
        "images/a.png": '{"boxes":[{"box":[1,2,9,8],"label":"nut"},{"box":[20.5,0,23.5,3],"label":"screw"}]}',
        "images/b.png": '{"boxes":[]}',
    }


@pytest.mark.parametrize(
    ("places", "split"),
    [
        ({"annotations/instances_train2017.json": "train2017/a.png"}, "train"),
        ({"valid/_annotations.coco.json": "valid/a.png"}, "val"),
        ({"annotations/test.json": "images/test/a.png"}, "test"),
        ({"train/annotations.json": "train/images/a.png"}, "train"),
    ],
)
def test_splits_by_file_or_folder(
    tmp_path: Path, places: dict[str, str], split: str
) -> None:
    root = tmp_path / "data"
    for source, path in places.items():
        save_picture(root / path)
        save_text(root / source, coco([image(1, "a.png")], [box(1, 1)]))
    listing, _ = detect(root)
    assert not listing.faults
    assert [(example.path, example.given_split) for example in listing.examples] == [
        (path, split)
    ]


def test_equal_names_in_the_folders_of_splits_are_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for seed, split in enumerate(("train", "test")):
        save_picture(root / split / "a.png", seed)
        save_text(
            root / split / "_annotations.coco.json",
            coco([image(0, "a.png")], [box(0, 0, category=3 + 87 * seed)]),
        )
    listing, checked = detect(root)
    assert not listing.faults
    assert [(example.path, example.classes) for example, _ in checked.usable] == [
        ("test/a.png", ("screw",)),
        ("train/a.png", ("nut",)),
    ]


def test_other_files_of_coco_are_passed_over(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", [box(1, 1)])
    notes = root / "annotations"
    (notes / "boxes.json").rename(notes / "instances_val.json")
    save_text(
        notes / "person_keypoints_val.json", coco([image(1, "a.png")], [box(1, 1)])
    )
    save_text(
        notes / "captions_val.json", json.dumps({"images": [], "annotations": []})
    )
    save_text(root / "package.json", "{")
    listing, _ = detect(root)
    assert not listing.faults


@pytest.mark.parametrize(
    ("size", "counts", "expected"),
    [
        ([40, 60], [2 + 3 * 40, 5, 35, 5, 2400 - 167], [3, 2, 5, 7]),
        ([40, 60], "j36R1f0l10000000000O100", None),
        ([40, 60], [100, 50, 2250], [2, 0, 4, 40]),
        ([40, 60], [2400], "empty"),
        ([40, 60], [2399], None),
        ([40, 60], [-1, 2401], None),
        ([40, 60], ["a"], None),
        ([0, 0], [], None),
        ([40], [40], None),
        ([40, 60], "~", None),
        ([40, 60], "oooooooooooo", None),
    ],
)
def test_masks_by_run_lengths_are_boxed(
    tmp_path: Path, size: object, counts: object, expected: object
) -> None:
    mask = box(1, 1, None, segmentation={"size": size, "counts": counts})
    listing, checked = detect(folder(tmp_path / "data", [mask, box(2, 2)]))
    if expected is None:
        assert [fault.code for fault in listing.faults] == ["bad-box"]
    elif expected == "empty":
        assert [fault.code for fault in checked.object_faults] == ["zero-area"]
    else:
        boxes = json.loads(targets(checked)["images/a.png"])["boxes"]
        assert boxes == [{"box": expected, "label": "nut"}]


def test_run_lengths_are_read_as_pycocotools_writes_them(tmp_path: Path) -> None:
    codec = pytest.importorskip("pycocotools.mask")
    pixels = np.zeros((40, 60), np.uint8, order="F")
    pixels[3:30, 7:20] = pixels[35, 50] = 1
    encoded = codec.encode(pixels)
    mask = {"size": [40, 60], "counts": encoded["counts"].decode()}
    root = folder(tmp_path / "data", [box(1, 1, None, segmentation=mask), box(2, 2)])
    boxes = json.loads(targets(detect(root)[1])["images/a.png"])["boxes"]
    assert boxes == [{"box": [7, 3, 51, 36], "label": "nut"}]


def test_crowds_are_ignored_and_polygons_are_boxed(tmp_path: Path) -> None:
    crowd = box(1, 1, iscrowd=1, segmentation={"counts": [1], "size": [40, 60]})
    polygon = box(2, 1, None, segmentation=[[1, 1, 9, 2, 5, 8], [10, 1, 12, 1, 12, 3]])
    _, checked = detect(folder(tmp_path / "data", [crowd, polygon]))
    assert json.loads(targets(checked)["images/a.png"])["boxes"] == [
        {"box": [1, 1, 12, 8], "label": "nut"},
        {"box": [1, 2, 9, 8], "ignored": True, "label": "nut"},
    ]


@pytest.mark.parametrize(
    ("annotation", "code"),
    [
        (box(7, 1, (1, 1, 0, 5)), "zero-area"),
        (box(7, 1, (9, 1, -5, 5)), "inverted"),
        (box(7, 1, (100, 1, 5, 5)), "outside"),
        (box(7, 1), "duplicate-object"),
        (box(7, 99), "dangling-image-id"),
        ("nothing", "dangling-image-id"),
    ],
)
def test_an_object_left_out_alone(
    tmp_path: Path, annotation: object, code: str
) -> None:
    listing, checked = detect(folder(tmp_path / "data", [box(1, 1), annotation]))
    assert not (*listing.faults, *checked.faults)
    (fault,) = (*listing.object_faults, *checked.object_faults)
    assert fault.code == code
    assert fault.path in (
        "annotations/boxes.json#id=7",
        "annotations/boxes.json#annotations[1]",
    )
    assert (
        targets(checked)["images/a.png"]
        == '{"boxes":[{"box":[1,2,9,8],"label":"nut"}]}'
    )


@pytest.mark.parametrize(
    ("annotation", "code"),
    [
        (box(7, 1, category=4), "unknown-category"),
        (box(7, 1, category=None), "unknown-category"),
        (box(7, 1, category=[3]), "unknown-category"),
        (box(7, 1, (1, 2, 3)), "bad-box"),
        (box(7, 1, (1, 2, "x", 3)), "bad-box"),
        (box(7, 1, (1, 2, float("nan"), 3)), "bad-box"),
        (box(7, 1, (1, 2, 10**400, 3)), "bad-box"),
        (box(7, 1, None, segmentation="?"), "bad-box"),
    ],
)
def test_an_object_of_unknown_place_or_class_costs_the_image(
    tmp_path: Path, annotation: object, code: str
) -> None:
    listing, checked = detect(folder(tmp_path / "data", [box(1, 1), annotation]))
    (fault,) = (*listing.faults, *checked.faults)
    assert (fault.path, fault.code) == ("images/a.png", code)
    assert "annotations/boxes.json#id=7" in fault.found
    assert list(targets(checked)) == ["images/b.png"]


def test_entries_that_contradict_each_other(tmp_path: Path) -> None:
    root = folder(
        tmp_path / "data",
        [],
        ("a.png", "b.png", "c.png", "d.png", "x/e.png", "y/e.png", "f.png"),
    )
    entries = [
        image(1, "a.png"),
        image(1, "b.png"),
        image(2, "c.png"),
        image(3, "c.png"),
        image(4, "d.png", (9, 9)),
        image(5, "e.png"),
        image(6, "ghost.png"),
        {"id": 7},
        image(8, "f.png"),
    ]
    save_text(root / "annotations" / "boxes.json", coco(entries, [box(1, 1)]))
    listing, checked = detect(root)
    faults = {fault.path: fault.code for fault in (*listing.faults, *checked.faults)}
    assert faults == {
        "images/a.png": "duplicate-image-id",
        "images/b.png": "duplicate-image-id",
        "images/c.png": "listed-twice",
        "images/d.png": "annotation-size",
        "annotations/boxes.json#image_id=5": "ambiguous-annotation",
        "annotations/boxes.json#image_id=6": "no-image",
        "annotations/boxes.json#images[7]": "bad-image-entry",
    }
    assert list(targets(checked)) == ["images/f.png"]


def test_an_image_that_no_file_lists_is_not_annotated(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", [box(1, 1)])
    save_picture(root / "images" / "more.png", 9)
    listing, _ = detect(root)
    assert [(fault.path, fault.code) for fault in listing.faults] == [
        ("images/more.png", "no-annotation")
    ]
    assert not detect(root, unannotated="empty")[0].faults


@pytest.mark.parametrize(
    "text", ['{"images": [', '["images", "annotations", "categories"', "[" * 100_000]
)
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    root = folder(tmp_path / "data", [box(1, 1)])
    save_text(
        root / "annotations" / "boxes.json",
        text + '"images" "annotations" "categories"',
    )
    with pytest.raises(DataError, match=r"annotations/boxes\.json"):
        detect(root)


def test_categories_must_be_told_apart(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", [])
    wrong = [{"id": 1, "name": "nut"}, {"id": 1, "name": "screw"}, {"name": "x"}, 5]
    save_text(root / "annotations" / "boxes.json", coco([], [], wrong))
    with pytest.raises(DataError, match="3 categories"):
        detect(root)


def test_the_files_can_be_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", [box(1, 1)])
    save_text(root / "annotations" / "other.json", coco([image(1, "a.png")], []))
    assert [fault.code for fault in detect(root)[0].faults] == ["listed-twice"]
    assert not detect(root, files=["annotations/boxes.json"])[0].faults
    with pytest.raises(DataError, match=r"gone\.json"):
        detect(root, files=["gone.json"])


def test_unused_categories_are_no_classes(tmp_path: Path) -> None:
    _, checked = detect(folder(tmp_path / "data", [box(1, 1)]))
    assert checked.labels == ("nut",)
    assert DataConfig().labels is None


def test_halves_of_characters_go_into_no_table(tmp_path: Path) -> None:
    half = "\ud800"
    root = folder(
        tmp_path / "data",
        [box(1, 1), {"id": half, "image_id": half, "category_id": half}],
    )
    entries = [image(1, "a.png"), image(2, half), image(half, "b.png")]
    annotations = [box(1, 1), {"id": half, "image_id": half}]
    save_text(root / "annotations" / "boxes.json", coco(entries, annotations))
    listing, _ = detect(root, unannotated="empty")
    assert [fault.code for fault in listing.faults] == [
        "bad-image-entry",
        "bad-image-entry",
    ]
    assert [fault.code for fault in listing.object_faults] == ["dangling-image-id"]
    save_text(
        root / "annotations" / "boxes.json",
        coco(entries, annotations, [{"id": 1, "name": half}]),
    )
    with pytest.raises(DataError, match="1 categories"):
        detect(root)
