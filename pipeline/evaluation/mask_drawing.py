"""Truth and answer drawn beside a picture of the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.modalities.image.class_colours import COLOURS
from pipeline.objectives.pixel_targets import IGNORED

if TYPE_CHECKING:
    from PIL import Image

NOT_COUNTED = (128, 128, 128)
OPACITY = 0.55
GAP = 6  # pixels between the three pictures


def draw_masks(path: Path, truth: NDArray[np.uint8], answer: NDArray[np.uint8]) -> None:
    """Makes of a small picture of an example, in place, three: itself, with the truth
    and with the answer laid on it.

    Args:
        path: the picture.
        truth, answer: (H, W) class of each of the example's pixels; the first class is
            not coloured.
    """
    from PIL import Image

    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    shown = [picture, _lay_on(picture, truth), _lay_on(picture, answer)]
    width = 3 * picture.width + 2 * GAP
    strip = Image.new("RGB", (width, picture.height), (255, 255, 255))
    for number, drawn_mask in enumerate(shown):
        strip.paste(drawn_mask, (number * (picture.width + GAP), 0))
    strip.save(path, quality=86, optimize=True)


def _lay_on(picture: Image.Image, mask: NDArray[np.uint8]) -> Image.Image:
    from PIL import Image

    small = np.asarray(
        Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST)
    )
    table = np.zeros((256, 3), np.float32)
    for number in range(1, IGNORED):
        table[number] = COLOURS[(number - 1) % len(COLOURS)]
    table[IGNORED] = NOT_COUNTED
    opacity = np.where(small == 0, 0.0, OPACITY)[..., None]
    mixed = np.asarray(picture) * (1 - opacity) + table[small] * opacity
    return Image.fromarray(mixed.astype(np.uint8))
