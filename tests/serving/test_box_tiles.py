"""Boxes of tiles put together: every object once, whole where a tile sees it whole."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.serving.box_tiles import merge_boxes
from pipeline.serving.tiles import Tiling, find_tiling

WIDTH, HEIGHT, SIDE = 700, 500, 200
Boxes = NDArray[np.float64]


def tiling() -> Tiling:
    return find_tiling(WIDTH, HEIGHT, {"width": SIDE, "height": SIDE, "overlap": 0.25})


def see(objects: Boxes, left: int, top: int) -> Boxes:
    """What a perfect detector answers about a tile: the visible parts of objects (n,
    6), in pixels of the tile.
    """
    seen = objects - np.array([left, top, left, top, 0, 0])
    seen[:, :4] = seen[:, :4].clip(0, SIDE)
    visible: Boxes = seen[((seen[:, 2:4] - seen[:, :2]) > 3).all(axis=1)]
    return visible


def merge(objects: Boxes) -> Boxes:
    cut = tiling()
    found = [
        (left, top, see(objects, left, top)) for top in cut.tops for left in cut.lefts
    ]
    return merge_boxes(found, cut, WIDTH, HEIGHT, 0.5)


def in_order(boxes: Boxes) -> Boxes:
    return boxes[np.lexsort(boxes[:, :2].T)]


@pytest.mark.parametrize("seed", range(5))
def test_objects_no_larger_than_the_overlap_are_found_once_and_whole(seed: int) -> None:
    random = np.random.default_rng(seed)
    grid = np.stack(
        np.meshgrid(np.arange(0, 650, 50), np.arange(0, 450, 50)), axis=2
    ).reshape(-1, 2)
    corners = grid + random.integers(0, 10, grid.shape)
    sides = random.integers(15, 40, grid.shape)
    classes = random.integers(0, 2, len(grid))
    objects = np.column_stack(
        [corners, corners + sides, random.uniform(0.3, 1, len(grid)), classes]
    ).astype(float)
    found = merge(objects)
    assert np.array_equal(in_order(found), in_order(objects))
    assert (np.diff(found[:, 4]) <= 0).all(), "the best come first"


def test_an_object_at_the_pictures_own_edge_is_kept() -> None:
    objects = np.array(
        [[0, 0, 30, 30, 0.9, 0], [WIDTH - 30, HEIGHT - 40, WIDTH, HEIGHT, 0.8, 1]],
        float,
    )
    assert np.array_equal(merge(objects), objects)


def test_a_cut_box_gives_way_to_the_whole_one_even_where_it_is_surer() -> None:
    cut = tiling()
    second = cut.lefts[1]
    # Of which the second tile sees the right part.
    whole = [second - 30.0, 20, second + 40, 60]
    found = [
        (0, 0, np.array([[*whole, 0.6, 0]])),
        (second, 0, np.array([[0, 20, 40, 60, 0.9, 0]])),
    ]
    assert merge_boxes(found, cut, WIDTH, HEIGHT, 0.5)[:, :5].tolist() == [
        [*whole, 0.6]
    ]


@pytest.mark.parametrize(("score", "label"), [(0.2, 0), (0.9, 1)])
def test_neither_an_unsure_box_nor_one_of_another_class_takes_its_place(
    score: float, label: int
) -> None:
    cut = tiling()
    second = cut.lefts[1]
    found = [
        (0, 0, np.array([[second - 30.0, 20, second + 40, 60, score, label]])),
        (second, 0, np.array([[0, 20, 40, 60, 0.9, 0]])),
    ]
    merged = merge_boxes(found, cut, WIDTH, HEIGHT, 0.5)
    assert [second, 20, second + 40, 60, 0.9, 0] in merged.tolist()


def test_an_object_larger_than_a_tile_is_given_in_parts_and_not_lost() -> None:
    found = merge(np.array([[10, 10, 500, 60, 0.9, 0]], float))
    assert len(found) >= 3
    assert found[:, 0].min() == 10
    assert found[:, 2].max() == 500


def test_nothing_found_is_no_box() -> None:
    assert merge(np.empty((0, 6))).shape == (0, 6)
