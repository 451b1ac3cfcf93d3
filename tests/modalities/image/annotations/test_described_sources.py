"""What `thaw init` finds out of a folder: the format, the classes, the splits; and what
it asks about.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotated_images import (
    half_mask,
    save_mask,
    save_picture,
    save_text,
    take_in,
    voc_folder,
    voc_xml,
)
from pipeline.errors import DataError
from pipeline.modalities.image.annotations import mask_source
from pipeline.tasks.base import SourceDescription
from pipeline.tasks.image_classification.reader import ImageReader
from pipeline.tasks.object_detection.reader import DetectionReader
from pipeline.tasks.object_detection.settings import ObjectDetectionConfig
from pipeline.tasks.semantic_segmentation.reader import SegmentationReader
from pipeline.tasks.semantic_segmentation.settings import SemanticSegmentationConfig
from pipeline.tasks.small_sets import find_epochs

NUT = ("nut", (1, 1, 9, 9))
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8]}],
    "categories": [{"id": 1, "name": "nut"}],
}


def boxes(root: Path) -> SourceDescription:
    described = DetectionReader("object-detection").describe_source(root)
    task = ObjectDetectionConfig.model_validate(described.settings["task"])
    # What was found out can be read.
    take_in(DetectionReader("object-detection"), root, task)
    return described


def masks(root: Path) -> dict[str, Any]:
    described = SegmentationReader("semantic-segmentation").describe_source(root)
    task = SemanticSegmentationConfig.model_validate(described.settings["task"])
    listing, checked = take_in(SegmentationReader("semantic-segmentation"), root, task)
    assert not (*listing.faults, *checked.faults)
    found: dict[str, Any] = described.settings["task"]["masks"]
    return found


def masked(
    root: Path,
    *values: np.ndarray,
    image: str = "images/{}.png",
    mask: str = "masks/{}.png",
) -> Path:
    for number, one in enumerate(values):
        save_picture(root / image.format(f"p{number:03d}"), number)
        save_mask(root / mask.format(f"p{number:03d}"), one)
    return root


def test_voc_with_image_sets(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data", {"a": [NUT], "b": []})
    save_text(root / "ImageSets" / "Main" / "train.txt", "a\n")
    described = boxes(root)
    assert described.settings["task"] == {"annotations": {"format": "voc"}}
    assert described.notes[:-1] == (
        "boxes: Pascal VOC, 2 images in JPEGImages, annotations in Annotations",
        "classes, with their objects: nut (1)",
        "images without an object: 1",
        "splits: train 1, from ImageSets/Main/train.txt; 1 image in none",
    )


def test_a_split_without_any_image_to_train_on_is_told(tmp_path: Path) -> None:
    save_picture(tmp_path / "val2017" / "a.png")
    save_text(tmp_path / "annotations" / "instances_val2017.json", json.dumps(COCO))
    assert any("none to train on" in note for note in boxes(tmp_path).notes)


def test_voc_counted_from_0(tmp_path: Path) -> None:
    described = boxes(voc_folder(tmp_path / "data", {"a": [("nut", (0, 0, 9, 9))]}))
    assert described.settings["task"]["annotations"] == {
        "format": "voc",
        "first_pixel": 0,
    }


def test_coco_beside_the_images(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, split in enumerate(("train", "valid")):
        save_picture(root / split / "a.png", number)
        save_text(root / split / "_annotations.coco.json", json.dumps(COCO))
    described = boxes(root)
    assert described.settings["task"]["annotations"] == {"format": "coco"}
    assert (
        "splits: train 1, val 1, from the names of folders and files" in described.notes
    )


def test_yolo(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save_picture(root / "train" / "images" / "a.png")
    save_text(root / "train" / "labels" / "a.txt", "0 0.5 0.5 0.1 0.1")
    save_text(root / "data.yaml", "train: ../train/images\nnames: [nut]\n")
    save_text(root / "notes.txt", "made by us")
    assert boxes(root).settings["task"]["annotations"] == {"format": "yolo"}


def test_annotated_images_are_not_taken_for_classes(tmp_path: Path) -> None:
    reader = ImageReader("image-classification")
    seen = masked(tmp_path / "masked", half_mask(1), half_mask(1))
    with pytest.raises(DataError, match="--task semantic-segmentation"):
        reader.describe_source(seen)
    boxed = voc_folder(tmp_path / "boxed", {"a": [NUT]})
    with pytest.raises(DataError, match="--task object-detection"):
        reader.describe_source(boxed)
    for name in ("with_mask/a.png", "without_mask/b.png", "mask/c.png"):
        save_picture(tmp_path / "faces" / name)
    assert not reader.describe_source(tmp_path / "faces").notes
    with pytest.raises(DataError, match="--task semantic-segmentation"):
        boxes(seen)
    with pytest.raises(DataError, match="--task object-detection"):
        masks(boxed)


def test_two_formats_are_asked_about(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data", {"a": [NUT]})
    save_text(root / "annotations.json", json.dumps(COCO))
    with pytest.raises(
        DataError,
        match=r"Pascal VOC \(Annotations/a\.xml\) and COCO \(annotations\.json\)",
    ):
        boxes(root)


def test_two_files_about_one_image_are_asked_about(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save_picture(root / "images" / "a.png")
    for name in ("all", "train"):
        save_text(root / "annotations" / f"{name}.json", json.dumps(COCO))
    with pytest.raises(
        DataError,
        match=r"annotations/all\.json#image_id=1 and annotations/train\.json#image_id=1",
    ):
        boxes(root)


def test_images_that_nobody_has_annotated_yet_are_left_out(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data", {"a": [NUT]})
    for seed in range(3):
        save_picture(root / "JPEGImages" / f"new{seed}.png", 10 + seed)
    described = boxes(root)
    config = described.settings["task"]["annotations"]
    assert config == {"format": "voc", "unannotated": "skip"}
    assert described.notes[2].startswith("not annotated: 3 images without")
    task = ObjectDetectionConfig.model_validate({"annotations": config})
    listing, _ = take_in(DetectionReader("object-detection"), root, task)
    assert not listing.faults
    assert [(one.code, len(one.items)) for one in listing.findings] == [
        ("not-annotated", 3)
    ]


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("annotations.xml", '<annotations><image id="0"/></annotations>', "CVAT"),
        ("a.json", '{"shapes": [], "imagePath": "a.png"}', "labelme"),
        ("tasks.json", '[{"rectanglelabels": ["nut"]}]', "Label Studio"),
        (
            "_annotations.csv",
            "filename,class,xmin,ymin,xmax,ymax\n",
            "a table of boxes",
        ),
    ],
)
def test_formats_that_are_not_read_are_named(
    tmp_path: Path, name: str, content: str, title: str
) -> None:
    save_picture(tmp_path / "data" / "a.png")
    save_text(tmp_path / "data" / name, content)
    with pytest.raises(DataError, match=f"looks like {title}") as caught:
        boxes(tmp_path / "data")
    assert "COCO" in caught.value.hint


def test_what_is_wrong_with_most_annotations_is_the_hint(tmp_path: Path) -> None:
    save_picture(tmp_path / "data" / "images" / "a.png")
    save_text(tmp_path / "data" / "labels" / "a.txt", "0 0.5 0.5 0.1 0.1 0.9")
    save_text(tmp_path / "data" / "data.yaml", "names: [nut]\n")
    with pytest.raises(DataError, match="confidence"):
        boxes(tmp_path / "data")


def test_a_folder_without_annotations_or_a_file_is_refused(tmp_path: Path) -> None:
    save_picture(tmp_path / "data" / "a.png")
    save_text(tmp_path / "data" / "a.csv", "x")
    for reader in (DetectionReader("x"), SegmentationReader("x")):
        with pytest.raises(DataError, match="1 images"):
            reader.describe_source(tmp_path / "data")
        with pytest.raises(DataError, match="a file"):
            reader.describe_source(tmp_path / "data" / "a.png")
        with pytest.raises(DataError, match="unpack it"):
            reader.describe_source(save_text(tmp_path / "set.zip", "PK"))


def test_a_broken_annotation_does_not_hide_the_format(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data", {"a": [NUT], "b": [NUT]})
    save_text(root / "Annotations" / "a.xml", "<annotation")
    assert any("cannot be used: 1" in note for note in boxes(root).notes)
    save_text(root / "Annotations" / "b.xml", voc_xml([NUT], extra="<x>"))
    with pytest.raises(DataError, match="no annotation of one"):
        boxes(root)


def test_masks_of_0_and_255(tmp_path: Path) -> None:
    root = masked(tmp_path / "data", half_mask(255))
    assert masks(root)["values"] == {"classes": {"background": 0, "foreground": 255}}
    save_text(root / "classes.txt", "sound\ncrack\n")
    assert masks(root)["values"] == {"classes": {"sound": 0, "crack": 255}}


def test_masks_with_a_list_of_names_and_a_border(tmp_path: Path) -> None:
    values = half_mask(2)
    values[0, 0] = 255
    root = masked(
        tmp_path / "data",
        values,
        half_mask(1),
        mask="SegmentationClass/{}.png",
        image="JPEGImages/{}.png",
    )
    save_text(root / "class_names.txt", "__ignore__\n_background_\nnut\nscrew\n")
    found = masks(root)
    assert found["values"] == {
        "classes": {"_background_": 0, "nut": 1, "screw": 2},
        "ignore": [255],
    }
    assert (found["images"], found["masks"]) == ("jpegimages", "segmentationclass")


def test_colours_with_a_table(tmp_path: Path) -> None:
    colours = np.zeros((40, 60, 3), dtype=np.uint8)
    colours[:, 30:] = (128, 64, 0)
    root = masked(tmp_path / "data", colours)
    assert masks(root)["values"] == {
        "classes": {"#000000": "#000000", "#804000": "#804000"}
    }
    save_text(
        root / "class_dict.csv",
        "name,r,g,b\nroad,128,64,0\nbackground,0,0,0\nvoid,1,1,1\n",
    )
    assert masks(root)["values"] == {
        "classes": {"background": "#000000", "road": "#804000"},
        "ignore": ["#010101"],
    }
    (root / "class_dict.csv").unlink()
    save_text(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,0::\n",
    )
    assert list(masks(root)["values"]["classes"]) == ["background", "road"]


def test_a_palette_with_a_table_of_its_colours(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save_picture(root / "JPEGImages" / "a.png")
    save_mask(
        root / "SegmentationClass" / "a.png",
        half_mask(1),
        palette=(0, 0, 0, 128, 64, 0),
    )
    save_text(root / "labelmap.txt", "background:0,0,0::\nroad:128,64,0::\n")
    assert masks(root)["values"] == {
        "classes": {"background": "#000000", "road": "#804000"}
    }
    save_text(root / "classes.txt", "background\nroad\n")
    assert masks(root)["values"] == {"classes": {"background": 0, "road": 1}}


def test_tables_of_something_else_are_passed_over(tmp_path: Path) -> None:
    root = masked(tmp_path / "data", half_mask(1))
    save_text(root / "labels_of_slides.csv", "slide\rno,label\n1,2")
    save_text(root / "class_counts.csv", "")
    assert masks(root)["values"]["classes"] == {"background": 0, "foreground": 1}


def test_values_of_roboflow(tmp_path: Path) -> None:
    root = masked(
        tmp_path / "data", half_mask(1), image="train/{}.png", mask="train/{}_mask.png"
    )
    save_text(
        root / "train" / "_classes.csv", "Pixel Value, Class\n0, background\n1, crack\n"
    )
    found = masks(root)
    assert found == {
        "suffix": "_mask",
        "values": {"classes": {"background": 0, "crack": 1}},
    }


@pytest.mark.parametrize(
    ("image", "mask", "suffix"),
    [
        ("images/{}.png", "masks/{}.png", ""),
        ("images/{}.png", "labels/{}_L.png", "_L"),
        ("img/{}.png", "img/{}-gt.png", "-gt"),
        ("train/{}.png", "trainannot/{}.png", ""),
        ("PNGImages/{}.png", "PedMasks/{}_mask.png", "_mask"),
        ("x/{}.png", "x/{}_gtFine_labelIds.png", "_gtFine_labelIds"),
    ],
)
def test_suffixes_are_found_out(
    tmp_path: Path, image: str, mask: str, suffix: str
) -> None:
    root = masked(
        tmp_path / "data",
        half_mask(1),
        half_mask(1),
        half_mask(1),
        image=image,
        mask=mask,
    )
    assert masks(root).get("suffix", "") == suffix


@pytest.mark.parametrize(
    ("image", "masks_of_it", "suffixes"),
    [
        ("images/{}_img.png", ["masks/{}_mask.png"], ("_mask", "_img")),
        ("x/{}_rgb.png", ["x/{}_gt.png"], ("_gt", "_rgb")),
        (
            "leftImg8bit/train/aachen/{}_000019_leftImg8bit.png",
            [
                "gtFine/train/aachen/{}_000019_gtFine_color.png",
                "gtFine/train/aachen/{}_000019_gtFine_labelIds.png",
            ],
            ("_gtFine_labelIds", "_leftImg8bit"),
        ),
    ],
)
def test_images_may_have_a_suffix_too(
    tmp_path: Path, image: str, masks_of_it: list[str], suffixes: tuple[str, str]
) -> None:
    root = tmp_path / "data"
    for path in masks_of_it:
        masked(root, half_mask(1), half_mask(1), half_mask(1), image=image, mask=path)
    found = masks(root)
    assert (found["suffix"], found["image_suffix"]) == suffixes


def test_several_kinds_of_masks_are_asked_about(tmp_path: Path) -> None:
    for kind in ("edge", "mask"):
        name = f"x/{{}}_{kind}.png"
        masked(
            tmp_path / "data", half_mask(1), half_mask(1), image="x/{}.png", mask=name
        )
    with pytest.raises(DataError, match=r"several masks for an image.*_edge, _mask"):
        masks(tmp_path / "data")


def test_a_file_for_each_object_is_asked_about(tmp_path: Path) -> None:
    for number in range(3):
        home = tmp_path / "data" / f"{number}"
        save_picture(home / "images" / f"img{number}.png", number)
        for name in ("07c", "1ab"):
            save_mask(home / "masks" / f"{name}{number}.png", half_mask(255))
    with pytest.raises(DataError, match="several masks for one image") as caught:
        masks(tmp_path / "data")
    assert "unite" in caught.value.hint


def test_masks_that_nobody_has_drawn_yet_and_other_pictures_are_told(
    tmp_path: Path,
) -> None:
    root = masked(
        tmp_path / "data",
        half_mask(1),
        half_mask(1),
        image="JPEGImages/{}.png",
        mask="SegmentationClass/{}.png",
    )
    save_picture(root / "JPEGImages" / "new.png", 9)
    save_mask(root / "SegmentationObject" / "p000.png", half_mask(1))
    described = SegmentationReader("x").describe_source(root)
    assert described.settings["task"]["masks"]["unannotated"] == "skip"
    assert any("1 image without a mask, left out" in note for note in described.notes)
    unused = "not used: 1 further image file in SegmentationObject"
    assert unused in described.notes
    task = SemanticSegmentationConfig.model_validate(described.settings["task"])
    listing, _ = take_in(SegmentationReader("x"), root, task)
    assert not listing.faults
    assert [finding.items for finding in listing.findings] == [("JPEGImages/new.png",)]


def test_two_places_of_masks_are_asked_about(tmp_path: Path) -> None:
    root = masked(tmp_path / "data", half_mask(1))
    save_mask(root / "labels" / "p000.png", half_mask(1))
    with pytest.raises(DataError, match="masks in masks, and masks in labels"):
        masks(root)


def test_numbered_objects_are_asked_about(tmp_path: Path) -> None:
    counted = [half_mask(1), half_mask(1), half_mask(1)]
    counted[0][0, :3] = (2, 3, 4)
    counted[1][0, :2] = (2, 3)
    root = masked(tmp_path / "data", *counted)
    with pytest.raises(DataError, match="numbers of classes, or of the single objects"):
        masks(root)
    task = SemanticSegmentationConfig.model_validate(
        {"masks": {"values": {"classes": {"background": 0, "object": "1-65535"}}}}
    )
    _, checked = take_in(SegmentationReader("x"), root, task)
    assert [example.classes for example, _ in checked.usable] == [
        ("background", "object")
    ] * 3


def test_mixed_writings_are_asked_about(tmp_path: Path) -> None:
    root = masked(tmp_path / "data", half_mask(1), half_mask(255))
    save_text(root / "classes.txt", "sound\ncrack\n")
    with pytest.raises(DataError, match="either both are crack, or 255 is ignored"):
        masks(root)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"classes.txt": "a\nb\n"}, "values that classes.txt does not name: 7"),
        (
            {"classes.txt": "a\nb\n", "labels.txt": "a\nc\n"},
            "classes.txt and labels.txt",
        ),
        ({"classes.txt": b"\xff\xff"}, "names in UTF-8"),
    ],
)
def test_names_that_do_not_fit_are_asked_about(
    tmp_path: Path, files: dict[str, str | bytes], message: str
) -> None:
    root = masked(tmp_path / "data", half_mask(7))
    for name, text in files.items():
        save_text(root / name, text)
    with pytest.raises(DataError, match=message):
        masks(root)


def test_unreadable_masks_are_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save_picture(root / "images" / "a.png")
    save_mask(root / "masks" / "a.png", half_mask(1), kind="JPEG")
    with pytest.raises(DataError, match="no mask that can be read"):
        masks(root)


def test_jpeg_masks_of_two_levels_are_cut_at_half(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(3):
        save_picture(root / "images" / f"{number}.jpg", number, kind="JPEG")
        coloured = np.repeat(half_mask(255)[..., None], 3, axis=2)
        save_mask(root / "masks" / f"{number}.jpg", coloured, kind="JPEG")
    assert masks(root)["values"]["classes"] == {
        "background": "0-127",
        "foreground": "128-255",
    }


def test_a_few_jpeg_masks_among_others_do_not_decide_about_them(tmp_path: Path) -> None:
    several = half_mask(3)
    several[0, :3] = (1, 2, 255)
    root = masked(tmp_path / "several", several, several)
    save_picture(root / "images" / "jpeg.png", 7)
    save_mask(root / "masks" / "jpeg.jpg", several, kind="JPEG")
    described = SegmentationReader("semantic-segmentation").describe_source(root)
    values = described.settings["task"]["masks"]["values"]
    assert list(values["classes"].values()) == [0, 1, 2, 3]
    assert any("cannot be read: 1" in note for note in described.notes)

    root = masked(tmp_path / "two", half_mask(255))
    save_picture(root / "images" / "jpeg.png", 7)
    save_mask(root / "masks" / "jpeg.jpg", half_mask(255), kind="JPEG")
    assert list(masks(root)["values"]["classes"].values()) == ["0-127", "128-255"]
    described = SegmentationReader("semantic-segmentation").describe_source(root)
    assert not any("cannot be read" in note for note in described.notes)


def test_values_that_come_from_some_of_the_masks_alone_are_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_source, "PEEKED", 2)
    root = masked(tmp_path / "data", half_mask(1), half_mask(1), half_mask(1))
    described = SegmentationReader("semantic-segmentation").describe_source(root)
    assert "values: from 2 of 3 masks" in described.notes


def test_photographs_for_masks_are_known_from_the_first(tmp_path: Path) -> None:
    numbers = np.arange(3 * 40 * 60, dtype=np.uint32).reshape(3, 40, 60)
    channels = [numbers // 256, numbers % 256, np.full_like(numbers, 7)]
    photographs = np.stack(channels, axis=-1).astype(np.uint8)
    with pytest.raises(DataError, match="masks with 2,400 colours"):
        masks(masked(tmp_path / "data", *photographs))


def test_masks_that_were_resized_with_smoothing_are_cut_at_half(tmp_path: Path) -> None:
    ramp = np.zeros((40, 60), np.uint8)
    ramp[:, 40:] = 255
    ramp[0, :] = np.arange(60) * 4
    ramp[1, :] = np.arange(60) * 4 + 2
    root = masked(tmp_path / "data", ramp, ramp)
    save_text(root / "classes.txt", "skin\nmole\n")
    assert masks(root)["values"]["classes"] == {"skin": "0-127", "mole": "128-255"}


def test_masks_that_number_their_colours_differently_go_by_colours(
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    black_first, white_first = (0, 0, 0, 255, 255, 255), (255, 255, 255, 0, 0, 0)
    for number, palette in enumerate((black_first, white_first)):
        save_picture(root / "images" / f"{number}.png", number)
        save_mask(root / "masks" / f"{number}.gif", half_mask(1), palette, "GIF")
    assert masks(root)["values"]["classes"] == {
        "background": "#000000",
        "foreground": "#ffffff",
    }


def test_colours_of_camvid_and_a_background_that_is_none(tmp_path: Path) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, 10:] = (64, 128, 64)
    picture[:, 20:] = (192, 0, 128)
    root = masked(
        tmp_path / "data", picture, picture, image="a/{}.png", mask="b/{}_L.png"
    )
    save_text(
        root / "label_colors.txt", "0 0 0\t\tVoid\n64 128 64\tTree\n192 0 128\t\tRoad\n"
    )
    assert masks(root)["values"] == {
        "classes": {"Road": "#c00080", "Tree": "#408040"},
        "ignore": ["#000000"],
    }
    notes = SegmentationReader("x").describe_source(root).notes
    assert any(note.startswith("background: Road, which answers") for note in notes)


def test_a_class_of_few_pixels_is_told_before_and_at_validation(tmp_path: Path) -> None:
    rare = half_mask(1)
    rare[0, :5] = 2
    root = masked(tmp_path / "data", rare, rare)
    described = SegmentationReader("x").describe_source(root)
    assert any("few pixels: class-2 (0.21%)" in note for note in described.notes)
    task = SemanticSegmentationConfig.model_validate(described.settings["task"])
    (finding,) = take_in(SegmentationReader("x"), root, task)[1].findings
    assert (finding.code, finding.items) == ("rare-pixels", ("class-2 (0.21%)",))
    assert "class_weights: balanced" in finding.hint


def test_masks_of_one_value_are_asked_about(tmp_path: Path) -> None:
    field = np.full((40, 60), 255, np.uint8)
    with pytest.raises(DataError, match="the value 255 in every pixel"):
        masks(masked(tmp_path / "data", field, field))


@pytest.mark.real
def test_real_folders(real: Path) -> None:
    found = (
        SegmentationReader("x")
        .describe_source(real / "data" / "dsb2018")
        .settings["task"]["masks"]
    )
    assert found["values"] == {"classes": {"background": 0, "nucleus": 1}}
    assert DetectionReader("x").describe_source(real / "data" / "bccd").notes[1:] == (
        "classes, with their objects: Platelets (361), RBC (4,155), WBC (372)",
        "splits: train 205, val 87, test 72, from ImageSets/Main/test.txt, ImageSets/Main/train.txt, "
        "ImageSets/Main/val.txt",
    )


def test_images_without_an_annotation_are_told_apart_from_empty_ones(
    tmp_path: Path,
) -> None:
    root = voc_folder(tmp_path / "data", {"a": [NUT], "b": []})
    save_picture(root / "JPEGImages" / "bare.png", 9)
    notes = boxes(root).notes
    assert "images without an object: 1" in notes
    told = "not annotated: 1 image without an annotation, left out (unannotated: skip"
    assert any(note.startswith(told) for note in notes)


def test_few_images_are_trained_on_for_more_epochs_which_is_said(
    tmp_path: Path,
) -> None:
    voc_folder(tmp_path, {f"{number}": [NUT] for number in range(30)})
    described = boxes(tmp_path)
    assert described.settings["finetune"] == {"epochs": 100, "patience": 42}
    assert any("100 epochs instead of 12" in note for note in described.notes)


@pytest.mark.parametrize(
    ("steps", "epochs"), [(0, 12), (1, 100), (10, 30), (24, 13), (25, 12), (9000, 12)]
)
def test_epochs_come_to_three_hundred_steps(steps: int, epochs: int) -> None:
    assert find_epochs(steps, usual=12) == epochs
