"""Boxes and masks move as the pixels do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.examples import RandomDraw
from pipeline.modalities.image import augmentation
from pipeline.modalities.image.canvas import (
    lay_boxes,
    lay_mask,
    lift_boxes,
    move_boxes,
    move_masks,
)
from pipeline.modalities.image.settings import CanvasAugmentConfig
from pipeline.objectives.box_targets import PictureBoxes, parse_boxes
from pipeline.objectives.pixel_targets import IGNORED
from pipeline.records import ImageInputSpec

SIDE = 96
SPEC = ImageInputSpec(
    size=SIDE, resize=SIDE, fit="squash", mean=(0, 0, 0), std=(1, 1, 1)
)
TURNS = CanvasAugmentConfig(
    hflip=0.5,
    vflip=0.5,
    rotate90=True,
    crop_scale=(0.3, 1.0),
    brightness=0,
    contrast=0,
    saturation=0,
)


def one_box(
    box: tuple[float, float, float, float], width: int = SIDE, height: int = SIDE
) -> PictureBoxes:
    boxes = np.array([box], np.float32)
    return PictureBoxes(boxes, np.array([0]), np.array([False]), width, height)


def filled(
    box: tuple[int, int, int, int],
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    left, top, right, bottom = box
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize("view", range(12))
def test_a_box_and_a_mask_lie_where_the_bright_pixels_are_in_every_view(
    view: int,
) -> None:
    corners = (30, 20, 70, 44)
    mask = filled(corners)
    pixels = torch.from_numpy(
        np.repeat(mask[None, :, :, None] * 255, 3, axis=3).astype(np.uint8)
    )
    draw = RandomDraw(0, view, "picture")
    shown = (
        augmentation.prepare_augmented(pixels, SPEC, TURNS, [draw])[0, 0].numpy() > 0.5
    )
    moved_mask = move_masks(mask[None], SPEC, TURNS, [draw])[0]
    assert (shown != (moved_mask == 1)).mean() < 0.03
    moved = move_boxes(one_box(corners), SPEC, TURNS, draw)
    rows, columns = np.nonzero(shown)
    if not len(moved.boxes):
        assert len(rows) < 0.3 * 40 * 24 * 4  # most of it was cropped away
        return
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert moved.boxes[0].tolist() == pytest.approx(found, abs=2.5)


def test_view_0_and_no_draw_are_plain() -> None:
    picture = one_box((10, 20, 30, 50))
    assert (
        move_boxes(picture, SPEC, TURNS, None).boxes.tolist() == picture.boxes.tolist()
    )
    assert (
        move_boxes(picture, SPEC, TURNS, RandomDraw(0, 0, "x")).boxes.tolist()
        == picture.boxes.tolist()
    )
    mask = filled((1, 2, 30, 40))[None]
    assert (move_masks(mask, SPEC, TURNS, [RandomDraw(0, 0, "x")]) == mask).all()


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (97, 311), (96, 96)])
def test_boxes_come_back_in_the_pictures_own_pixels(
    fit: str, width: int, height: int
) -> None:
    spec = SPEC.model_copy(update={"fit": fit})
    box = (0.1 * width, 0.2 * height, 0.8 * width, 0.9 * height)
    laid = lay_boxes(one_box(box, width, height), spec)
    answer = np.concatenate([laid.boxes, np.array([[0.9, 0.0]])], axis=1).astype(
        np.float64
    )
    lifted = lift_boxes(answer, width, height, spec)
    assert lifted[0, :4].tolist() == pytest.approx(box, abs=0.01 * max(width, height))


def test_what_is_too_small_on_the_canvas_is_left_out() -> None:
    assert len(lay_boxes(one_box((10, 10, 12, 300), 6400, 480), SPEC).boxes) == 0


def test_around_a_padded_mask_nothing_counts() -> None:
    spec = SPEC.model_copy(update={"fit": "pad"})
    laid = lay_mask(np.ones((40, 80), np.uint8), spec)
    assert (laid[SIDE // 2] == 1).all()
    assert (laid[0] == IGNORED).all()
    assert (laid == 1).sum() == SIDE * 48


def test_the_seed_of_what_is_sampled_follows_from_the_draw() -> None:
    picture = one_box((10, 20, 30, 50))
    seeds = {
        move_boxes(picture, SPEC, TURNS, RandomDraw(0, view, "x")).seed
        for view in range(5)
    }
    assert len(seeds) == 5


def test_a_manifests_target_becomes_boxes() -> None:
    text = '{"boxes":[{"box":[1,2,3,4],"label":"b"},{"box":[0,0,9,9],"ignored":true,"label":"a"}]}'
    picture = parse_boxes(text, ("a", "b"), 20, 10)
    assert picture.labels.tolist() == [1, 0]
    assert picture.trained.boxes.tolist() == [[1, 2, 3, 4]]
    assert parse_boxes('{"boxes":[]}', ("a",), 20, 10).boxes.shape == (0, 4)
