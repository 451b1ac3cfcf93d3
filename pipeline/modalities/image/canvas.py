"""Pictures on a square canvas, for tasks whose truths lie on the picture: boxes and
masks are moved as the pixels are.

A canvas has no margin to be cut off: `resize` of its input spec is its `size`. The
random crop, turns and colours are those of `augmentation`, drawn from the same counted
numbers, so that what moved the pixels is computed again for boxes and masks without
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.modalities.image.augmentation import View, draw_view
from pipeline.objectives.box_targets import PictureBoxes
from pipeline.objectives.pixel_targets import IGNORED
from pipeline.serving import canvas

if TYPE_CHECKING:
    from pipeline.examples import RandomDraw
    from pipeline.modalities.image.settings import ImageAugmentConfig
    from pipeline.records import ImageInputSpec

SMALLEST_SIDE = 2.0  # pixels of the canvas: a narrower box cannot be found
SMALLEST_SHARE = 0.3  # of a box's area that must be left in a crop for it to count

Masks = NDArray[np.uint8]


def lay_boxes(picture: PictureBoxes, spec: ImageInputSpec) -> PictureBoxes:
    """Boxes in pixels of their picture as they lie on the canvas; those that are too
    small there are left out.
    """
    place = canvas.place(picture.width, picture.height, spec.size, spec.fit)
    scales = [place.scale_x, place.scale_y, place.scale_x, place.scale_y]
    offsets = [place.left, place.top, place.left, place.top]
    scale = np.array(scales, np.float32)
    offset = np.array(offsets, np.float32)
    boxes = picture.boxes * scale + offset
    clipped = np.clip(boxes, 0, spec.size)
    return _kept(picture, clipped, _is_large(clipped), spec.size, picture.seed)


def lift_boxes(
    answer: NDArray[np.float64], width: int, height: int, spec: ImageInputSpec
) -> NDArray[np.float64]:
    """Answered boxes on the canvas in pixels of their picture of `width` × `height`.

    Args:
        answer: (K, 6): left, top, right, bottom, score, class.
    """
    return canvas.lift(answer, width, height, spec.size, spec.fit)


def move_boxes(
    picture: PictureBoxes,
    spec: ImageInputSpec,
    config: ImageAugmentConfig,
    draw: RandomDraw | None,
) -> PictureBoxes:
    """Boxes on the canvas as a draw moves them; view 0, and no draw, leave them."""
    if draw is None:
        return picture
    seed = _sampling_seed(draw)
    if draw.view == 0:
        return _kept(
            picture,
            picture.boxes,
            np.ones(len(picture.boxes), np.bool_),
            spec.size,
            seed,
        )
    view = draw_view(draw, spec.size, config)
    cropped = _crop_boxes(picture.boxes, view, spec.size)
    left_over = np.clip(cropped, 0, spec.size)
    shares = _areas(left_over) / np.maximum(_areas(cropped), 1e-6)
    is_there = _is_large(left_over) & (shares >= SMALLEST_SHARE)
    return _kept(
        picture, _turn_boxes(left_over, view, spec.size), is_there, spec.size, seed
    )


def move_masks(
    masks: Masks,
    spec: ImageInputSpec,
    config: ImageAugmentConfig,
    draws: Sequence[RandomDraw] | None,
) -> Masks:
    """Masks (n, S, S) as their draws move them, by the nearest pixel."""
    if draws is None:
        return masks
    moved = np.empty_like(masks)
    for number, draw in enumerate(draws):
        moved[number] = masks[number]
        if draw.view:
            view = draw_view(draw, spec.size, config)
            moved[number] = _turn_mask(_crop_mask(masks[number], view, spec.size), view)
    return moved


def _sampling_seed(draw: RandomDraw) -> int:
    """The seed of what a loss samples of this picture in this view."""
    import hashlib

    text = f"sampled\x1f{draw.seed}\x1f{draw.view}\x1f{draw.id}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def _kept(
    picture: PictureBoxes,
    boxes: NDArray[np.float32],
    rows: NDArray[np.bool_],
    side: int,
    seed: int,
) -> PictureBoxes:
    return PictureBoxes(
        np.ascontiguousarray(boxes[rows]),
        picture.labels[rows],
        picture.ignored[rows],
        side,
        side,
        seed,
    )


def _is_large(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    sides = boxes[:, 2:] - boxes[:, :2]
    large: NDArray[np.bool_] = np.all(sides >= SMALLEST_SIDE, axis=1)
    return large


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = boxes[:, 2:] - boxes[:, :2]
    sides = np.maximum(sides, 0)
    areas: NDArray[np.float32] = sides[:, 0] * sides[:, 1]
    return areas


def _crop_boxes(
    boxes: NDArray[np.float32], view: View, side: int
) -> NDArray[np.float32]:
    scale_x = side / view.width
    scale_y = side / view.height
    corners = [view.left, view.top, view.left, view.top]
    origin = np.array(corners, np.float32)
    scale = np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
    return (boxes - origin) * scale


def _turn_boxes(
    boxes: NDArray[np.float32], view: View, side: int
) -> NDArray[np.float32]:
    """As `augmentation` turns pixels: up and down, then left and right, then quarters
    against the clock.
    """
    left, top, right, bottom = boxes.T
    if view.vflip:
        top, bottom = side - bottom, side - top
    if view.hflip:
        left, right = side - right, side - left
    for _ in range(view.quarter_turns):
        left, top, right, bottom = top, side - right, bottom, side - left
    return np.stack([left, top, right, bottom], axis=1)


def _crop_mask(mask: Masks, view: View, side: int) -> Masks:
    """The view's crop, enlarged to the canvas: each pixel from the nearest one of the
    crop.
    """
    centres = (np.arange(side) + 0.5) / side
    down = np.floor(centres * view.height).astype(np.int64)
    across = np.floor(centres * view.width).astype(np.int64)
    rows = view.top + down
    columns = view.left + across
    return mask[rows[:, None], columns[None, :]]


def _turn_mask(mask: Masks, view: View) -> Masks:
    if view.vflip:
        mask = mask[::-1]
    if view.hflip:
        mask = mask[:, ::-1]
    return np.rot90(mask, view.quarter_turns)


def lay_mask(mask: Masks, spec: ImageInputSpec) -> Masks:
    """A mask (H, W) of a picture on the canvas (S, S), each pixel from the nearest one;
    `IGNORED` around the picture.
    """
    height, width = mask.shape
    place = canvas.place(width, height, spec.size, spec.fit)
    rows = _nearest(place.height, height)
    columns = _nearest(place.width, width)
    laid = np.full((spec.size, spec.size), IGNORED, np.uint8)
    laid[
        place.top : place.top + place.height, place.left : place.left + place.width
    ] = mask[rows[:, None], columns[None, :]]
    return laid


def _nearest(wanted: int, there: int) -> NDArray[np.int64]:
    """For each of `wanted` places, the nearest of those that are there."""
    centres = (np.arange(wanted) + 0.5) * there / wanted
    places = np.floor(centres).astype(np.int64)
    return np.minimum(places, there - 1)
