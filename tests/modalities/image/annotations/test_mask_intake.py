"""Masks on their way in: what their values stand for, and what costs the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotated_images import (
    SIZE,
    half_mask,
    save_mask,
    save_picture,
    save_text,
    take_in,
)
from image_builders import save
from pipeline.config import DataConfig
from pipeline.context import SilentConsole
from pipeline.errors import ConfigError, DataError
from pipeline.examples import CheckedTargets, ExampleListing
from pipeline.modalities.image.annotations.masks import decode_mask
from pipeline.modalities.image.annotations.settings import MaskValues
from pipeline.objectives.pixel_targets import (
    IGNORED,
    LabelledMasks,
    MaskFile,
    parse_mask,
)
from pipeline.records import ImageInputSpec
from pipeline.tasks.base import StoreLimits
from pipeline.tasks.semantic_segmentation.reader import SegmentationReader
from pipeline.tasks.semantic_segmentation.settings import SemanticSegmentationConfig
from pipeline.tasks.semantic_segmentation.targets import MaskTargetCodec

BINARY = {"classes": {"background": 0, "crack": 255}}


def segment(
    root: Path, values: object = BINARY, data: DataConfig | None = None, **masks: object
) -> tuple[ExampleListing, CheckedTargets]:
    task = SemanticSegmentationConfig.model_validate(
        {"masks": {"values": values, **masks}}
    )
    return take_in(SegmentationReader("semantic-segmentation"), root, task, data)


def decoded(path: Path, classes: dict[str, object], ignore: object = ()) -> np.ndarray:
    values = MaskValues.model_validate({"classes": classes, "ignore": ignore})
    return decode_mask(path, values, list(classes))


def test_a_target_names_the_mask_and_its_digest(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save_picture(root / "images" / "a.png")
    save_mask(root / "masks" / "a.png", half_mask(255))
    _, checked = segment(root)
    ((example, measured),) = checked.usable
    assert example.path == "images/a.png"
    assert example.target.startswith('{"mask":"masks/a.png","md5":"')
    assert (example.classes, example.stratum) == (("background", "crack"), "crack")
    assert measured.values["foreground"] == 0.5
    assert checked.labels == ("background", "crack")


def test_the_rarest_class_beside_the_background_is_the_stratum(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, value in enumerate((0, 1, 1, 2)):
        save_picture(root / "img" / f"{number}.png", number)
        save_mask(root / "mask" / f"{number}.png", half_mask(value))
    _, checked = segment(root, {"classes": {"background": 0, "b": 1, "a": 2}})
    assert [example.stratum for example, _ in checked.usable] == [
        "background",
        "b",
        "b",
        "a",
    ]


def test_forms_of_masks(tmp_path: Path) -> None:
    expected = half_mask(1)
    colours = np.zeros((*expected.shape, 3), dtype=np.uint8)
    colours[expected == 1] = (0x80, 0x40, 0)
    grey = save_mask(tmp_path / "l.png", half_mask(255))
    palette = save_mask(
        tmp_path / "p.png", half_mask(1), palette=(0, 0, 0, 0x80, 0x40, 0)
    )
    colour = save_mask(tmp_path / "rgb.png", colours)
    deep = save_mask(tmp_path / "i16.png", half_mask(1).astype(np.uint16) * 300)
    bits = save_mask(tmp_path / "1.png", half_mask(1).astype(bool))
    thrice = save_mask(
        tmp_path / "ggg.png", np.repeat(half_mask(7)[..., None], 3, axis=2)
    )
    by_colour = {"background": "#000000", "crack": "#804000"}
    for path, classes in (
        (grey, {"background": 0, "crack": 255}),
        (palette, {"background": 0, "crack": 1}),
        (palette, by_colour),
        (colour, by_colour),
        (deep, {"background": 0, "crack": 300}),
        (bits, {"background": 0, "crack": 255}),
        (thrice, {"background": 0, "crack": [3, 7]}),
    ):
        np.testing.assert_array_equal(decoded(path, classes), expected)


def test_what_is_ignored_or_left_out_is_255(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "m.png", np.array([[0, 1, 2, 255]], dtype=np.uint8))
    values = MaskValues.model_validate(
        {"classes": {"a": 0, "b": 1, "c": 2}, "ignore": [255]}
    )
    assert decode_mask(path, values, ["c", "a"]).tolist() == [[1, 255, 0, 255]]


def test_an_unknown_value_is_refused_by_its_share(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "m.png", np.array([[0, 1, 7, 7]], dtype=np.uint8))
    with pytest.raises(DataError, match=r"7 \(50\.00%\) of its pixels"):
        decoded(path, {"a": 0, "b": 1})


@pytest.mark.parametrize(
    ("values", "kind", "code"),
    [
        (half_mask(255, (30, 40)), "PNG", "mask-size"),
        (half_mask(255), "JPEG", "lossy-mask"),
        (half_mask(255), "WEBP", "lossy-mask"),
        (half_mask(7), "PNG", "mask-values"),
        (np.full((40, 60), 9, dtype=np.uint8), "PNG", "all-ignored"),
        (np.dstack([half_mask(1), half_mask(2), half_mask(3)]), "PNG", "mask-mode"),
        (half_mask(1).astype(np.float32), "TIFF", "mask-mode"),
        (None, "PNG", "mask-unreadable"),
    ],
)
def test_a_mask_that_cannot_be_trusted_costs_the_image(
    tmp_path: Path, values: np.ndarray | None, kind: str, code: str
) -> None:
    root = tmp_path / "data"
    save_picture(root / "images" / "bad.png", 1)
    save_picture(root / "images" / "good.png", 2)
    save_mask(root / "masks" / "good.png", half_mask(255))
    if values is None:
        save(root / "masks" / "bad.png", b"\x89PNG\r\n\x1a\n nothing")
    else:
        save_mask(root / "masks" / "bad.png", values, kind=kind)
    listing, checked = segment(root, {**BINARY, "ignore": [9]})
    (fault,) = (*listing.faults, *checked.faults)
    assert (fault.path, fault.code) == ("images/bad.png", code)
    assert "masks/bad.png" in fault.found
    assert fault.hint


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("a", "alone"):
        save_picture(root / "images" / f"{name}.JPG", len(name), kind="JPEG")
    for name in ("a", "orphan"):
        save_mask(root / "masks" / f"{name}.png", half_mask(255))
    listing, _ = segment(root)
    assert [(fault.path, fault.code) for fault in listing.faults] == [
        ("images/alone.JPG", "no-annotation"),
        ("masks/orphan.png", "no-image"),
    ]


@pytest.mark.parametrize(
    ("image", "mask", "suffix"),
    [
        ("train/a.JPG", "trainannot/a.png", ""),
        ("images/train/a.jpg", "masks/train/a.png", ""),
        ("JPEGImages/a.jpg", "SegmentationClass/a.png", ""),
        ("train/img/a.jpg", "train/mask/a.png", ""),
        ("train/a.jpg", "train/a_mask.png", "_mask"),
        ("PNGImages/a.png", "PedMasks/a_mask.png", "_mask"),
        ("images/a.jpg", "labels/a_L.png", "_L"),
    ],
)
def test_layouts_that_people_have(
    tmp_path: Path, image: str, mask: str, suffix: str
) -> None:
    root = tmp_path / "data"
    save_picture(root / image, kind="JPEG")
    save_mask(root / mask, half_mask(255))
    listing, checked = segment(root, suffix=suffix)
    assert not listing.faults
    assert [example.path for example, _ in checked.usable] == [image]


def test_lists_beside_the_images_give_the_split(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("a", "b"):
        save_picture(root / "images" / f"{name}.png", ord(name))
        save_mask(root / "masks" / f"{name}.png", half_mask(255))
    save_text(root / "train.txt", "a\n")
    save_text(root / "test.txt", "b\n")
    listing, _ = segment(root)
    assert [example.given_split for example in listing.examples] == ["train", "test"]


@pytest.mark.parametrize("folder", ["ImageSets/Segmentation", "annotations"])
def test_lists_of_the_task_are_found(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "data"
    for name in ("a", "b"):
        save_picture(root / "JPEGImages" / f"{name}.png", ord(name))
        save_mask(root / "SegmentationClass" / f"{name}.png", half_mask(255))
    if folder != "annotations":
        save_text(root / "ImageSets" / "Main" / "train.txt", "a\nb\n")
    save_text(root / folder / "trainval.txt", "a 1\n")
    save_text(root / folder / "test.txt", "b 1\n")
    listing, _ = segment(root)
    assert [example.given_split for example in listing.examples] == ["train", "test"]


def test_lists_may_name_the_masks_too(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name, folder in (("a", "train"), ("b", "test")):
        save_picture(root / folder / f"{name}.png", ord(name))
        save_mask(root / f"{folder}annot" / f"{name}.png", half_mask(255))
        save_text(
            root / f"{folder}.txt",
            f"/CamVid/{folder}/{name}.png /CamVid/{folder}annot/{name}.png\n",
        )
    listing, _ = segment(root)
    assert not listing.findings
    assert {example.path: example.given_split for example in listing.examples} == {
        "train/a.png": "train",
        "test/b.png": "test",
    }


def test_lists_that_name_nothing_leave_the_split_to_the_folders(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save_picture(root / "images" / "train" / "a.png")
    save_mask(root / "masks" / "train" / "a.png", half_mask(255))
    save_text(root / "train.txt", "ghost\n")
    listing, _ = segment(root)
    assert [example.given_split for example in listing.examples] == ["train"]
    assert [finding.code for finding in listing.findings] == [
        "split-list-unknown",
        "in-no-split",
    ]


def test_the_same_picture_with_the_same_mask_is_one_example(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("a", "b"):
        save_picture(root / "images" / f"{name}.png", 1)
        save_mask(root / "masks" / f"{name}.png", half_mask(255))
    _, checked = segment(root)
    first, second = (example.target for example, _ in checked.usable)
    assert first == second


def test_values_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task\.masks\.values\.classes"):
        segment(tmp_path, {})


@pytest.mark.parametrize(
    "classes",
    [{"a": 0}, {"a": 0, "b": 0}, {"a": 0, "b": "#000000"}, {"a": 0, "b": "black"}],
)
def test_values_that_cannot_be_told_apart_are_refused(
    classes: dict[str, object],
) -> None:
    with pytest.raises(ValueError):
        MaskValues.model_validate({"classes": classes})


def test_an_exif_turn_of_the_picture_is_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    exif = Image.Exif()
    exif[0x0112] = 8
    save_picture(root / "images" / "a.png", 1)
    with Image.open(root / "images" / "a.png") as picture:
        picture.load()
    picture.save(root / "images" / "a.png", exif=exif)
    save_mask(root / "masks" / "a.png", half_mask(255, SIZE))
    _, checked = segment(root)
    assert [fault.code for fault in checked.faults] == ["exif-size"]


@pytest.mark.real
def test_dsb2018_is_read_whole(real: Path) -> None:
    settings = {"values": {"classes": {"background": 0, "nucleus": 1}}}
    task = SemanticSegmentationConfig.model_validate({"masks": settings})
    listing = SegmentationReader("semantic-segmentation").list_examples(
        real / "data" / "dsb2018", DataConfig(), task
    )
    assert len(listing.examples) == 450
    assert not (*listing.faults, *listing.findings)


def _half_masked(root: Path) -> None:
    """Two pictures, of which only the first has a mask."""
    save_picture(root / "images" / "a.png")
    save_picture(root / "images" / "b.png", 1)
    save_mask(root / "masks" / "a.png", half_mask(255))


def test_an_image_without_a_mask_is_a_fault_or_background_as_is_set(
    tmp_path: Path,
) -> None:
    _half_masked(tmp_path / "data")
    listing, _ = segment(tmp_path / "data")
    (fault,) = listing.faults
    assert (fault.path, fault.code) == ("images/b.png", "no-annotation")
    assert "task.masks.unannotated: empty" in fault.hint
    listing, checked = segment(tmp_path / "data", unannotated="empty")
    assert not listing.faults
    example, measured = checked.usable[1]
    width, height = measured.values["width"], measured.values["height"]
    assert example.target == f'{{"background":[{width},{height}]}}'
    assert (example.classes, example.stratum) == (("background",), "background")
    assert (measured.values["foreground"], measured.values["ignored"]) == (0, 0)
    (finding,) = (finding for finding in checked.findings if finding.code == "no-mask")
    assert finding.items == ("images/b.png",)


def test_images_without_any_mask_stop_the_run_whatever_is_set(tmp_path: Path) -> None:
    save_picture(tmp_path / "data" / "images" / "a.png")
    with pytest.raises(DataError, match="none belong together"):
        segment(tmp_path / "data", unannotated="empty")


def test_without_the_background_class_nothing_counts_in_an_image_without_a_mask(
    tmp_path: Path,
) -> None:
    _half_masked(tmp_path / "data")
    values = {"classes": {"background": 0, "crack": 255, "rust": 7}}
    _, checked = segment(
        tmp_path / "data",
        values,
        DataConfig(drop_classes=("background",)),
        unannotated="empty",
    )
    assert [fault.code for fault in checked.faults] == ["all-ignored"]


def test_a_label_space_with_the_background_behind_a_class_is_refused(
    tmp_path: Path,
) -> None:
    """The first class is what served answers leave out."""
    _half_masked(tmp_path / "data")
    labels = ("crack", "background")
    with pytest.raises(ConfigError, match="background first"):
        segment(tmp_path / "data", BINARY, DataConfig(labels=labels))


def test_a_target_without_a_file_is_laid_on_the_canvas_and_read_as_background(
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    _half_masked(root)
    _, checked = segment(root, unannotated="empty")
    task = SemanticSegmentationConfig.model_validate(
        {"masks": {"values": BINARY, "unannotated": "empty"}}
    )
    labels = ("background", "crack")
    first, second = (parse_mask(example.target) for example, _ in checked.usable)
    codec, spec = MaskTargetCodec(), ImageInputSpec(size=32, resize=32, fit="pad")
    limits = StoreLimits(tmp_path / "scratch", 1)

    def load(*files: MaskFile) -> np.ndarray:
        return codec.open(
            LabelledMasks(files, labels), spec, task, root, limits, SilentConsole()
        ).load()

    masks = load(second, first, second)
    np.testing.assert_array_equal(masks[1], load(first)[0])
    np.testing.assert_array_equal(masks[0], masks[2])
    # what lies around a picture does not count with a mask or without one
    np.testing.assert_array_equal(masks[0] == IGNORED, masks[1] == IGNORED)
    assert set(np.unique(masks[0])) <= {0, IGNORED}
    np.testing.assert_array_equal(load(second, second), masks[::2])
    truth = codec.read(second, root, task, labels)
    assert truth.shape == codec.read(first, root, task, labels).shape
    assert not truth.any()
