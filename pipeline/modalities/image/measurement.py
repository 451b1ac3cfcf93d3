"""Image files at intake: measured, or refused with the reason."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
import stat
from pathlib import Path
from typing import Any

import imagehash
from PIL import Image, UnidentifiedImageError

from pipeline.data.files import outside
from pipeline.examples import ColumnExpectation, ExampleFault, MeasuredExample
from pipeline.manifest import real_path
from pipeline.modalities.image import decoding
from pipeline.modalities.image.settings import ImageIntakeConfig

_SUFFIXES = {
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
_REPLACE = "replace or remove the file"


class _Unusable(Exception):
    """A fault's code, found, expected and hint, on the way out of the checks."""


def measure(root: Path, path: str, intake: ImageIntakeConfig) -> MeasuredExample | ExampleFault:
    """Opens one image file, decodes it wholly and measures it.

    Everything the header tells is checked before a pixel is decoded, and what the file is goes by its content.
    Measured: format, mode, width and height (upright, pixels), bytes, brightness and contrast (mean and standard
    deviation of luma, 0–255), detail (entropy of the luma histogram, bits per pixel), phash (the perceptual hash of
    imagehash, 64 bits as 16 hex digits), converted (as `Measured.converted`, joined by commas).

    Args:
        root: the data folder.
        path: the file below it, as the manifest writes it.
        intake: what is accepted.

    Returns:
        What was measured, or the fault; no broken file raises.
    """
    identity = None
    try:
        data = _read(root, path, intake)
        identity = hashlib.md5(data, usedforsecurity=False).hexdigest()
        with decoding.quiet():
            return _measure(data, path, identity, intake)
    except _Unusable as fault:
        code, found, expected, hint = fault.args
        return ExampleFault(path, code, found, expected, hint, identity)


def _read(root: Path, path: str, intake: ImageIntakeConfig) -> bytes:
    reason = outside(root, path)
    if reason:
        raise _Unusable(*reason)
    try:
        file = real_path(root, path)
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _Unusable("not-a-file", "a folder, pipe or device", "a file", "remove it")
        if status.st_size == 0:
            raise _Unusable("empty", "0 bytes", "an image", _REPLACE)
        if status.st_size > intake.max_bytes:
            raise _Unusable(
                "too-large", f"{status.st_size} bytes", f"at most {intake.max_bytes} (task.intake.max_bytes)",
                "save it smaller, or raise task.intake.max_bytes",
            )  # fmt: skip
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise _Unusable("missing", "no such file", "a file", "add the file, or take it off the list") from None
    except (OSError, ValueError) as fault:
        raise _Unusable("unreadable", _reason(fault), "a readable file", "check its permissions and disk") from fault


def _measure(data: bytes, path: str, identity: str, intake: ImageIntakeConfig) -> MeasuredExample:
    try:
        with _open(data, intake) as image:
            _check_header(image, intake)
            turn = decoding.orientation(image)
            converted = _conversions(image, turn, path, intake)
            format_, mode = _format(image), image.mode
            rgb = decoding.as_rgb(image, turn, intake.background)
        if format_ == "PNG":  # decoding passes over the checksums that would betray a flipped byte
            with _open(data, intake) as image:
                image.verify()
        values = _luma(rgb.convert("L")) | {"width": rgb.width, "height": rgb.height, "bytes": len(data)}
        values |= {"format": format_, "mode": mode, "converted": ",".join(converted)}
    except _Unusable:
        raise
    except MemoryError as fault:
        raise _Unusable(
            "out-of-memory", "not enough memory to decode it", "an image that fits in memory",
            "save it smaller, or lower task.intake.max_pixels",
        ) from fault  # fmt: skip
    except Exception as fault:  # decoders raise nearly anything on broken files: ValueError, SyntaxError, struct.error…
        cut = isinstance(fault, EOFError) or re.search("truncat|end of", str(fault), re.IGNORECASE)
        raise _Unusable(
            "truncated" if cut else "undecodable", _reason(fault), "an image that can be decoded wholly", _REPLACE
        ) from fault
    return MeasuredExample(identity, values, converted, _doubt(path, identity, values["detail"], intake))


def _open(data: bytes, intake: ImageIntakeConfig) -> Image.Image:
    allowed = ", ".join(intake.formats)
    try:
        return Image.open(io.BytesIO(data), formats=intake.formats)
    except Image.DecompressionBombError as fault:
        raise _too_many_pixels(_reason(fault), intake) from fault
    except UnidentifiedImageError as fault:
        found = _describe(data)
        if found in decoding.DECODERS:
            hint = f"save it in one of those formats, or add {found} to task.intake.formats"
            raise _Unusable("format", f"a {found} file", f"one of {allowed}", hint) from fault
        raise _Unusable("not-an-image", found, f"an image: {allowed}", _REPLACE) from fault


