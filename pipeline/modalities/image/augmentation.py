"""Square RGB images as a network's input: plainly, or by crops, turns and colours from
counted random numbers.

The first view, number 0, is the plain one: it is what the network will be asked about,
and a training that keeps one view of each image keeps that.

Images are worked on one by one, several at a time in threads: the temporaries stay in
the processor's cache, and an image's result cannot depend, even in its last bit, on its
neighbours in the batch. NumPy does the arithmetic because its loops stay in their
thread; torch's would each wait for all cores. Inputs are written channels last, as the
pixels lie and as convolutions on a CPU want them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from pipeline.examples import RandomDraw
    from pipeline.modalities.image.settings import ImageAugmentConfig
    from pipeline.records import ImageInputSpec

Pixels = NDArray[np.uint8]
Planes = NDArray[np.float32]  # (3, H, W)
Values = NDArray[np.float32]  # (H, W, 3)

GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


class View(NamedTuple):
    """What is random about one presentation of one image."""

    top: int
    left: int
    height: int
    width: int
    hflip: bool
    vflip: bool
    quarter_turns: int
    brightness: float
    contrast: float
    saturation: float


def draw_view(draw: RandomDraw, side: int, config: ImageAugmentConfig) -> View:
    """The crop, turns and colour factors of a draw, for an image of `side` × `side`
    pixels.

    The crop is Inception's (Szegedy et al. 2015, section 6): a uniform share of the
    area at a log-uniform ratio.
    """
    numbers = _draw_uniform(draw)
    low, high = config.crop_scale
    share = low + (high - low) * numbers.area
    narrow, wide = config.crop_ratio
    aspect = narrow * (wide / narrow) ** numbers.aspect
    width = _limit_length(side * (share * aspect) ** 0.5, side)
    height = _limit_length(side * (share / aspect) ** 0.5, side)
    return View(
        top=int(numbers.y * (side - height + 1)),
        left=int(numbers.x * (side - width + 1)),
        height=height,
        width=width,
        hflip=numbers.hflip < config.hflip,
        vflip=numbers.vflip < config.vflip,
        quarter_turns=int(4 * numbers.quarter_turns) * config.rotate90,
        brightness=_colour_factor(numbers.brightness, config.brightness),
        contrast=_colour_factor(numbers.contrast, config.contrast),
        saturation=_colour_factor(numbers.saturation, config.saturation),
    )


class _Uniform(NamedTuple):
    """Independent numbers, uniform in [0, 1)."""

    area: float
    aspect: float
    y: float
    x: float
    hflip: float
    vflip: float
    quarter_turns: float
    brightness: float
    contrast: float
    saturation: float


def _draw_uniform(draw: RandomDraw) -> _Uniform:
    text = f"{draw.seed}\x1f{draw.view}\x1f{draw.id}"
    digest = hashlib.blake2b(text.encode(), digest_size=64).digest()
    count = len(_Uniform._fields)
    words = np.frombuffer(digest, "<u4")[:count]
    numbers = [float(word) * 2.0**-32 for word in words]
    return _Uniform(*numbers)


def _limit_length(length: float, side: int) -> int:
    """A crop's length in whole pixels, from 1 to the image's side."""
    whole_length = max(1, round(length))
    return min(side, whole_length)


def _colour_factor(number: float, limit: float) -> float:
    """A factor between 1 - limit and 1 + limit."""
    between = 2 * number - 1  # from -1 to 1
    return 1 + limit * between


def prepare_plain(decoded: torch.Tensor, spec: ImageInputSpec) -> torch.Tensor:
    """The centre `size` × `size` pixels, scaled to [0, 1] and normalised.

    Args:
        decoded: (N, resize, resize, 3) of uint8.

    Returns:
        (N, 3, size, size) of float32, channels last in memory.
    """
    images = decoded.numpy()

    def present(position: int, out: Values) -> None:
        _copy_centre(images[position], out, spec)

    return _fill_batch(present, len(images), spec)


def prepare_augmented(
    decoded: torch.Tensor,
    spec: ImageInputSpec,
    config: ImageAugmentConfig,
    draws: Sequence[RandomDraw],
) -> torch.Tensor:
    """Randomly cropped, resized to `size`, flipped, turned, coloured and normalised;
    view 0 is plain.

    Args:
        decoded: (N, resize, resize, 3) of uint8.
        draws: one an image.

    Returns:
        (N, 3, size, size) of float32, channels last in memory.
    """
    images = decoded.numpy()

    def present(position: int, out: Values) -> None:
        draw = draws[position]
        if draw.view == 0:
            _copy_centre(images[position], out, spec)
            return
        view = draw_view(draw, spec.resize, config)
        pixels = _crop(images[position], view, spec.size)
        pixels = _turn(pixels, view)
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
        _change_colours(planes, view)
        np.copyto(out, planes.transpose(1, 2, 0))

    return _fill_batch(present, len(images), spec)


def _copy_centre(image: Pixels, out: Values, spec: ImageInputSpec) -> None:
    margin = (spec.resize - spec.size) // 2
    cut = slice(margin, margin + spec.size)
    np.copyto(out, image[cut, cut])


def _fill_batch(
    present: Callable[[int, Values], None], count: int, spec: ImageInputSpec
) -> torch.Tensor:
    """Fills a batch, in as many threads as torch may use.

    Args:
        present: `present(position, out)` leaves an image's values, 0 to 255, which are
            then normalised, a whole line of pixels at a time.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch

    batch = torch.empty((count, spec.size, spec.size, 3), dtype=torch.float32)
    outs = batch.numpy()
    factors = [1 / (255 * std) for std in spec.std]
    offsets = [mean / std for mean, std in zip(spec.mean, spec.std, strict=True)]
    line_factors = np.tile(np.array(factors, np.float32), spec.size)
    line_offsets = np.tile(np.array(offsets, np.float32), spec.size)

    def fill(position: int) -> None:
        present(position, outs[position])
        lines = outs[position].reshape(spec.size, 3 * spec.size)
        lines *= line_factors
        lines -= line_offsets

    threads = min(torch.get_num_threads(), count // 4)
    if threads < 2:
        for position in range(count):
            fill(position)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, range(count)))
    return batch.permute(0, 3, 1, 2)


