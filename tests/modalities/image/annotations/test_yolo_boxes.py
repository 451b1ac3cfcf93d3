"""Boxes as YOLO writes them: shares of the sides, class numbers, a data.yaml."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from annotated_images import save_picture, save_text, take_in
from pipeline.errors import DataError
from pipeline.examples import CheckedTargets, ExampleListing
from pipeline.tasks.object_detection.reader import DetectionReader
from pipeline.tasks.object_detection.settings import ObjectDetectionConfig

NAMES = "names: [nut, screw]\n"


def detect(root: Path, **annotations: object) -> tuple[ExampleListing, CheckedTargets]:
    task = ObjectDetectionConfig.model_validate(
        {"annotations": {"format": "yolo", **annotations}}
    )
    return take_in(DetectionReader("object-detection"), root, task)


def folder(root: Path, text: str | bytes, yaml: str = NAMES) -> Path:
    save_picture(root / "images" / "a.png", 1)
    save_text(root / "labels" / "a.txt", text)
    save_picture(root / "images" / "good.png", 2)
    save_text(root / "labels" / "good.txt", "0 0.5 0.5 0.5 0.5")
    save_text(root / "data.yaml", yaml)
    return root


def boxes(checked: CheckedTargets, path: str = "images/a.png") -> list[object]:
    targets = {example.path: example.target for example, _ in checked.usable}
    found: list[object] = json.loads(targets[path])["boxes"]
    return found


def test_shares_become_pixels_and_polygons_boxes(tmp_path: Path) -> None:
    _, checked = detect(
        folder(tmp_path / "data", "1 0.5 0.5 0.5 0.25\r\n\n0 0 0 0.1 0 0.1 0.5\n")
    )
    assert boxes(checked) == [
        {"box": [0, 0, 6, 20], "label": "nut"},
        {"box": [15, 15, 45, 25], "label": "screw"},
    ]


def test_key_points_behind_a_box_are_no_polygon(tmp_path: Path) -> None:
    line = "0 0.5 0.5 0.5 0.5 0.1 0.9 0.2 0.8\n"
    root = folder(tmp_path / "data", line, f"kpt_shape: [2, 2]\n{NAMES}")
    assert boxes(detect(root)[1]) == [{"box": [15, 10, 45, 30], "label": "nut"}]
    save_text(root / "data.yaml", f"kpt_shape: two\n{NAMES}")
    with pytest.raises(DataError, match="kpt_shape"):
        detect(root)


def test_a_folder_called_test_is_not_trained_on(tmp_path: Path) -> None:
    """Even where data.yaml names train and val alone."""
    root = tmp_path / "data"
    for seed, split in enumerate(("train", "val", "test")):
        save_picture(root / "images" / split / f"{seed}.png", seed)
        save_text(root / "labels" / split / f"{seed}.txt", "0 0.5 0.5 0.5 0.5")
    save_text(root / "data.yaml", f"train: images/train\nval: images/val\n{NAMES}")
    splits = [one.given_split for one in detect(root)[0].examples]
    assert splits == ["test", "train", "val"]


def test_no_line_and_no_file_mean_no_object(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", "")
    save_picture(root / "images" / "bare.png", 3)
    listing, checked = detect(root)
    assert not listing.faults
    assert boxes(checked) == boxes(checked, "images/bare.png") == []
    assert [fault.code for fault in detect(root, unannotated="error")[0].faults] == [
        "no-annotation"
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("0 30 20 10 10", "pixel-coordinates"),
        ("2 0.5 0.5 0.1 0.1", "unknown-class"),
        ("-1 0.5 0.5 0.1 0.1", "unknown-class"),
        ("0.5 0.5 0.5 0.1 0.1", "unknown-class"),
        ("nut 0.5 0.5 0.1 0.1", "bad-line"),
        ("0 0.5 0.5 0.1", "bad-line"),
        ("0 0.5 0.5 0.1 0.1 0.9", "bad-line"),
        ("0 0.5 nan 0.1 0.1", "bad-line"),
        ("0 0.5 inf 0.1 0.1", "bad-line"),
        (b"\xff\xfe\x00\x81", "bad-line"),
        ("1e400 0.5 0.5 0.1 0.1", "bad-line"),
    ],
)
def test_a_line_that_cannot_be_trusted_costs_the_image(
    tmp_path: Path, text: str | bytes, code: str
) -> None:
    content = text if isinstance(text, bytes) else "0 0.5 0.5 0.2 0.2\n" + text
    listing, checked = detect(folder(tmp_path / "data", content))
    (fault,) = (*listing.faults, *checked.faults)
    assert (fault.path, fault.code) == ("images/a.png", code)
    assert "labels/a.txt#" in fault.found


@pytest.mark.parametrize(
    ("text", "code"),
    [("0 0.5 0.5 0 0.1", "zero-area"), ("0 0.5 0.5 -0.2 0.1", "inverted")],
)
def test_a_box_that_marks_nothing_is_left_out_alone(
    tmp_path: Path, text: str, code: str
) -> None:
    _, checked = detect(folder(tmp_path / "data", "0 0.5 0.5 0.2 0.2\n" + text))
    (fault,) = checked.object_faults
    assert (fault.path, fault.code) == ("labels/a.txt#2", code)


def test_rounding_over_the_edge_is_cut(tmp_path: Path) -> None:
    _, checked = detect(folder(tmp_path / "data", "0 0.95 0.5 0.11 1.01"))
    assert boxes(checked) == [{"box": [53.7, 0, 60, 40], "label": "nut"}]


@pytest.mark.parametrize(
    ("yaml", "image", "label"),
    [
        (
            "path: ../datasets/x\ntrain: images/train\nval: images/val\n",
            "images/train/a.JPG",
            "labels/train/a.txt",
        ),
        (
            "train: ../train/images\nval: ../valid/images\n",
            "train/images/a.jpg",
            "train/labels/a.txt",
        ),
        (
            "train: /home/me/x/train2017\nval: []\n",
            "images/train2017/a.jpg",
            "labels/train2017/a.txt",
        ),
        (
            "train: [images/one, images/two]\nval: images/three\n",
            "images/two/a.jpg",
            "labels/two/a.txt",
        ),
        ("train: lists/t.txt\n", "all/images/a.jpg", "all/labels/a.txt"),
        ("", "train/a.jpg", "train/a.txt"),
        (
            "train: images/train\nval: images/train\n",
            "images/train/a.jpg",
            "labels/train/a.txt",
        ),
    ],
)
def test_layouts_that_people_have(
    tmp_path: Path, yaml: str, image: str, label: str
) -> None:
    root = tmp_path / "data"
    save_picture(root / image, kind="JPEG")
    save_text(root / label, "0 0.5 0.5 0.5 0.5")
    save_text(root / "lists" / "t.txt", f"./{image}\n")
    save_text(root / "data.yaml", yaml + NAMES + "nc: 2\n")
    save_text(root / "README.dataset.txt", "made by")
    listing, checked = detect(root)
    assert not listing.faults
    assert [
        (example.path, example.given_split, example.classes)
        for example, _ in checked.usable
    ] == [(image, "train", ("nut",))]


def test_names_from_a_mapping_or_a_list_of_names(tmp_path: Path) -> None:
    root = folder(
        tmp_path / "data", "4 0.5 0.5 0.2 0.2", "names:\n  0: nut\n  4: bolt\n"
    )
    assert boxes(detect(root)[1]) == [{"box": [24, 16, 36, 24], "label": "bolt"}]
    (root / "data.yaml").unlink()
    save_text(root / "classes.txt", "nut\na\nb\nc\nlast one\n")
    assert detect(root)[1].labels == ("last one", "nut")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("path: x\n", "no file that names the classes"),
        ("names: 5\n", "names"),
        ("names: [\n", "YAML"),
        ("names: {a: nut}\n", "names"),
        ("nc: 3\nnames: [nut, screw]\n", "nc: 3, and 2 names"),
        ("x: &x [a, a]\ny: &y [*x, *x]\nnames: [*y, *y]\n", "names"),
    ],
)
def test_names_that_cannot_be_had_are_asked_for(
    tmp_path: Path, yaml: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        detect(folder(tmp_path / "data", "", yaml))


def test_two_lists_of_names_are_asked_about(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", "0 0.5 0.5 0.2 0.2")
    save_text(root / "other.yaml", "names: [screw, nut]")
    with pytest.raises(DataError, match=r"data\.yaml and other\.yaml"):
        detect(root)
    assert detect(root, files=["other.yaml"])[1].labels == ("screw",)
