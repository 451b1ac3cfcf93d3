"""Masks: image files whose pixels say which class the picture shows there."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.errors import DataError
from pipeline.examples import ExampleFault, MeasuredExample
from pipeline.modalities.image.annotations.faults import (
    AnnotationError,
    read_annotation,
)
from pipeline.modalities.image.annotations.settings import MaskValues
from pipeline.modalities.image.decoding import quiet
from pipeline.serving.image_pixels import DECODERS, TURNS, find_orientation

IGNORED = 255  # of a pixel that has no class that counts
MOST_PIXELS = 178_956_970
ALL_LEVELS = frozenset(range(256))  # of grey
NAMED = 6  # unknown values that a fault names
SMOOTHED = 16  # unknown values from which on a mask looks as if it had been smoothed
_LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")

Indices = NDArray[np.uint8]
Pixels = NDArray[np.uint32]


def decode_mask(path: Path, values: MaskValues, labels: Sequence[str]) -> Indices:
    """A mask file as class numbers.

    Args:
        path: of the file.
        values: which pixel values stand for which class.
        labels: the label space, in order.

    Returns:
        For each pixel (H, W) the index of its class in `labels`; 255 where it is
        ignored, or has a class that is not among them.

    Raises:
        DataError: the file cannot be decoded wholly, is lossy, or has a value that
            stands for no class.
    """
    try:
        indices, unknown = _decode(path.read_bytes(), path.name, values, labels)
        if unknown:
            raise _unknown_values(path.name, unknown, indices.size, values)
    except OSError as fault:
        raise DataError(
            str(path),
            found=str(fault),
            expected="a mask",
            hint="bring it back (dvc checkout)",
        ) from fault
    except AnnotationError as fault:
        raise DataError(
            str(path), found=fault.found, expected=fault.expected, hint=fault.hint
        ) from fault
    return indices


def measure_mask(
    root: Path, path: str, values: MaskValues, labels: Sequence[str]
) -> MeasuredExample | ExampleFault:
    """Decodes one mask file wholly and counts its pixels.

    Measured: width and height in pixels, upright; pixels (class → how many it has) and
    ignored (how many count not).

    Args:
        root: the data folder.
        path: the file below it, as the manifest writes it.

    Returns:
        What was measured, or the fault; no broken file raises.
    """
    identity = None
    try:
        content = read_annotation(root, path)
        identity = hashlib.md5(content, usedforsecurity=False).hexdigest()
        indices, unknown = _decode(content, path, values, labels)
        if unknown:
            raise _unknown_values(path, unknown, indices.size, values)
    except AnnotationError as fault:
        return ExampleFault(
            path, fault.code, fault.found, fault.expected, fault.hint, identity
        )
    counts = np.bincount(indices.reshape(-1), minlength=IGNORED + 1).tolist()
    facts: dict[str, Any] = {
        "width": indices.shape[1],
        "height": indices.shape[0],
        "pixels": {
            label: counts[index] for index, label in enumerate(labels) if counts[index]
        },
        "ignored": counts[IGNORED],
    }
    return MeasuredExample(identity, facts)


def write_mask_target(path: str, md5: str) -> str:
    """The manifest's target of an image with a mask: canonical JSON,
    `{"mask":"…","md5":"…"}`.
    """
    return json.dumps(
        {"mask": path, "md5": md5},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )


def write_background_target(width: int, height: int) -> str:
    """The manifest's target of an image of background only, without a mask:
    `{"background":[WIDTH,HEIGHT]}` in upright pixels.
    """
    target = {"background": [width, height]}
    return json.dumps(target, separators=(",", ":"))


def background_mask(
    width: int, height: int, values: MaskValues, labels: Sequence[str]
) -> Indices:
    """The class numbers (H, W) of an image of background only; 255 where the background
    is not in the label space.
    """
    background = next(iter(values.classes))
    number = IGNORED
    if background in labels:
        number = labels.index(background)
    return np.full((height, width), number, np.uint8)


def measure_background(
    width: int, height: int, values: MaskValues, labels: Sequence[str]
) -> MeasuredExample:
    """What `measure_mask` would measure of a mask with background only; the id is
    empty, since there is no file.
    """
    background = next(iter(values.classes))
    pixels = {background: width * height} if background in labels else {}
    facts = {
        "width": width,
        "height": height,
        "pixels": pixels,
        "ignored": 0 if pixels else width * height,
    }
    return MeasuredExample("", facts)


def _decode(
    content: bytes, name: str, values: MaskValues, labels: Sequence[str]
) -> tuple[Indices, dict[int, int]]:
    """Class numbers (H, W), and how many pixels each value has that stands for no
    class.
    """
    known = _index_of_values(values, labels)
    # Whatever a lossy format makes of a value, it stands for a class.
    has_all_levels = not values.are_colours and known.keys() >= ALL_LEVELS
    pixels = read_pixels(
        content, name, as_colours=values.are_colours, accepts_lossy=has_all_levels
    )
    present, inverse, counts = unique_values(pixels)
    unknown = {}
    for value, count in zip(present, counts, strict=True):
        if int(value) not in known:
            unknown[int(value)] = int(count)
    table = np.array(
        [known.get(int(value), IGNORED) for value in present], dtype=np.uint8
    )
    return table[inverse].reshape(pixels.shape), unknown


def unique_values(
    pixels: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The values there are (N,), sorted, which of them each pixel has, and how many
    pixels have each (N,).

    Neighbours mostly have one value: only the first pixel of each run is sorted.
    """
    flat = pixels.reshape(-1)
    is_change = np.diff(flat, prepend=flat[:1]) != 0
    starts = np.concatenate([[0], np.flatnonzero(is_change)])
    lengths = np.diff(starts, append=len(flat))
    present, of_run = np.unique(flat[starts], return_inverse=True)
    of_pixel = np.repeat(of_run, lengths)
    counts = np.bincount(of_run, weights=lengths)
    return present, of_pixel, counts.astype(np.int64)