def _crop(image: Pixels, view: View, size: int) -> Pixels:
    """The view's crop, resized to (size, size, 3)."""
    import torch

    bottom = view.top + view.height
    right = view.left + view.width
    crop = np.ascontiguousarray(image[view.top : bottom, view.left : right])
    channels_first = torch.from_numpy(crop).permute(2, 0, 1)[None]
    # Channels last and uint8: torch has a vectorised kernel for just this, and it stays
    # in its thread.
    resized = torch.nn.functional.interpolate(
        channels_first, (size, size), mode="bilinear", antialias=True
    )
    pixels: Pixels = resized[0].permute(1, 2, 0).numpy()
    return pixels


def _turn(image: Pixels, view: View) -> Pixels:
    if view.vflip:
        image = image[::-1]
    if view.hflip:
        image = image[:, ::-1]
    if view.quarter_turns:
        image = np.rot90(image, view.quarter_turns)
    return image


def _change_colours(planes: Planes, view: View) -> None:
    """Brightness, contrast and saturation, in place, on (3, H, W) of values 0 to 255.

    The three are linear in the pixel and its grey value: brightness b, then contrast c
    about the image's mean grey m, then saturation s about the pixel's own grey g give
    `c·b·(s·x + (1 − s)·g) + (1 − c)·b·m`, clipped once at the end.
    """
    red, green, blue = planes
    grey = red * np.float32(GREY[0])
    grey += green * np.float32(GREY[1])
    grey += blue * np.float32(GREY[2])
    mean_grey = float(grey.mean(dtype=np.float64))
    gain = view.contrast * view.brightness
    grey_gain = gain * (1 - view.saturation)
    offset = (1 - view.contrast) * view.brightness * mean_grey
    grey *= np.float32(grey_gain)
    grey += np.float32(offset)
    own_gain = np.float32(gain * view.saturation)
    for plane in planes:
        plane *= own_gain
        plane += grey
        np.clip(plane, 0, 255, out=plane)
