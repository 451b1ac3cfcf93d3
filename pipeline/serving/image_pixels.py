"""Images as pixels: travels with registered models, so it imports nothing else of Thaw.

What becomes of an image depends on its file and the settings alone, in training as in
serving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]  # RGB, 0–255
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

# Every decoder that may ever be asked. Pillow's EPS reader, which runs another program,
# is not among them.
DECODERS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Orientations of images whose width and height change places.
QUARTER_TURNS = (5, 6, 7, 8)
_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def find_orientation(image: Image.Image) -> int:
    """The EXIF orientation still to be applied, 1 to 8; 1 (upright) where the EXIF data
    are absent or broken.
    """
    if image.format == "TIFF":
        return 1  # Pillow turns TIFFs itself while loading
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF data are no reason to refuse the pixels
        return 1


def to_rgb(image: Image.Image, turn: int, background: Colour) -> Image.Image:
    """Loads an opened image wholly and makes it RGB and upright; raises whatever the
    decoder raises.

    More than 8 bits are scaled, transparency is laid on the background, anything else
    is converted.

    Args:
        turn: the orientation, as `find_orientation` gave it before the image was
            loaded.
    """
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        opaque = Image.new("RGBA", layer.size, (*background, 255))
        image = Image.alpha_composite(opaque, layer)
    if image.mode != "RGB":  # which would make a copy
        image = image.convert("RGB")
    if turn in TURNS:
        return image.transpose(TURNS[turn])
    return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, scaled: 0–65535 by its full range, anything wider by
    the range it uses.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    low = float(values.min())
    high = float(values.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scale = 255.0 / max(high - low, 1e-12)
    scaled = np.clip((values - low) * scale + 0.5, 0, 255)
    return Image.fromarray(scaled.astype(np.uint8))


def to_square(
    image: Image.Image, side: int, fit: str, interpolation: str, background: Colour
) -> NDArray[np.uint8]:
    """An RGB image as (side, side, 3) of uint8.

    Args:
        fit: "crop" takes the largest centred square, "squash" changes the ratio of the
            sides, and "pad" shows the whole image on the background.
        interpolation: "bilinear" or "bicubic".
    """
    resample = _RESAMPLING[interpolation]
    if fit == "pad":
        square = _pad(image, side, resample, background)
    elif fit == "crop":
        square = image.resize((side, side), resample, box=_find_centre(image.size))
    else:
        square = image.resize((side, side), resample)
    return np.array(square)


def to_squares(
    images: Sequence[Image.Image], spec: Mapping[str, Any]
) -> NDArray[np.uint8]:
    """RGB images as (N, resize, resize, 3); see `to_square`.

    Args:
        spec: `resize` in pixels, `fit`, `interpolation` and `background`.
    """
    background = tuple(spec["background"])
    return np.stack(
        [
            to_square(
                image, spec["resize"], spec["fit"], spec["interpolation"], background
            )
            for image in images
        ]
    )


def _pad(
    image: Image.Image, side: int, resample: Image.Resampling, background: Colour
) -> Image.Image:
    scale = side / max(image.size)
    width = max(1, round(image.width * scale))
    height = max(1, round(image.height * scale))
    square = Image.new("RGB", (side, side), background)
    left = (side - width) // 2
    top = (side - height) // 2
    square.paste(image.resize((width, height), resample), (left, top))
    return square


def _find_centre(size: tuple[int, int]) -> Box:
    """The largest centred square of an image."""
    width, height = size
    side = min(size)
    left = (width - side) / 2
    top = (height - side) / 2
    return left, top, left + side, top + side


def normalise(pixels: NDArray[np.uint8], spec: dict[str, Any]) -> NDArray[np.float32]:
    """The centres of squares as a network's input, by its mean and standard deviation
    of each channel.

    Args:
        pixels: (N, resize, resize, 3).
        spec: `size` and `resize` in pixels, and `mean` and `std` of values in [0, 1].

    Returns:
        (N, 3, size, size).
    """
    margin = (spec["resize"] - spec["size"]) // 2
    cut = slice(margin, margin + spec["size"])
    centres = pixels[:, cut, cut].transpose(0, 3, 1, 2)
    planes = np.ascontiguousarray(centres, dtype=np.float32)
    mean = np.asarray(spec["mean"], dtype=np.float64)[:, None, None]
    std = np.asarray(spec["std"], dtype=np.float64)[:, None, None]
    scale = 1 / (255 * std)
    offset = mean / std
    planes *= scale.astype(np.float32)
    planes -= offset.astype(np.float32)
    return planes
