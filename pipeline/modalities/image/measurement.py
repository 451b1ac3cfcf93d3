"""Image files at intake: measured, or refused with the reason."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

import imagehash
from PIL import Image, UnidentifiedImageError

from pipeline.data.files import outside
from pipeline.examples import (
    ColumnExpectation,
    ExampleError,
    ExampleFault,
    MeasuredExample,
)
from pipeline.manifest import real_path
from pipeline.modalities.image import decoding
from pipeline.modalities.image.file_types import SUFFIXES
from pipeline.modalities.image.settings import ImageIntakeConfig
from pipeline.serving import image_pixels

_REPLACE = "replace or remove the file"
_BEGINNINGS = (
    (b"%!PS", "an EPS file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"%PDF", "a PDF file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
)


def measure_image(
    root: Path, path: str, intake: ImageIntakeConfig
) -> MeasuredExample | ExampleFault:
    """Opens one image file, decodes it wholly and measures it.

    Everything the header tells is checked before a pixel is decoded, and what the file
    is goes by its content. Measured: format, mode, width and height (upright, pixels),
    bytes, brightness and contrast (mean and standard deviation of luma, 0–255), detail
    (entropy of the luma histogram, bits per pixel), phash (the perceptual hash of
    imagehash, 64 bits as 16 hex digits), converted (as `MeasuredExample.converted`,
    joined by commas).

    Args:
        root: the data folder.
        path: the file below it, as the manifest writes it.
        intake: what is accepted.

    Returns:
        What was measured, or the fault; no broken file raises.
    """
    identity = None
    try:
        content = _read_file(root, path, intake)
        identity = hashlib.md5(content, usedforsecurity=False).hexdigest()
        with decoding.quiet():
            return _measure_content(content, path, identity, intake)
    except ExampleError as fault:
        return fault.of(path, identity)


def _read_file(root: Path, path: str, intake: ImageIntakeConfig) -> bytes:
    fault_of_path = outside(root, path)
    if fault_of_path:
        raise ExampleError(*fault_of_path)
    try:
        file = real_path(root, path)
        _check_status(file.stat(), intake)
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ExampleError(
            "missing", "no such file", "a file", "add the file, or take it off the list"
        ) from None
    except (OSError, ValueError) as fault:
        found = _describe_fault(fault)
        raise ExampleError(
            "unreadable", found, "a readable file", "check its permissions and disk"
        ) from fault


def _check_status(status: os.stat_result, intake: ImageIntakeConfig) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ExampleError(
            "not-a-file", "a folder, pipe or device", "a file", "remove it"
        )
    if status.st_size == 0:
        raise ExampleError("empty", "0 bytes", "an image", _REPLACE)
    if status.st_size > intake.max_bytes:
        raise ExampleError(
            "too-large",
            f"{status.st_size} bytes",
            f"at most {intake.max_bytes} (task.intake.max_bytes)",
            "save it smaller, or raise task.intake.max_bytes",
        )


def _measure_content(
    data: bytes, path: str, identity: str, intake: ImageIntakeConfig
) -> MeasuredExample:
    try:
        values, converted = _decode_and_measure(data, path, intake)
    except ExampleError:
        raise
    except MemoryError as fault:
        raise ExampleError(
            "out-of-memory",
            "not enough memory to decode it",
            "an image that fits in memory",
            "save it smaller, or lower task.intake.max_pixels",
        ) from fault
    except Exception as fault:  # decoders raise nearly anything on broken files: ValueError, SyntaxError, struct.error…
        is_cut = isinstance(fault, EOFError) or re.search(
            "truncat|end of", str(fault), re.IGNORECASE
        )
        code = "truncated" if is_cut else "undecodable"
        raise ExampleError(
            code,
            _describe_fault(fault),
            "an image that can be decoded wholly",
            _REPLACE,
        ) from fault
    doubt = _find_doubt(path, identity, values["detail"], intake)
    return MeasuredExample(identity, values, converted, doubt)


def _decode_and_measure(
    data: bytes, path: str, intake: ImageIntakeConfig
) -> tuple[dict[str, Any], tuple[str, ...]]:
    with _open(data, intake) as image:
        _check_header(image, intake)
        turn = image_pixels.find_orientation(image)
        converted = _list_conversions(image, turn, path)
        image_format = _format_of(image)
        mode = image.mode
        rgb = image_pixels.to_rgb(image, turn, intake.background)
    # Decoding passes over the checksums that would betray a flipped byte.
    if image_format == "PNG":
        with _open(data, intake) as image:
            image.verify()
    values = _measure_luma(rgb.convert("L"))
    values["width"] = rgb.width
    values["height"] = rgb.height
    values["bytes"] = len(data)
    values["format"] = image_format
    values["mode"] = mode
    values["converted"] = ",".join(converted)
    return values, converted


def _open(data: bytes, intake: ImageIntakeConfig) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=intake.formats)
    except Image.DecompressionBombError as fault:
        raise _too_many_pixels(_describe_fault(fault), intake) from fault
    except UnidentifiedImageError as fault:
        raise _not_accepted(data, intake) from fault


def _not_accepted(data: bytes, intake: ImageIntakeConfig) -> ExampleError:
    allowed = ", ".join(intake.formats)
    kind = _describe_content(data)
    if kind in image_pixels.DECODERS:
        hint = f"save it in one of those formats, or add {kind} to task.intake.formats"
        return ExampleError("format", f"a {kind} file", f"one of {allowed}", hint)
    return ExampleError("not-an-image", kind, f"an image: {allowed}", _REPLACE)


def _check_header(image: Image.Image, intake: ImageIntakeConfig) -> None:
    width, height = image.size
    size = f"{width} × {height} pixels"
    if width * height > intake.max_pixels:
        raise _too_many_pixels(size, intake)
    if min(width, height) < intake.min_side:
        expected = (
            f"a shorter side of at least {intake.min_side} (task.intake.min_side)"
        )
        raise ExampleError(
            "too-small", size, expected, "replace it, or lower task.intake.min_side"
        )
    if max(width, height) > intake.max_aspect * min(width, height):
        expected = f"sides that differ at most {intake.max_aspect:g}-fold (task.intake.max_aspect)"
        raise ExampleError(
            "aspect", size, expected, "crop it, or raise task.intake.max_aspect"
        )
    # A phone's MPO file is a JPEG with previews behind it: the first image is the
    # photo.
    is_animated = image.format != "MPO" and getattr(image, "is_animated", False)
    if intake.animated == "reject" and is_animated:
        raise ExampleError(
            "animated",
            "several frames or pages",
            "one (task.intake.animated)",
            "save the one that counts, or set task.intake.animated: first-frame",
        )


def _too_many_pixels(found: str, intake: ImageIntakeConfig) -> ExampleError:
    return ExampleError(
        "too-many-pixels",
        found,
        f"at most {intake.max_pixels} pixels (task.intake.max_pixels)",
        "save it smaller, or raise task.intake.max_pixels if you trust it",
    )


def _list_conversions(image: Image.Image, turn: int, path: str) -> tuple[str, ...]:
    """What must be changed about an opened image to make it upright RGB of 8 bits, in
    words.
    """
    # Pillow hides that a colour PNG or TIFF has 16 bits a channel: only the raw mode of
    # its tiles tells.
    tile = getattr(image, "tile", None)
    raw = str(tile[0][3]) if tile else ""
    # Pillow turns a TIFF itself while loading, see `find_orientation`.
    tiff_turn = 1
    if image.format == "TIFF":
        tiff_turn = image.getexif().get(image_pixels.ORIENTATION, 1)
    is_16_bit_grey = image.mode.startswith("I;16")
    kinds = {
        "exif-rotated": turn in image_pixels.TURNS or tiff_turn in image_pixels.TURNS,
        "cmyk": image.mode == "CMYK",
        "16-bit": is_16_bit_grey or (";16" in raw and "BGR" not in raw),
        "32-bit": image.mode in ("I", "F"),
        "alpha": image.has_transparency_data,
        "grey": is_16_bit_grey or image.mode in ("1", "L", "LA", "La", "I", "F"),
        "first-frame": bool(getattr(image, "is_animated", False)),
        "extension": not path.lower().endswith(SUFFIXES[_format_of(image)]),
    }
    return tuple(kind for kind, applies in kinds.items() if applies)


def _format_of(image: Image.Image) -> str:
    name = image.format or ""
    return {"MPO": "JPEG", "DIB": "BMP"}.get(name, name)


def _measure_luma(grey: Image.Image) -> dict[str, Any]:
    # From the histogram, in exact integers, so that every CPU gets the same digits.
    counts = grey.histogram()
    pixels = sum(counts)
    total = 0
    squares = 0
    for level, count in enumerate(counts):
        total += level * count
        squares += level * level * count
    variance = (squares * pixels - total * total) / (pixels * pixels)
    present = [count for count in counts if count]
    entropy = sum(-count / pixels * math.log2(count / pixels) for count in present)
    return {
        "brightness": round(total / pixels, 3),
        "contrast": round(math.sqrt(variance), 3),
        "detail": round(entropy, 3) + 0.0,
        "phash": str(imagehash.phash(grey)),
    }


def _find_doubt(
    path: str, identity: str, detail: float, intake: ImageIntakeConfig
) -> ExampleFault | None:
    if detail >= intake.min_detail:
        return None
    return ExampleFault(
        path,
        "no-detail",
        f"nearly empty: {detail:g} bits per pixel, as of a placeholder or a blank frame",
        f"at least {intake.min_detail:g} (task.intake.min_detail)",
        "remove it, or lower task.intake.min_detail if it belongs",
        identity,
    )


def _describe_content(data: bytes) -> str:
    """What a file is that none of the allowed decoders knows, in words or as one of the
    decoders' names.
    """
    with (
        contextlib.suppress(Exception),
        Image.open(io.BytesIO(data), formats=image_pixels.DECODERS) as image,
    ):
        return _format_of(image)
    beginning = data[:512].lstrip()
    for magic, name in _BEGINNINGS:
        if beginning.startswith(magic):
            return name
    if re.match(rb"<(!doctype html|html)", beginning, re.IGNORECASE):
        return "a web page (HTML)"
    if _is_text(beginning):
        return "text: " + repr(beginning[:40].decode("utf-8", "replace"))
    return "no known format, beginning " + data[:8].hex(" ")


def _is_text(beginning: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in beginning)


def _describe_fault(fault: BaseException) -> str:
    words = f"{type(fault).__name__}: {fault}".split()
    text = " ".join(words)
    encoded = text.encode("utf-8", "replace")
    return encoded.decode()


def list_expectations(intake: ImageIntakeConfig) -> tuple[ColumnExpectation, ...]:
    """What the measured columns of every accepted image satisfy."""
    longest_side = intake.max_pixels / intake.min_side
    return (
        ColumnExpectation("format", values=intake.formats),
        ColumnExpectation("width", low=intake.min_side, high=longest_side),
        ColumnExpectation("height", low=intake.min_side, high=longest_side),
        ColumnExpectation("bytes", low=1, high=intake.max_bytes),
        ColumnExpectation("brightness", low=0, high=255),
    )
