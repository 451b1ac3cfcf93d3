"""How image files are called, by their format."""

from __future__ import annotations

from pathlib import PurePosixPath

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c"),
    "AVIF": (".avif",),
}
_ALL = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)


def is_image_name(path: str) -> bool:
    """Whether a file is called like an image, in any case."""
    return PurePosixPath(path).suffix.lower() in _ALL
