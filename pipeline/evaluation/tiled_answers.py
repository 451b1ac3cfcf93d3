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
    from pipeline.serving.tiles import Scores


def find_tiles(candidate: CandidateRecord, width: int, height: int) -> dict[str, Any] | None:
    """The tiles in which a picture of this size is answered; None where it is shown whole."""
    from pipeline.serving.tiles import is_cut

    if candidate.tiles is None:
        return None
    tiles = candidate.tiles.model_dump(mode="json")
    return tiles if is_cut(width, height, tiles) else None


def label_in_tiles(loaded: LoadedCandidate, path: str, tiles: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The class (H, W) of each pixel of a picture, read from its file: the store holds it on one canvas alone.

    Args:
        path: below the data folder.

    Raises:
        DataError: the file is missing or cannot be decoded wholly.
    """
    from pipeline.manifest import real_path
    from pipeline.modalities.image.decoding import open_rgb
    from pipeline.records import image_spec
    from pipeline.serving.tiles import find_tiling, label_bands

    spec = image_spec(loaded.candidate.input)
    picture = open_rgb(real_path(loaded.data, path), background=spec.background)
    tiling = find_tiling(picture.width, picture.height, tiles)
    bands = label_bands(picture, tiling, lambda cut: _score_tiles(loaded, cut))
    return np.concatenate(list(bands))


def _score_tiles(loaded: LoadedCandidate, tiles: Sequence[Image.Image]) -> Iterator[Scores]:
    """Logits (C, height, width) of each tile, which is presented as a whole picture is."""
    import torch

    from pipeline.records import image_spec
    from pipeline.serving.canvas import enlarge_logits
    from pipeline.serving.image_pixels import to_square
    from pipeline.tensors import single_tensor

    spec = image_spec(loaded.candidate.input)
    squares = [to_square(tile, spec.resize, spec.fit, spec.interpolation, spec.background) for tile in tiles]
    output = single_tensor(loaded.output(torch.from_numpy(np.stack(squares))))
    for tile, logits in zip(tiles, output, strict=True):
        enlarged = enlarge_logits(logits, tile.width, tile.height, spec.size, spec.fit)
        yield enlarged.cpu().numpy()
