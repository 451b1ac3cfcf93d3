"""Boxes as Pascal VOC writes them: what is read, what is left out alone, and what costs
the image.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from annotated_images import SIZE, save_picture, save_text, take_in, voc_folder, voc_xml
from image_builders import encoded, picture, save
from pipeline.config import DataConfig
from pipeline.errors import DataError
from pipeline.examples import CheckedTargets, ExampleListing
from pipeline.modalities.image.decoding import open_rgb
from pipeline.tasks.object_detection.reader import DetectionReader
from pipeline.tasks.object_detection.settings import ObjectDetectionConfig


def detect(
    root: Path, data: DataConfig | None = None, **annotations: object
) -> tuple[ExampleListing, CheckedTargets]:
    task = ObjectDetectionConfig.model_validate({"annotations": annotations})
    return take_in(DetectionReader("object-detection"), root, task, data)


def codes(checked: CheckedTargets) -> list[str]:
    return [fault.code for fault in checked.object_faults]


def only_fault(listing: ExampleListing, checked: CheckedTargets) -> tuple[str, str]:
    (fault,) = (*listing.faults, *checked.faults)
    return fault.path, fault.code


def test_a_target_is_canonical_json_in_pixels_from_0(tmp_path: Path) -> None:
    root = voc_folder(
        tmp_path / "data",
        {"a": [("screw", (11, 6, 20, 15.125)), ("nut", (1, 1, 60, 40))]},
    )
    _, checked = detect(root)
    ((example, measured),) = checked.usable
    assert example.path == "JPEGImages/a.png"
    assert (
        example.target
        == '{"boxes":[{"box":[0,0,60,40],"label":"nut"},{"box":[10,5,20,15.12],"label":"screw"}]}'
    )
    assert example.classes == ("screw", "nut")
    assert measured.values["objects"] == 2
    assert checked.labels == ("nut", "screw")


def test_the_rarest_class_is_the_stratum(tmp_path: Path) -> None:
    objects = {
        "a": [("common", (1, 1, 9, 9)), ("rare", (1, 1, 5, 5))],
        "b": [("common", (1, 1, 9, 9)), ("common", (2, 2, 9, 9))],
        "c": [],
    }
    _, checked = detect(voc_folder(tmp_path / "data", objects))
    assert [example.stratum for example, _ in checked.usable] == ["rare", "common", ""]
    assert checked.usable[2][0].target == '{"boxes":[]}'


@pytest.mark.parametrize(
    ("box", "code"),
    [
        ((5, 5, 5, 9), "zero-area"),
        ((9, 5, 5, 9), "inverted"),
        ((70, 5, 80, 9), "outside"),
        ((50, 1, 95, 9), "outside"),
    ],
)
def test_a_box_that_marks_nothing_is_left_out_alone(
    tmp_path: Path, box: tuple[int, ...], code: str
) -> None:
    root = voc_folder(tmp_path / "data", {"a": [("nut", (1, 1, 9, 9)), ("nut", box)]})
    _, checked = detect(root)
    (fault,) = checked.object_faults
    assert (fault.path, fault.code) == ("Annotations/a.xml#5", code)
    assert fault.hint
    assert fault.id == checked.usable[0][1].id
    assert len(json.loads(checked.usable[0][0].target)["boxes"]) == 1


def test_a_box_over_the_edge_is_cut(tmp_path: Path) -> None:
    _, checked = detect(
        voc_folder(tmp_path / "data", {"a": [("nut", (41, 21, 70, 45))]})
    )
    assert (
        checked.usable[0][0].target == '{"boxes":[{"box":[40,20,60,40],"label":"nut"}]}'
    )


def test_a_repeated_object_counts_once(tmp_path: Path) -> None:
    boxes = [("nut", (1, 1, 9, 9)), ("screw", (1, 1, 9, 9)), ("nut", (1, 1, 9, 9))]
    _, checked = detect(voc_folder(tmp_path / "data", {"a": boxes}))
    assert codes(checked) == ["duplicate-object"]
    assert "a.xml#4 is the same" in checked.object_faults[0].expected


def test_difficult_and_tiny_objects_are_ignored(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save_picture(root / "JPEGImages" / "a.png")
    save_text(
        root / "Annotations" / "a.xml", voc_xml([("nut", (1, 1, 9, 9))], difficult="1")
    )
    _, checked = detect(root, min_side=0)
    assert '"ignored":true' in checked.usable[0][0].target
    assert checked.usable[0][0].classes == ()
    assert detect(root, difficult="use")[1].usable[0][0].classes == ("nut",)
    _, tiny = detect(root, difficult="use", min_side=100.0)
    assert codes(tiny) == ["tiny"]
    assert '"ignored":true' in tiny.usable[0][0].target


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("<annotation><object>", "annotation-unreadable"),
        ("", "annotation-unreadable"),
        (b"\xff\xfe\x00\xd8<a", "annotation-unreadable"),
        ("<html/>", "not-voc"),
        ('<!DOCTYPE a [<!ENTITY b "b">]><annotation>&b;</annotation>', "xml-doctype"),
        ("<annotation><object><name> </name></object></annotation>", "no-class"),
        ("<annotation><object><name>nut</name></object></annotation>", "bad-box"),
        (voc_xml([("nut", (1, "x", 2, 2))]), "bad-box"),
        (voc_xml([("nut", (1, "nan", 2, 2))]), "bad-box"),
        (voc_xml([("nut", (1, 1, "1e999", 2))]), "bad-box"),
        (voc_xml([], size=(61, 40)), "annotation-size"),
        (
            '<?xml version="1.0" encoding="klingon"?><annotation/>',
            "annotation-unreadable",
        ),
    ],
)
def test_an_annotation_that_cannot_be_trusted_costs_the_image(
    tmp_path: Path, content: str | bytes, code: str
) -> None:
    root = voc_folder(tmp_path / "data", {"good": [("nut", (1, 1, 9, 9))]})
    save_picture(root / "JPEGImages" / "bad.png", 7)
    save_text(root / "Annotations" / "bad.xml", content)
    listing, checked = detect(root)
    assert only_fault(listing, checked) == ("JPEGImages/bad.png", code)


@pytest.mark.slow
def test_a_hostile_depth_ends_nothing(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data", {"good": []})
    save_picture(root / "JPEGImages" / "deep.png", 7)
    save_text(root / "Annotations" / "deep.xml", "<annotation>" + "<a>" * 200_000)
    listing, checked = detect(root)
    assert only_fault(listing, checked) == (
        "JPEGImages/deep.png",
        "annotation-unreadable",
    )


def save_turned(
    path: Path, orientation: int, box: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    """A picture with one white box, both as they are stored; its EXIF data turn it."""
    stored = picture(3, size).convert("RGB").point(lambda value: min(value, 200))
    stored.paste((255, 255, 255), box)
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(path, encoded(stored, "PNG", exif=exif))


def white_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    return image.convert("L").point(lambda value: 255 * (value > 230)).getbbox()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_for_the_stored_picture_are_turned_with_it(
    tmp_path: Path, orientation: int
) -> None:
    root = voc_folder(tmp_path / "data", {})
    path = root / "JPEGImages" / "a.png"
    save_turned(path, orientation, (10, 5, 30, 12), SIZE)
    save_text(
        root / "Annotations" / "a.xml", voc_xml([("nut", (11, 6, 30, 12))], size=SIZE)
    )
    listing, checked = detect(root)
    assert not (*listing.faults, *checked.faults)
    ((example, _),) = checked.usable
    (one,) = json.loads(example.target)["boxes"]
    assert tuple(one["box"]) == white_box(open_rgb(path))
    (finding,) = (
        finding for finding in checked.findings if finding.code == "boxes-turned"
    )
    assert finding.items == ("JPEGImages/a.png",)


@pytest.mark.parametrize(("orientation", "size"), [(6, (40, 40)), (3, SIZE)])
def test_a_turn_that_the_size_does_not_tell_is_named(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    root = voc_folder(tmp_path / "data", {})
    save_turned(root / "JPEGImages" / "a.png", orientation, (10, 5, 30, 12), size)
    save_text(
        root / "Annotations" / "a.xml", voc_xml([("nut", (11, 6, 30, 12))], size=size)
    )
    _, checked = detect(root)
    ((example, _),) = checked.usable
    assert json.loads(example.target)["boxes"][0]["box"] == [10, 5, 30, 12]
    assert [finding.code for finding in checked.findings if "exif" in finding.code] == [
        "exif-unclear"
    ]


def test_a_transposed_size_without_a_quarter_turn_costs_the_image(
    tmp_path: Path,
) -> None:
    root = voc_folder(tmp_path / "data", {"good": []})
    save_turned(root / "JPEGImages" / "bad.png", 3, (10, 5, 30, 12), SIZE)
    save_text(
        root / "Annotations" / "bad.xml",
        voc_xml([("nut", (1, 1, 9, 9))], size=SIZE[::-1]),
    )
    assert only_fault(*detect(root)) == ("JPEGImages/bad.png", "annotation-size")


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data", {"a": [("nut", (1, 1, 9, 9))]})
    save_picture(root / "JPEGImages" / "alone.JPG", 5, kind="JPEG")
    save_text(root / "Annotations" / "orphan.xml", voc_xml([]))
    listing, _ = detect(root)
    assert [(fault.path, fault.code) for fault in listing.faults] == [
        ("JPEGImages/alone.JPG", "no-annotation"),
        ("Annotations/orphan.xml", "no-image"),
    ]
    listing, checked = detect(root, unannotated="empty")
    assert [fault.code for fault in listing.faults] == ["no-image"]
    assert [example.target for example, _ in checked.usable][1] == '{"boxes":[]}'


def test_two_images_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data", {"a": [("nut", (1, 1, 9, 9))], "b": []})
    save_picture(root / "JPEGImages" / "a.jpg", 5, kind="JPEG")
    listing, _ = detect(root)
    assert [(fault.path, fault.code) for fault in listing.faults] == [
        ("JPEGImages/a.jpg", "ambiguous-annotation"),
        ("JPEGImages/a.png", "ambiguous-annotation"),
    ]


@pytest.mark.parametrize(
    ("image", "annotation"),
    [
        ("train/a.JPG", "train/a.xml"),
        ("images/train/ä b.JPG", "annotations/train/ä b.xml"),
        ("train/images/deep/a.jpeg", "train/labels/deep/a.xml"),
        ("train2017/IMG.JPG", "Annotations/img.xml"),
        ("train_images/a.x.jpg", "train_annotations/a.x.xml"),
        ("mask/train/a.jpg", "mask/train/a.xml"),
    ],
)
def test_layouts_that_people_have(tmp_path: Path, image: str, annotation: str) -> None:
    root = tmp_path / "data"
    save_picture(root / image, kind="JPEG")
    save_text(root / annotation, voc_xml([("nut", (1, 1, 9, 9))]))
    listing, checked = detect(root)
    assert not listing.faults
    assert [(example.path, example.given_split) for example, _ in checked.usable] == [
        (image, "train")
    ]


def test_image_sets_give_the_split(tmp_path: Path) -> None:
    stems = ("a", "b", "c", "d")
    root = voc_folder(
        tmp_path / "data", {stem: [("nut", (1, 1, 9, 9))] for stem in stems}
    )
    sets = root / "ImageSets" / "Main"
    save_text(sets / "train.txt", "a\r\nb\r\n")
    save_text(sets / "val.txt", "b\nghost\n")
    save_text(sets / "trainval.txt", "a\nb\nc\n")
    save_text(sets / "test.txt", "JPEGImages/c.png")
    save_text(root / "ImageSets" / "Layout" / "test.txt", "d")
    listing, _ = detect(root)
    given = {example.path[-5]: example.given_split for example in listing.examples}
    assert given == {"a": "train", "b": "val", "c": "test", "d": None}
    told = {finding.code: finding.items for finding in listing.findings}
    assert told == {
        "split-list-unknown": ("ImageSets/Main/val.txt#2: ghost",),
        "in-several-splits": ("JPEGImages/b.png: train, val",),
        "in-no-split": ("JPEGImages/d.png",),
    }


def test_groups_come_from_metadata(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data", {"a": [("nut", (1, 1, 9, 9))], "b": []})
    save_text(
        root / "metadata.csv",
        "path,group,camera\nJPEGImages/a.png,p1,left\nJPEGImages/b.png,p1,right\n",
    )
    _, checked = detect(root)
    assert [(example.group, example.meta) for example, _ in checked.usable] == [
        ("p1", (("camera", "left"),)),
        ("p1", (("camera", "right"),)),
    ]


def test_a_table_of_groups_may_lie_anywhere(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "data", {"a": [("nut", (1, 1, 9, 9))]})
    save_text(root / "about" / "metadata.csv", "path,group\nJPEGImages/a.png,p1\n")
    listing, _ = detect(root)
    assert [(finding.code, finding.severity) for finding in listing.findings] == [
        ("metadata-unread", "critical")
    ]
    listing, _ = detect(root, DataConfig(table="about/metadata.csv"))
    assert not listing.findings
    assert listing.examples[0].group == "p1"


@pytest.mark.parametrize(("named", "warned"), [("A.jpg", 0), ("x\\a", 0), ("b.png", 1)])
def test_an_annotation_that_names_another_image_is_warned_of(
    tmp_path: Path, named: str, warned: int
) -> None:
    root = voc_folder(tmp_path / "data", {})
    save_picture(root / "JPEGImages" / "a.png")
    save_text(
        root / "Annotations" / "a.xml",
        voc_xml([], extra=f"<filename>{named}</filename>"),
    )
    listing, _ = detect(root)
    assert [finding.code for finding in listing.findings] == ["other-filename"] * warned


@pytest.mark.parametrize(("fit", "tiny"), [("squash", []), ("pad", ["tiny"])])
def test_tiny_is_what_the_network_cannot_see(
    tmp_path: Path, fit: str, tiny: list[str]
) -> None:
    """Of 60 × 40 pixels, 1.5 down are 2.25 in a squashed input of 60, and 1.5 in a
    padded one.
    """
    root = voc_folder(tmp_path / "data", {"a": [("nut", (1, 1, 10, 1.5))]})
    task = ObjectDetectionConfig.model_validate(
        {"input": {"size": 60, "fit": fit}, "annotations": {"min_side": 2}}
    )
    _, checked = take_in(DetectionReader("x"), root, task)
    assert codes(checked) == tiny


def test_classes_outside_the_label_space_stop_the_run(tmp_path: Path) -> None:
    root = voc_folder(
        tmp_path / "data", {"a": [("nut", (1, 1, 9, 9)), ("Nut", (1, 1, 8, 8))]}
    )
    _, checked = detect(root)
    assert [finding.code for finding in checked.findings] == ["similar-classes"]
    _, checked = detect(root, DataConfig(labels=("nut",)))
    (finding,) = checked.findings
    assert (finding.code, finding.severity, finding.items) == (
        "unknown-label",
        "critical",
        ("Nut: did you mean nut?",),
    )
    _, checked = detect(root, DataConfig(drop_classes=("Nut",)))
    assert checked.labels == ("nut",)
    assert not checked.findings


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    save_picture(tmp_path / "data" / "images" / "a.png")
    with pytest.raises(
        DataError, match=r"1 images, and no annotation of one in the format voc"
    ):
        detect(tmp_path / "data")


@pytest.mark.real
def test_bccd_loses_just_its_two_boxes_without_area(real: Path, tmp_path: Path) -> None:
    task = ObjectDetectionConfig()
    reader = DetectionReader("object-detection")
    listing = reader.list_examples(real / "data" / "bccd", DataConfig(), task)
    assert len(listing.examples) == 364
    assert not (*listing.faults, *listing.findings)
