"""Large pictures answered in tiles, as the served model answers them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.evaluation.predict import LoadedCandidate
    from pipeline.records import CandidateRecord
    from pipeline.serving.tiles import Scores, Tiling
    from pipeline.tensors import Batch


def find_tiles(
    candidate: CandidateRecord, width: int, height: int
) -> dict[str, Any] | None:
    """The tiles in which a picture of this size is answered; None where it is shown
    whole.
    """
    from pipeline.serving.tiles import is_cut

    if candidate.tiles is None:
        return None
    tiles = candidate.tiles.model_dump(mode="json")
    return tiles if is_cut(width, height, tiles) else None


def label_in_tiles(
    loaded: LoadedCandidate, path: str, tiles: Mapping[str, Any]
) -> NDArray[np.uint8]:
    """The class (H, W) of each pixel of a picture, read from its file: the store holds
    it on one canvas alone.

    Args:
        path: below the data folder.

    Raises:
        DataError: the file is missing or cannot be decoded wholly.
    """
    from pipeline.serving.tiles import label_bands

    picture, tiling = _open_picture(loaded, path, tiles)
    return np.concatenate(
        list(label_bands(picture, tiling, lambda cut: _score_tiles(loaded, cut)))
    )


def detect_in_tiles(
    loaded: LoadedCandidate, path: str, tiles: Mapping[str, Any]
) -> NDArray[np.float64]:
    """The boxes (K, 6) of a picture, best first: left, top, right, bottom in its
    pixels, score, class. Read from its file.

    Args:
        path: below the data folder.

    Raises:
        DataError: the file is missing or cannot be decoded wholly.
    """
    from pipeline.serving.box_tiles import merge_boxes
    from pipeline.serving.tiles import answer_tiles

    picture, tiling = _open_picture(loaded, path, tiles)
    tile_boxes = answer_tiles(picture, tiling, lambda cut: _find_boxes(loaded, cut))
    most_overlap = loaded.candidate.design["overlap_threshold"]
    return merge_boxes(tile_boxes, tiling, picture.width, picture.height, most_overlap)


def _open_picture(
    loaded: LoadedCandidate, path: str, tiles: Mapping[str, Any]
) -> tuple[Image.Image, Tiling]:
    """A picture of a file, and how it is cut."""
    from pipeline.manifest import real_path
    from pipeline.modalities.image.decoding import open_rgb
    from pipeline.records import image_spec
    from pipeline.serving.tiles import find_tiling

    background = image_spec(loaded.candidate.input).background
    picture = open_rgb(real_path(loaded.data, path), background=background)
    return picture, find_tiling(picture.width, picture.height, tiles)


def _score_tiles(
    loaded: LoadedCandidate, tiles: Sequence[Image.Image]
) -> Iterator[Scores]:
    """Logits (C, height, width) of each tile."""
    from pipeline.records import image_spec
    from pipeline.serving.canvas import enlarge_logits
    from pipeline.tensors import single_tensor

    spec = image_spec(loaded.candidate.input)
    for tile, logits in zip(tiles, single_tensor(_run(loaded, tiles)), strict=True):
        enlarged = enlarge_logits(logits, tile.width, tile.height, spec.size, spec.fit)
        yield enlarged.cpu().numpy()


def _find_boxes(
    loaded: LoadedCandidate, tiles: Sequence[Image.Image]
) -> Iterator[NDArray[np.float64]]:
    """The boxes (k, 6) of each tile, in its own pixels."""
    from pipeline.modalities.image.canvas import lift_boxes
    from pipeline.objectives.box_matching import list_answers
    from pipeline.records import image_spec

    spec = image_spec(loaded.candidate.input)
    answers = loaded.task.scorer.answers(loaded.model, _run(loaded, tiles), None)
    for tile, answer in zip(
        tiles, list_answers(answers.double().cpu().numpy()), strict=True
    ):
        yield lift_boxes(answer, tile.width, tile.height, spec)


def _run(loaded: LoadedCandidate, tiles: Sequence[Image.Image]) -> Batch:
    """What the network gives for tiles, each presented as a whole picture is."""
    import torch

    from pipeline.records import image_spec
    from pipeline.serving.image_pixels import to_squares

    spec = image_spec(loaded.candidate.input)
    return loaded.output(
        torch.from_numpy(to_squares(tiles, spec.model_dump(mode="json")))
    )
