"""Image files, opened as plain RGB whatever they hold.

How an opened image becomes pixels is written once, in `pipeline.serving.image_pixels`,
which registered models carry.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import DataError
from pipeline.records import ImageInputSpec
from pipeline.serving.image_pixels import (
    DECODERS,
    ORIENTATION,
    QUARTER_TURNS,
    Colour,
    find_orientation,
    to_rgb,
    to_square,
)

WHITE = (255, 255, 255)


def open_rgb(
    path: Path, *, background: Colour = WHITE, draft: tuple[int, int] | None = None
) -> Image.Image:
    """An image file as a loaded RGB image, upright as its EXIF data say. Safe to call
    from several threads.

    16-bit grey is scaled to 8 bits, CMYK converted, transparency laid on `background`,
    grey repeated in the three channels; of several frames or pages, the first is taken.

    Args:
        path: the file.
        background: RGB, 0–255.
        draft: (width, height) in pixels that suffice, in the upright image: a JPEG is
            then decoded at 1/2, 1/4 or 1/8 of its size in the DCT, never below these
            (unless the file itself is).

    Raises:
        DataError: the file is missing or cannot be decoded wholly.
    """
    try:
        with quiet(), Image.open(path, formats=DECODERS) as image:
            turn = find_orientation(image)
            if draft is not None:
                image.draft(None, _size_as_stored(draft, turn))
            return to_rgb(image, turn, background)
    except Exception as fault:  # decoders raise nearly anything on broken files
        raise DataError(
            str(path),
            found=f"{type(fault).__name__}: {fault}",
            expected="an image that can be decoded wholly",
            hint="replace or remove the file",
        ) from fault


def decode_square(path: Path, spec: ImageInputSpec) -> NDArray[np.uint8]:
    """An image file as RGB values (resize, resize, 3).

    Raises:
        DataError: the file is missing or cannot be decoded wholly.
    """
    side = spec.resize
    image = open_rgb(path, background=spec.background, draft=(side, side))
    return to_square(image, side, spec.fit, spec.interpolation, spec.background)


def read_orientation(path: Path) -> int:
    """The EXIF orientation that an image file states, 1 to 8, TIFF's own included; 1
    where it cannot be read.
    """
    with quiet():
        try:
            with Image.open(path, formats=DECODERS) as image:
                return int(image.getexif().get(ORIENTATION, 1))
        except Exception:  # broken EXIF data are no reason to refuse the pixels
            return 1


def _size_as_stored(size: tuple[int, int], turn: int) -> tuple[int, int]:
    """The upright image's width and height as they are before it is turned."""
    width, height = size
    if turn in QUARTER_TURNS:
        return height, width
    return width, height


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_before = warnings.catch_warnings()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps Pillow's warnings about odd files from the user; several threads may be
    inside at once.

    `warnings.catch_warnings` alone restores the wrong filters when threads overlap,
    hence the count.
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
