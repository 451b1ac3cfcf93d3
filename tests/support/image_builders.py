"""Image files for tests: good ones with detail enough to pass, and every kind of bad
one.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32


def picture(
    seed: int = 0, size: tuple[int, int] = (SIDE, SIDE), mode: str = "RGB"
) -> Image.Image:
    """Coloured noise: every seed another content."""
    noise = np.random.default_rng(seed).integers(
        0, 256, (size[1], size[0], 3), dtype=np.uint8
    )
    return Image.fromarray(noise).convert(mode)


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def save(path: Path, data: bytes | None = None, seed: int = 0) -> Path:
    """Writes a file and the folders above it; a PNG of `seed` where no bytes are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(seed), "PNG") if data is None else data)
    return path


def dataset(
    root: Path,
    classes: tuple[str, ...] = ("cat", "dog"),
    each: int = 12,
    first: int = 0,
) -> Path:
    """Class folders of small PNGs, all of different content."""
    for label in classes:
        for number in range(first, first + each):
            save(
                root / label / f"{label}{number:04d}.png",
                seed=zlib.crc32(f"{label}{number}".encode()),
            )
    return root


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data))
            + kind
            + data
            + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def frames(format_: str, count: int = 3) -> bytes:
    pictures = [picture(seed) for seed in range(count)]
    return encoded(pictures[0], format_, save_all=True, append_images=pictures[1:])


def placeholder(size: int = 300) -> Image.Image:
    """A grey card with a line of dark strokes, as web shops show for a missing
    photograph.
    """
    pixels = np.full((size, size, 3), 246, dtype=np.uint8)
    pixels[size // 3 : size // 3 + 20, 60:-60:6] = 60
    return Image.fromarray(pixels)