def _check_header(image: Image.Image, intake: ImageIntakeConfig) -> None:
    width, height = image.size
    size = f"{width} × {height} pixels"
    if width * height > intake.max_pixels:
        raise _too_many_pixels(size, intake)
    if min(width, height) < intake.min_side:
        expected = f"a shorter side of at least {intake.min_side} (task.intake.min_side)"
        raise _Unusable("too-small", size, expected, "replace it, or lower task.intake.min_side")
    if max(width, height) > intake.max_aspect * min(width, height):
        expected = f"sides that differ at most {intake.max_aspect:g}-fold (task.intake.max_aspect)"
        raise _Unusable("aspect", size, expected, "crop it, or raise task.intake.max_aspect")
    # A phone's MPO file is a JPEG with previews behind it: the first image is the photo.
    if intake.animated == "reject" and image.format != "MPO" and getattr(image, "is_animated", False):
        raise _Unusable(
            "animated", "several frames or pages", "one (task.intake.animated)",
            "save the one that counts, or set task.intake.animated: first-frame",
        )  # fmt: skip


def _too_many_pixels(found: str, intake: ImageIntakeConfig) -> _Unusable:
    return _Unusable(
        "too-many-pixels", found, f"at most {intake.max_pixels} pixels (task.intake.max_pixels)",
        "save it smaller, or raise task.intake.max_pixels if you trust it",
    )  # fmt: skip


def _conversions(image: Image.Image, turn: int, path: str, intake: ImageIntakeConfig) -> tuple[str, ...]:
    # Pillow hides that a colour PNG or TIFF has 16 bits a channel: only the raw mode of its tiles tells.
    tile = getattr(image, "tile", None)
    raw = str(tile[0][3]) if tile else ""
    # Pillow turns a TIFF itself while loading, see `orientation`.
    tiff_turn = image.getexif().get(decoding.ORIENTATION, 1) if image.format == "TIFF" else 1
    kinds = {
        "exif-rotated": turn in decoding.TURNS or tiff_turn in decoding.TURNS,
        "cmyk": image.mode == "CMYK",
        "16-bit": image.mode.startswith("I;16") or (";16" in raw and "BGR" not in raw),
        "32-bit": image.mode in ("I", "F"),
        "alpha": image.has_transparency_data,
        "grey": image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16"),
        "first-frame": bool(getattr(image, "is_animated", False)),
        "extension": not path.lower().endswith(_SUFFIXES[_format(image)]),
    }
    return tuple(kind for kind, applies in kinds.items() if applies)


def _format(image: Image.Image) -> str:
    name = image.format or ""
    return {"MPO": "JPEG", "DIB": "BMP"}.get(name, name)


def _luma(grey: Image.Image) -> dict[str, Any]:
    # From the histogram, in exact integers, so that every CPU gets the same digits.
    counts = grey.histogram()
    pixels = sum(counts)
    total = sum(level * count for level, count in enumerate(counts))
    squares = sum(level * level * count for level, count in enumerate(counts))
    variance = (squares * pixels - total * total) / (pixels * pixels)
    entropy = sum(-count / pixels * math.log2(count / pixels) for count in counts if count)
    return {
        "brightness": round(total / pixels, 3),
        "contrast": round(math.sqrt(variance), 3),
        "detail": round(entropy, 3) + 0.0,
        "phash": str(imagehash.phash(grey)),
    }


def _doubt(path: str, identity: str, detail: float, intake: ImageIntakeConfig) -> ExampleFault | None:
    if detail >= intake.min_detail:
        return None
    return ExampleFault(
        path, "no-detail", f"nearly empty: {detail:g} bits per pixel, as of a placeholder or a blank frame",
        f"at least {intake.min_detail:g} (task.intake.min_detail)",
        "remove it, or lower task.intake.min_detail if it belongs", identity,
    )  # fmt: skip


def _describe(data: bytes) -> str:
    """What a file is that none of the allowed decoders knows, in words or as one of the decoders' names."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=decoding.DECODERS) as image:
        return _format(image)
    head = data[:512].lstrip()
    for magic, name in ((b"%!PS", "an EPS file"), (b"\xc5\xd0\xd3\xc6", "an EPS file"), (b"%PDF", "a PDF file"),
                        (b"PK\x03\x04", "a ZIP archive"), (b"\x1f\x8b", "a gzip archive")):  # fmt: skip
        if head.startswith(magic):
            return name
    if re.match(rb"<(!doctype html|html)", head, re.IGNORECASE):
        return "a web page (HTML)"
    if b"\0" not in head and all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "text: " + repr(head[:40].decode("utf-8", "replace"))
    return "no known format, beginning " + data[:8].hex(" ")


def _reason(fault: BaseException) -> str:
    return " ".join(f"{type(fault).__name__}: {fault}".split()).encode("utf-8", "replace").decode()


def expectations(intake: ImageIntakeConfig) -> tuple[ColumnExpectation, ...]:
    """What the measured columns of every accepted image satisfy."""
    return (
        ColumnExpectation("format", values=intake.formats),
        ColumnExpectation("width", low=intake.min_side, high=intake.max_pixels / intake.min_side),
        ColumnExpectation("height", low=intake.min_side, high=intake.max_pixels / intake.min_side),
        ColumnExpectation("bytes", low=1, high=intake.max_bytes),
        ColumnExpectation("brightness", low=0, high=255),
    )
