"""What a served model of images is asked: files' contents, checked and opened one by
one.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from PIL import Image, UnidentifiedImageError

BATCH = 8
T = TypeVar("T")


class OpenedImage(NamedTuple):
    """An image as it is asked about.

    Args:
        square: (side, side, 3) of uint8.
        width, height: of the image as it is shown, in pixels.
    """

    square: np.ndarray[Any, Any]
    width: int
    height: int


class LargeImage(NamedTuple):
    """An image that is answered in tiles.

    Args:
        picture: RGB, upright, in its own pixels.
    """

    picture: Image.Image


def image_column(table: Any) -> list[Any]:
    """The contents of the files.

    Raises:
        MlflowException: the table is of another form.
    """
    if not isinstance(table, pd.DataFrame) or list(table.columns) != ["image"]:
        columns: list[Any] | str = type(table).__name__
        if isinstance(table, pd.DataFrame):
            columns = list(table.columns)
        raise bad_request(
            f"the input must be a table with one column, image; found {columns}"
        )
    return list(table["image"])


def answer_images(
    contents: Sequence[Any],
    open_row: Callable[[Any, int], OpenedImage | LargeImage],
    answer_whole: Callable[[Sequence[OpenedImage]], Iterable[T]],
    answer_large: Callable[[Image.Image], T],
) -> list[T]:
    """The answers to images, in order: `BATCH` at a time of those shown whole, one at a
    time of the large ones.

    Args:
        contents: of the files.
        open_row: opens a content, given its row.
        answer_whole: answers some images.
        answer_large: answers a large one.
    """
    answers: dict[int, T] = {}
    for start in range(0, len(contents), BATCH):
        opened: dict[int, OpenedImage] = {}
        for row in range(start, min(start + BATCH, len(contents))):
            image = open_row(contents[row], row)
            if isinstance(image, LargeImage):
                answers[row] = answer_large(image.picture)
                del image  # before the next one is opened
            else:
                opened[row] = image
        if opened:
            answers.update(
                zip(opened, answer_whole(list(opened.values())), strict=True)
            )
    return [answers[row] for row in range(len(contents))]


def open_image(
    content: Any, row: int, settings: dict[str, Any], pixels: Any, tiles: Any = None
) -> OpenedImage | LargeImage:
    """One image file's content.

    Args:
        settings: `input` and `limits` of the served model, and `tiles` where it answers
            large images in tiles.
        pixels: the module `image_pixels`.
        tiles: the module `tiles`; None where every image is shown whole.

    Raises:
        MlflowException: it is no image that can be used; names the row.
    """
    if not isinstance(content, bytes | bytearray):
        raise bad_request(
            f"row {row}: image must be the file's content (base64 over HTTP), not {type(content).__name__}"
        )
    limits = settings["limits"]
    if len(content) > limits["max_bytes"]:
        raise bad_request(
            f"row {row}: {len(content)} bytes; at most {limits['max_bytes']} are accepted"
        )
    try:
        with (
            _quiet(),
            Image.open(io.BytesIO(content), formats=pixels.DECODERS) as image,
        ):
            _refuse(image, row, limits)
            if tiles is not None and tiles.is_cut(*image.size, settings.get("tiles")):
                return _open_large(image, settings["input"], pixels)
            return _open(image, settings["input"], pixels)
    except MlflowException:
        raise
    except UnidentifiedImageError as fault:
        accepted = ", ".join(pixels.DECODERS)
        raise bad_request(
            f"row {row}: not an image; accepted are {accepted}"
        ) from fault
    except Exception as fault:  # decoders raise nearly anything on broken files
        reason = f"{type(fault).__name__}: {fault}"
        raise bad_request(
            f"row {row}: not an image that can be decoded wholly ({reason})"
        ) from fault


def _refuse(image: Image.Image, row: int, limits: dict[str, Any]) -> None:
    width, height = image.size
    if width * height > limits["max_pixels"]:
        raise bad_request(
            f"row {row}: {width} × {height} pixels; at most {limits['max_pixels']} are accepted"
        )
    if (
        limits["single_frame"]
        and image.format != "MPO"
        and getattr(image, "is_animated", False)
    ):
        raise bad_request(f"row {row}: several frames or pages; one is accepted")


def _open(image: Image.Image, spec: dict[str, Any], pixels: Any) -> OpenedImage:
    turn = pixels.find_orientation(image)
    stored_size = image.size
    side = spec["resize"]
    # A JPEG is decoded at 1/2, 1/4 or 1/8 where that suffices.
    drafted = image.draft(None, (side, side))
    background = tuple(spec["background"])
    rgb = pixels.to_rgb(image, turn, background)
    width, height = rgb.size
    if drafted is not None:
        width, height = (
            stored_size[::-1] if turn in pixels.QUARTER_TURNS else stored_size
        )
    square = pixels.to_square(rgb, side, spec["fit"], spec["interpolation"], background)
    return OpenedImage(square, width, height)


def _open_large(image: Image.Image, spec: dict[str, Any], pixels: Any) -> LargeImage:
    turn = pixels.find_orientation(image)
    background = tuple(spec["background"])
    return LargeImage(pixels.to_rgb(image, turn, background))


def bad_request(message: str) -> MlflowException:
    """A server answers 400."""
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
