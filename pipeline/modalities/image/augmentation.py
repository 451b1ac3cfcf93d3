"""Square RGB images as a network's input: plainly, or by crops, turns and colours from counted random numbers.

The first view, number 0, is the plain one: it is what the network will be asked about, and a training that keeps one
view of each image keeps that.

Images are worked on one by one, several at a time in threads: the temporaries stay in the processor's cache, and an
image's result cannot depend, even in its last bit, on its neighbours in the batch. NumPy does the arithmetic because
its loops stay in their thread; torch's would each wait for all cores. Inputs are written channels last, as the pixels
lie and as convolutions on a CPU want them.
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


def view(draw: RandomDraw, side: int, config: ImageAugmentConfig) -> View:
    """The crop, turns and colour factors of a draw, for an image of `side` × `side` pixels.

    The crop is Inception's (Szegedy et al. 2015, section 6): a uniform share of the area at a log-uniform ratio.
    """
    text = f"{draw.seed}\x1f{draw.view}\x1f{draw.id}".encode()
    words = np.frombuffer(hashlib.blake2b(text, digest_size=64).digest(), "<u4")
    area, ratio, y, x, flip, turn_over, turn, *colours = (float(word) * 2.0**-32 for word in words[:10])
    low, high = config.crop_scale
    share = low + (high - low) * area
    narrow, wide = config.crop_ratio
    aspect = narrow * (wide / narrow) ** ratio
    width = min(side, max(1, round(side * (share * aspect) ** 0.5)))
    height = min(side, max(1, round(side * (share / aspect) ** 0.5)))
    limits = (config.brightness, config.contrast, config.saturation)
    brightness, contrast, saturation = (1 + limit * (2 * u - 1) for limit, u in zip(limits, colours, strict=True))
    return View(
        top=int(y * (side - height + 1)), left=int(x * (side - width + 1)), height=height, width=width,
        hflip=flip < config.hflip, vflip=turn_over < config.vflip, quarter_turns=int(4 * turn) * config.rotate90,
        brightness=brightness, contrast=contrast, saturation=saturation,
    )  # fmt: skip


def plain(decoded: torch.Tensor, spec: ImageInputSpec) -> torch.Tensor:
    """The centre `size` × `size` pixels, scaled to [0, 1] and normalised: (N, 3, size, size) of float32."""
    images = decoded.numpy()

    def present(position: int, out: Values) -> None:
        _centre(images[position], out, spec)

    return _each(present, len(images), spec)


def _centre(image: Pixels, out: Values, spec: ImageInputSpec) -> None:
    margin = (spec.resize - spec.size) // 2
    cut = slice(margin, margin + spec.size)
    np.copyto(out, image[cut, cut])


def augmented(
    decoded: torch.Tensor, spec: ImageInputSpec, config: ImageAugmentConfig, draws: Sequence[RandomDraw]
) -> torch.Tensor:
    """Randomly cropped, resized to `size`, flipped, turned, coloured and normalised: (N, 3, size, size) of float32.

    View 0 is plain.
    """
    images = decoded.numpy()

    def present(position: int, out: Values) -> None:
        if draws[position].view == 0:
            _centre(images[position], out, spec)
            return
        seen = view(draws[position], spec.resize, config)
        pixels = _turn(_crop(images[position], seen, spec.size), seen)
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
        _colour(planes, seen)
        np.copyto(out, planes.transpose(1, 2, 0))

    return _each(present, len(images), spec)


def _each(present: Callable[[int, Values], None], count: int, spec: ImageInputSpec) -> torch.Tensor:
    """Fills a batch, in as many threads as torch may use: `present(position, out)` leaves an image's values, 0 to 255,
    which are then normalised, a whole line of pixels at a time."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    batch = torch.empty((count, spec.size, spec.size, 3), dtype=torch.float32)
    outs = batch.numpy()
    scale = np.tile(np.array([1 / (255 * std) for std in spec.std], np.float32), spec.size)
    shift = np.tile(np.array([m / std for m, std in zip(spec.mean, spec.std, strict=True)], np.float32), spec.size)

    def fill(position: int) -> None:
        present(position, outs[position])
        lines = outs[position].reshape(spec.size, 3 * spec.size)
        lines *= scale
        lines -= shift

    threads = min(torch.get_num_threads(), count // 4)
    if threads < 2:
        for position in range(count):
            fill(position)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, range(count)))
    return batch.permute(0, 3, 1, 2)


def _crop(image: Pixels, seen: View, size: int) -> Pixels:
    """The view's crop, resized to (size, size, 3)."""
    import torch

    crop = np.ascontiguousarray(image[seen.top : seen.top + seen.height, seen.left : seen.left + seen.width])
    # Channels last and uint8: torch has a vectorised kernel for just this, and it stays in its thread.
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(crop).permute(2, 0, 1)[None], (size, size), mode="bilinear", antialias=True
    )
    pixels: Pixels = resized[0].permute(1, 2, 0).numpy()
    return pixels


def _turn(image: Pixels, seen: View) -> Pixels:
    image = image[:: -1 if seen.vflip else 1, :: -1 if seen.hflip else 1]
    return np.rot90(image, seen.quarter_turns) if seen.quarter_turns else image


def _colour(planes: Planes, seen: View) -> None:
    """Brightness, contrast and saturation, in place, on (3, H, W) of values 0 to 255.

    The three are linear in the pixel and its grey value: brightness b, then contrast c about the image's mean grey m,
    then saturation s about the pixel's own grey g give `c·b·(s·x + (1 − s)·g) + (1 − c)·b·m`, clipped once at the end.
    """
    red, green, blue = planes
    grey = red * np.float32(GREY[0])
    grey += green * np.float32(GREY[1])
    grey += blue * np.float32(GREY[2])
    mean_grey = float(grey.mean(dtype=np.float64))
    gain = seen.contrast * seen.brightness
    grey *= np.float32(gain * (1 - seen.saturation))
    grey += np.float32((1 - seen.contrast) * seen.brightness * mean_grey)
    for plane in planes:
        plane *= np.float32(gain * seen.saturation)
        plane += grey
        np.clip(plane, 0, 255, out=plane)
