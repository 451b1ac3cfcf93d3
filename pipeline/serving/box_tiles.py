"""Boxes found in the tiles of a large picture, put together: each object once.

As in sliced inference (Akyon, Altinuc and Temizel 2022, "Slicing aided hyper
inference", section 3): boxes are moved back to the picture, and non-maximum suppression
runs over all of them. Before that, a box that a tile's edge cuts gives way to a
neighbour's box of the same object: the neighbour sees that object whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms

SCORE, CLASS = 4, 5
# Of a tile's side: a box that comes so near to an inner edge is cut by it.
EDGE_SHARE = 0.01
# Of a cut box's area: whoever covers so much of it shows the same object.
COVERED_SHARE = 0.5
# Of a cut box's score: the neighbour must be about as sure that there is something.
LEAST_CONFIDENCE = 0.5
PAIRED_AT_ONCE = 256

Boxes = NDArray[np.float64]


def merge_boxes(
    found: Iterable[tuple[int, int, Boxes]],
    tiling: Any,
    width: int,
    height: int,
    most_overlap: float,
) -> Boxes:
    """The boxes (K, 6) of a picture, best first: left, top, right, bottom in its
    pixels, score, class.

    Args:
        found: of each tile where it begins (left, top) and its boxes (k, 6), in pixels
            of the tile.
        tiling: how the picture is cut, as `tiles.find_tiling` gives it.
        width, height: of the picture in pixels.
        most_overlap: two boxes of one class that overlap more (intersection over union)
            show one object.
    """
    moved = [np.empty((0, CLASS + 1))]
    cut = [np.empty(0, np.bool_)]
    for left, top, boxes in found:
        own = boxes + np.array([left, top, left, top, 0, 0], np.float64)
        moved.append(own)
        cut.append(_find_cut(own, tiling, left, top, width, height))
    every_box = np.concatenate(moved)
    every_cut = np.concatenate(cut)
    every_box = every_box[~_find_covered(every_box, every_cut)]
    values = torch.from_numpy(every_box)
    kept = batched_nms(
        values[:, :SCORE], values[:, SCORE], values[:, CLASS].long(), most_overlap
    )
    merged: Boxes = every_box[kept.numpy()]
    return merged


def _find_cut(
    boxes: Boxes, tiling: Any, left: int, top: int, width: int, height: int
) -> NDArray[np.bool_]:
    """Which boxes (k,) reach an edge of their tile beyond which the picture goes on."""
    margin_x = EDGE_SHARE * tiling.width
    margin_y = EDGE_SHARE * tiling.height
    cut = np.zeros(len(boxes), np.bool_)
    if left > 0:
        cut |= boxes[:, 0] <= left + margin_x
    if top > 0:
        cut |= boxes[:, 1] <= top + margin_y
    if left + tiling.width < width:
        cut |= boxes[:, 2] >= left + tiling.width - margin_x
    if top + tiling.height < height:
        cut |= boxes[:, 3] >= top + tiling.height - margin_y
    return cut


def _find_covered(boxes: Boxes, cut: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which boxes (K,) are cut and give way to one of the same class that is not."""
    covered = np.zeros(len(boxes), np.bool_)
    whole = boxes[~cut]
    places = np.flatnonzero(cut)
    for start in range(0, len(places), PAIRED_AT_ONCE):
        chunk = places[start : start + PAIRED_AT_ONCE]
        ours = boxes[chunk, None]
        top_left = np.maximum(ours[..., :2], whole[:, :2])
        bottom_right = np.minimum(ours[..., 2:SCORE], whole[:, 2:SCORE])
        shared_sides = (bottom_right - top_left).clip(0)
        sides = boxes[chunk, 2:SCORE] - boxes[chunk, :2]
        areas = np.prod(sides, axis=1)[:, None]
        is_covered = np.prod(shared_sides, axis=2) >= COVERED_SHARE * areas
        is_alike = ours[..., CLASS] == whole[:, CLASS]
        is_sure = whole[:, SCORE] >= LEAST_CONFIDENCE * ours[..., SCORE]
        covered[chunk] = (is_covered & is_alike & is_sure).any(axis=1)
    return covered
