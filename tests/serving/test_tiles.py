"""Large pictures in tiles: every pixel is answered once, without a seam, and little is
held meanwhile.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.serving.canvas import enlarge_logits, lift_logits
from pipeline.serving.pixel_runs import decode_mask, encode_bands, encode_mask
from pipeline.serving.tiles import Tiling, find_tiling, is_cut, label_bands

LABELS = ("background", "dark", "bright")
Pixels = NDArray[np.uint8]


def random_picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(7).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    return Image.fromarray(values)


def tiles(side: int, overlap: float = 0.25) -> dict[str, Any]:
    return {"width": side, "height": side, "overlap": overlap}


def score_by_channel(cut: Sequence[Image.Image]) -> Iterator[NDArray[np.float32]]:
    """A network whose answer about a pixel follows from that pixel alone."""
    for tile in cut:
        yield np.asarray(tile).transpose(2, 0, 1).astype(np.float32)


def labels_of(picture: Image.Image, tiling: Tiling, score: Any) -> Pixels:
    return np.concatenate(list(label_bands(picture, tiling, score)))


@pytest.mark.parametrize("size", [(97, 131), (200, 40), (33, 300), (160, 160)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("side", [32, 47, 96])
def test_local_answers_are_the_same_whatever_the_tiles(
    size: tuple[int, int], overlap: float, side: int
) -> None:
    picture = random_picture(*size)
    tiling = find_tiling(*size, tiles(side, overlap))
    expected = np.asarray(picture).argmax(axis=2)
    assert np.array_equal(labels_of(picture, tiling, score_by_channel), expected)


@pytest.mark.parametrize("length", [64, 65, 96, 97, 1000, 1001])
def test_neighbours_overlap_by_the_stated_share_or_more(length: int) -> None:
    tiling = find_tiling(length, 64, tiles(64))
    assert tiling.lefts[0] == 0
    assert tiling.lefts[-1] + tiling.width == length
    assert all(
        second - first <= 48
        for first, second in zip(tiling.lefts, tiling.lefts[1:], strict=False)
    )


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_where_one_tile_suffices_the_answer_is_that_of_the_whole_picture(
    fit: str,
) -> None:
    picture = random_picture(90, 60)
    logits = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))

    def score(cut: Sequence[Image.Image]) -> Iterator[NDArray[np.float32]]:
        for tile in cut:
            yield enlarge_logits(logits, tile.width, tile.height, 64, fit).numpy()

    found = labels_of(picture, find_tiling(90, 60, tiles(96)), score)
    assert np.array_equal(found, lift_logits(logits, 90, 60, 64, fit))


def test_what_a_tile_says_near_its_edge_is_outvoted_by_its_neighbour() -> None:
    """A network errs where it sees nothing beyond an edge: no seam is left of that
    inside the picture.
    """

    def score(cut: Sequence[Image.Image]) -> Iterator[NDArray[np.float32]]:
        for tile in cut:
            scores = np.zeros((2, tile.height, tile.width), np.float32)
            scores[0] = 1.0
            inner = scores[:, 4:-4, 4:-4]
            inner[0] = 0.0
            inner[1] = 1.0
            yield scores

    labels = labels_of(
        random_picture(300, 250), find_tiling(300, 250, tiles(64)), score
    )
    assert (labels[4:-4, 4:-4] == 1).all()


def test_from_one_tile_to_the_next_scores_change_slowly() -> None:
    """Tiles that disagree wholly are blended: along the overlap the answer passes from
    one to the other at its middle.
    """
    numbers = iter(range(100))

    def score(cut: Sequence[Image.Image]) -> Iterator[NDArray[np.float32]]:
        for tile in cut:
            scores = np.zeros((2, tile.height, tile.width), np.float32)
            scores[next(numbers) % 2] = 1.0
            yield scores

    labels = labels_of(random_picture(112, 64), find_tiling(112, 64, tiles(64)), score)
    assert (labels[:, :56] == 0).all()
    assert (labels[:, 56:] == 1).all()


def test_only_one_band_of_tiles_is_held() -> None:
    """By what is allocated: the scores of the whole picture would take ten times as
    much.
    """
    classes, side, width, height = 4, 64, 512, 64 * 25
    picture = Image.new("RGB", (width, height))

    def score(cut: Sequence[Image.Image]) -> Iterator[NDArray[np.float32]]:
        for _ in cut:
            yield np.zeros((classes, side, side), np.float32)

    tracemalloc.start()
    rows = sum(
        len(band)
        for band in label_bands(picture, find_tiling(width, height, tiles(side)), score)
    )
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    band_bytes = classes * side * width * 4
    assert rows == height
    assert most < 2 * band_bytes


def test_a_picture_is_cut_from_one_and_a_half_tiles_on_however_it_is_turned() -> None:
    wide = {"width": 640, "height": 480, "overlap": 0.25}
    assert not is_cut(960, 720, wide)
    assert not is_cut(720, 960, wide)
    assert is_cut(961, 480, wide)
    assert is_cut(480, 961, wide)
    assert is_cut(721, 721, wide)
    assert not is_cut(10_000, 10_000, None)


@pytest.mark.parametrize("rows", [1, 3, 7, 20])
def test_runs_of_bands_are_those_of_the_whole_mask(rows: int) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (20, 9), dtype=np.uint8)
    mask[2:5] = 1  # a run over several rows
    bands = [mask[start : start + rows] for start in range(0, 20, rows)]
    assert encode_bands(bands, LABELS) == encode_mask(mask, LABELS)
    assert np.array_equal(decode_mask(encode_bands(bands, LABELS), LABELS, 9, 20), mask)