def _index_of_values(values: MaskValues, labels: Sequence[str]) -> dict[int, int]:
    """Pixel value → index of its class, or 255."""
    numbers = {label: index for index, label in enumerate(labels)}
    known: dict[int, int] = {}
    for label, value in values.pairs():
        if isinstance(value, str):
            number = int(value[1:], 16)
        else:
            number = value
        known[number] = IGNORED if label is None else numbers.get(label, IGNORED)
    return known


def read_pixels(
    content: bytes, name: str, *, as_colours: bool, accepts_lossy: bool = False
) -> Pixels:
    """The pixel values of a mask file (H, W): grey levels or palette indices, or
    colours as 0xRRGGBB.

    Args:
        content: of the file.
        name: as faults call it.
        accepts_lossy: whether grey levels may be blurred, as JPEG blurs them.

    Raises:
        AnnotationError: it is no image, lossy, has partly transparent pixels, or
            colours where numbers are wanted.
    """
    try:
        with quiet(), Image.open(io.BytesIO(content), formats=DECODERS) as image:
            is_lossy = _is_lossy(image, content)
            _check_format(image, name, is_refused=is_lossy and not accepts_lossy)
            turn = find_orientation(image)
            image.load()
            upright = image.transpose(TURNS[turn]) if turn in TURNS else image
            if is_lossy and not as_colours:
                upright = upright.convert("L")
            return _colours(upright) if as_colours else _numbers(upright, name)
    except UnidentifiedImageError as fault:
        raise AnnotationError(
            "mask-unreadable", f"{name}: no image", "a PNG mask", "replace it"
        ) from fault
    except AnnotationError:
        raise
    except Exception as fault:  # decoders raise nearly anything on broken files
        found = " ".join(f"{name}: {type(fault).__name__}: {fault}".split())
        raise AnnotationError(
            "mask-unreadable", found, "a mask that can be decoded wholly", "replace it"
        ) from fault


def _is_lossy(image: Image.Image, content: bytes) -> bool:
    return image.format in _LOSSY or (
        image.format == "WEBP" and b"VP8L" not in content[:64]
    )


def _check_format(image: Image.Image, name: str, *, is_refused: bool) -> None:
    if is_refused:
        raise AnnotationError(
            "lossy-mask",
            f"{name}: a {image.format} file, whose values are blurred",
            "a PNG mask",
            "export the masks again, as PNG; or, of two classes far apart, give each "
            "its half of the levels in task.masks.values, 0-127 and 128-255",
        )
    if image.width * image.height > MOST_PIXELS:
        found = f"{name}: {image.width} × {image.height} pixels"
        raise AnnotationError(
            "too-many-pixels", found, f"at most {MOST_PIXELS}", "replace it"
        )


def _numbers(image: Image.Image, name: str) -> Pixels:
    if image.mode == "1":
        image = image.convert("L")  # 0 and 255
    array = np.asarray(image)
    if array.ndim == 2:
        if array.dtype.kind == "f" or (
            array.dtype.kind == "i" and int(array.min(initial=0)) < 0
        ):
            raise AnnotationError(
                "mask-mode",
                f"{name}: mode {image.mode}",
                "whole numbers from 0",
                "save it as PNG",
            )
        return array.astype(np.uint32)
    grey = array[..., 0]
    has_alpha = image.mode in ("LA", "RGBA", "PA")
    if has_alpha:
        others = array[..., 1:-1]
    else:
        others = array[..., 1:]
    if not np.all(others == grey[..., None]):
        raise AnnotationError(
            "mask-mode",
            f"{name}: colours (mode {image.mode})",
            "grey levels or a palette, by task.masks.values",
            'give colours, such as "#804000", in task.masks.values, or save it as grey',
        )
    return grey.astype(np.uint32)


def _colours(image: Image.Image) -> Pixels:
    rgb = np.asarray(image.convert("RGB")).astype(np.uint32)
    red = rgb[..., 0]
    green = rgb[..., 1]
    blue = rgb[..., 2]
    joined = red * 65536 + green * 256 + blue
    return np.asarray(joined, dtype=np.uint32)


def _unknown_values(
    name: str, unknown: Mapping[int, int], size: int, values: MaskValues
) -> AnnotationError:
    most = sorted(unknown, key=lambda value: (-unknown[value], value))[:NAMED]
    most_common = ", ".join(
        f"{format_value(value, values)} ({unknown[value] / size:.2%})" for value in most
    )
    more = ""
    if len(unknown) > NAMED:
        more = f" and {len(unknown) - NAMED} more"
    known_values = ", ".join(
        f"{label} ({value})" for label, value in values.classes.items()
    )
    hint = "add them to task.masks.values, as a class or as ignored"
    if len(unknown) >= SMOOTHED:
        hint = (
            "it was smoothed or resized with interpolation: export it again without, or "
            + hint
        )
    return AnnotationError(
        "mask-values",
        f"{name}: {most_common}{more} of its pixels",
        known_values or "values with a class",
        hint,
    )


def format_value(value: int, values: MaskValues) -> str:
    """A pixel value as the settings write it."""
    if values.are_colours:
        return f"#{value:06x}"
    return str(value)
