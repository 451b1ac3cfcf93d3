"""Pictures much larger than those that a network learnt from: cut into tiles that
overlap, and answered band by band.

The overlap-tile strategy of Ronneberger, Fischer and Brox (2015, "U-Net", section 2 and
figure 2), in which neighbouring tiles see some of each other's pixels. Where they
overlap, their scores are averaged, weighted by how far a pixel lies from its tile's
edge (a linear ramp), so that no seam is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CUT_FROM = 1.5  # a picture larger than so many tiles is cut
AT_ONCE = 8  # tiles that the network is shown together

Scores = NDArray[np.float32]
T = TypeVar("T")
# Some tiles, at most `AT_ONCE` → an answer to each.
AnswerTiles = Callable[[Sequence[Image.Image]], Iterable[T]]


class Tiling(NamedTuple):
    """How a picture is cut: a tile at each of `lefts` in each band of `tops`.

    Args:
        width, height: of every tile, in pixels of the picture.
        lefts, tops: where tiles begin, rising; the first at 0, the last tile ends where
            the picture does.
        ramp_x, ramp_y: pixels from a tile's edge within which its scores count less.
    """

    width: int
    height: int
    lefts: tuple[int, ...]
    tops: tuple[int, ...]
    ramp_x: int
    ramp_y: int


def is_cut(width: int, height: int, tiles: Mapping[str, Any] | None) -> bool:
    """Whether a picture is answered in tiles: its longer side is more than `CUT_FROM`
    times the longer one of a tile, or its shorter side that many times the shorter one.

    Args:
        width, height: of the picture in pixels, upright or not.
        tiles: `width`, `height` and `overlap`; None where every picture is shown whole.
    """
    if tiles is None:
        return False
    longer_side = float(max(tiles["width"], tiles["height"]))
    shorter_side = float(min(tiles["width"], tiles["height"]))
    if max(width, height) > CUT_FROM * longer_side:
        return True
    return min(width, height) > CUT_FROM * shorter_side


def find_tiling(width: int, height: int, tiles: Mapping[str, Any]) -> Tiling:
    """Where the tiles of a picture lie: evenly spread, overlapping by `overlap` of
    their side or more.

    Args:
        width, height: of the picture in pixels.
        tiles: `width` and `height` in pixels of the picture, and `overlap`, the share
            of a side, from 0 to 0.5.
    """
    tile_width = min(tiles["width"], width)
    tile_height = min(tiles["height"], height)
    return Tiling(
        tile_width,
        tile_height,
        _spread(width, tile_width, tiles["overlap"]),
        _spread(height, tile_height, tiles["overlap"]),
        max(1, round(tile_width * tiles["overlap"])),
        max(1, round(tile_height * tiles["overlap"])),
    )


def _spread(length: int, tile: int, overlap: float) -> tuple[int, ...]:
    """Where tiles begin along one side."""
    room = length - tile
    step = max(1.0, tile * (1 - overlap))
    steps = math.ceil(room / step)
    if steps == 0:
        return (0,)
    return tuple(round(number * room / steps) for number in range(steps + 1))


def answer_tiles(
    picture: Image.Image, tiling: Tiling, answer: AnswerTiles[T]
) -> Iterator[tuple[int, int, T]]:
    """Every tile of a picture: where it begins (left, top), and the answer to it."""
    for top in tiling.tops:
        for left, tile_answer in _answer_row(picture, tiling, top, answer):
            yield left, top, tile_answer


def label_bands(
    picture: Image.Image, tiling: Tiling, score_tiles: AnswerTiles[Scores]
) -> Iterator[NDArray[np.uint8]]:
    """The likeliest class of each pixel of a picture, as bands of rows (rows, width)
    from top to bottom.

    Besides the picture, only the scores of one band of tiles are held: classes × tile
    height × picture width.

    Args:
        picture: an RGB image.
        score_tiles: gives the scores (classes, tile height, tile width) of each tile:
            logits, or anything else of which a weighted sum can be compared between the
            classes of a pixel.
    """
    weights = np.outer(
        _ramp(tiling.height, tiling.ramp_y), _ramp(tiling.width, tiling.ramp_x)
    )
    band: Scores | None = None
    ends = [*tiling.tops[1:], picture.height]
    for top, end in zip(tiling.tops, ends, strict=True):
        for left, scores in _answer_row(picture, tiling, top, score_tiles):
            if band is None:
                band = np.zeros((len(scores), tiling.height, picture.width), np.float32)
            band[:, :, left : left + tiling.width] += scores * weights
        assert band is not None  # there is a tile in every row
        finished = end - top
        yield _find_likeliest(band[:, :finished])
        _move_up(band, finished)


def _answer_row(
    picture: Image.Image, tiling: Tiling, top: int, answer: AnswerTiles[T]
) -> Iterator[tuple[int, T]]:
    """The tiles of a row: where each begins, and the answer to it."""
    for start in range(0, len(tiling.lefts), AT_ONCE):
        lefts = tiling.lefts[start : start + AT_ONCE]
        cut = []
        for left in lefts:
            cut.append(
                picture.crop((left, top, left + tiling.width, top + tiling.height))
            )
        yield from zip(lefts, answer(cut), strict=True)


def _find_likeliest(scores: Scores) -> NDArray[np.uint8]:
    """The class (rows, width) with the highest score, the first of equal ones: `argmax`
    without its copies.
    """
    highest = scores[0].copy()
    classes = np.zeros(highest.shape, np.uint8)
    for number in range(1, len(scores)):
        classes[scores[number] > highest] = number
        np.maximum(highest, scores[number], out=highest)
    return classes


def _ramp(length: int, ramp: int) -> NDArray[np.float32]:
    """What a tile's pixels (length,) count along one side: 1, and less within `ramp` of
    its edges.
    """
    inner = np.arange(length) + 0.5
    from_edge = np.minimum(inner, length - inner)
    shares = np.minimum(from_edge / ramp, 1)
    weights: NDArray[np.float32] = shares.astype(np.float32)
    return weights


def _move_up(band: Scores, finished: int) -> None:
    """Lets go of the finished rows; what the next row of tiles adds to moves to their
    place.
    """
    kept = band.shape[1] - finished
    for scores in band:
        scores[:kept] = scores[finished:].copy()
    band[:, kept:] = 0
