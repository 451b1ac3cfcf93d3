"""Image files, opened as plain RGB whatever they hold."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import DataError

# Every decoder that may ever be asked. Pillow's EPS reader, which runs another program, is not among them.
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


def open_rgb(
    path: Path, *, background: tuple[int, int, int] = (255, 255, 255), draft: tuple[int, int] | None = None
) -> Image.Image:
    """An image file as a loaded RGB image, upright as its EXIF data say. Safe to call from several threads.

    16-bit grey is scaled to 8 bits, CMYK converted, transparency laid on `background`, grey repeated in the three
    channels; of several frames or pages, the first is taken.

    Args:
        path: the file.
        background: RGB, 0–255.
        draft: (width, height) in pixels that suffice, in the upright image: a JPEG is then decoded at 1/2, 1/4 or
            1/8 of its size in the DCT, never below these (unless the file itself is).

    Raises:
        DataError: the file is missing or cannot be decoded wholly.
    """
    try:
        with quiet(), Image.open(path, formats=DECODERS) as image:
            turn = orientation(image)
            if draft is not None:
                # Before the image is turned, its width is the upright image's height for these four.
                image.draft(None, (draft[1], draft[0]) if turn in (5, 6, 7, 8) else draft)
            return as_rgb(image, turn, background)
    except Exception as fault:  # decoders raise nearly anything on broken files
        raise DataError(
            str(path), found=f"{type(fault).__name__}: {fault}", expected="an image that can be decoded wholly",
            hint="replace or remove the file",
        ) from fault  # fmt: skip


def as_rgb(image: Image.Image, turn: int, background: tuple[int, int, int]) -> Image.Image:
    """Loads an opened image wholly and makes it RGB and upright; raises whatever the decoder raises."""
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    rgb = image.convert("RGB") if image.mode != "RGB" else image.copy()
    return rgb.transpose(TURNS[turn]) if turn in TURNS else rgb


def orientation(image: Image.Image) -> int:
    """The EXIF orientation still to be applied, 1 to 8; 1 (upright) where the EXIF data are absent or broken."""
    if image.format == "TIFF":
        return 1  # Pillow turns TIFFs itself while loading
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF data are no reason to refuse the pixels
        return 1


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, scaled: 0–65535 by its full range, anything wider by the range it uses."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scaled = np.clip((values - low) * (255.0 / max(high - low, 1e-12)) + 0.5, 0, 255)
    return Image.fromarray(scaled.astype(np.uint8))


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_before = warnings.catch_warnings()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps Pillow's warnings about odd files from the user; several threads may be inside at once.

    `warnings.catch_warnings` alone restores the wrong filters when threads overlap, hence the count.
    """
    global _quiet_depth, _quiet_before
    with _quiet_lock:
        if not _quiet_depth:
            _quiet_before = warnings.catch_warnings()
            _quiet_before.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if not _quiet_depth:
                _quiet_before.__exit__(None, None, None)
