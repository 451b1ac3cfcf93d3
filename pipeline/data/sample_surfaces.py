"""Draws surfaces and their flaws with integers only.

Floating-point sine, power and even sums may differ in the last bit between CPUs;
integer arithmetic does not, so every picture is the same everywhere. Pictures are int32
arrays (height, width); brightness is in 1/16 of a grey level, so that 4080 is white.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
T = TypeVar("T")

CANVAS = 136
"""Side of the piece of surface that is drawn; a photograph shows a part of it."""


class Dice:
    """Counted randomness: raw 64-bit words of PCG64, whose stream is fixed, keyed by
    integers.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(list(key))

    def between(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        word = int(self._bits.random_raw())
        return low + word % (high - low + 1)

    def sign(self) -> int:
        return self.between(0, 1) * 2 - 1

    def pick(self, options: Sequence[T]) -> T:
        return options[self.between(0, len(options) - 1)]

    def bytes(self, *shape: int) -> Ints:
        """Independent bytes, 0–255, of the given shape."""
        count = math.prod(shape)
        words = np.asarray(self._bits.random_raw(-(-count // 8)), dtype="<u8")
        levels = words.view(np.uint8)[:count]
        return levels.astype(np.int32).reshape(shape)


def _smooth(length: int, cell: int, phase: int) -> tuple[Ints, Ints]:
    """Lattice index and weight (0–256, smoothstep in fixed point) of each of `length`
    positions.
    """
    position: Ints = np.arange(phase, phase + length, dtype=np.int32)
    t: Ints = position % cell * 256 // cell
    weight: Ints = t * t * (768 - 2 * t) >> 16
    return position // cell, weight


def value_noise(dice: Dice, cell_y: int, cell_x: int, amplitude: int) -> Ints:
    """Smoothly interpolated lattice noise within ± amplitude; cells are in pixels,
    unequal ones give streaks.
    """
    rows, row_weights = _smooth(CANVAS, cell_y, dice.between(0, cell_y - 1))
    columns, weights = _smooth(CANVAS, cell_x, dice.between(0, cell_x - 1))
    lattice = dice.bytes(int(rows[-1]) + 2, int(columns[-1]) + 2)
    upper: Ints = lattice[rows] * (256 - row_weights)[:, None]
    lower: Ints = lattice[rows + 1] * row_weights[:, None]
    between_rows = upper + lower
    left: Ints = between_rows[:, columns] * (256 - weights)
    right: Ints = between_rows[:, columns + 1] * weights
    values = (left + right) >> 8
    centred: Ints = (values - 32640) * amplitude >> 15
    return centred


def grain(dice: Dice, size: int, amplitude: int) -> Ints:
    """Pixelwise noise, roughly bell-shaped (a sum of four bytes), standard deviation
    about amplitude.
    """
    centred: Ints = dice.bytes(4, size, size).sum(axis=0, dtype=np.int32) - 510
    return centred * amplitude // 148


@dataclass
class Surface:
    """A piece of material: `albedo` (how bright it is), `height` (its relief) and
    `tint` (offsets of red and blue).
    """

    albedo: Ints
    height: Ints
    tint: tuple[int, int]
    cast: Ints
    """Local discolouration: added to red and taken from blue."""


def brushed(dice: Dice) -> Surface:
    """Metal with fine parallel marks."""
    albedo = 2100 + dice.between(-250, 250) + value_noise(dice, 60, 70, 220)
    marks = value_noise(dice, 2, 50, 260)
    marks += value_noise(dice, 1, 34, 240)
    marks += value_noise(dice, 5, 90, 150)
    height = value_noise(dice, 2, 44, 130)
    height += value_noise(dice, 1, 25, 90)
    tint = (dice.between(-6, 2), dice.between(0, 12))
    return Surface(albedo + marks, height, tint, np.zeros_like(albedo))


def cast(dice: Dice) -> Surface:
    """Rough cast iron."""
    albedo = 1500 + dice.between(-250, 250) + value_noise(dice, 40, 40, 260)
    albedo += value_noise(dice, 7, 7, 200)
    height = value_noise(dice, 9, 9, 260)
    height += value_noise(dice, 4, 4, 260)
    height += value_noise(dice, 2, 2, 150)
    tint = (dice.between(-2, 10), dice.between(-8, 2))
    return Surface(albedo, height, tint, np.zeros_like(albedo))


def painted(dice: Dice) -> Surface:
    """Sprayed paint with orange peel, in one of the house colours."""
    albedo = 2300 + dice.between(-350, 350) + value_noise(dice, 70, 70, 180)
    albedo += value_noise(dice, 16, 16, 70)
    height = value_noise(dice, 7, 7, 200)
    height += value_noise(dice, 5, 5, 120)
    tint = dice.pick(((-28, 34), (34, -30), (20, -44), (-34, -14), (4, 2)))
    return Surface(albedo, height, tint, np.zeros_like(albedo))


def woven(dice: Dice) -> Surface:
    """Plain-woven technical fabric: warp and weft in turn on top, each thread round in
    section.
    """
    pitch = dice.pick((6, 7, 8))
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.int32)
    x = x + value_noise(dice, 30, 40, 3) + dice.between(0, pitch)
    y = y + value_noise(dice, 40, 30, 3) + dice.between(0, pitch)
    is_warp = (x // pitch + y // pitch) % 2 == 0
    within_thread = np.where(is_warp, x % pitch, y % pitch)
    across = within_thread * 2 - (pitch - 1)
    round_section = 420 - across * across * 420 // (pitch * pitch)
    albedo = 1650 + dice.between(-200, 250) + round_section
    albedo += np.where(is_warp, 90, -90)
    albedo += value_noise(dice, 3, 3, 180)
    albedo += value_noise(dice, 50, 60, 200)
    height = round_section + value_noise(dice, 2, 3, 120)
    tint = dice.pick(((10, -14), (-4, 10), (2, -4)))
    return Surface(albedo, height, tint, np.zeros_like(albedo))


MATERIALS: dict[str, Callable[[Dice], Surface]] = {
    "brushed": brushed,
    "cast": cast,
    "painted": painted,
    "woven": woven,
}


def _stroke(y0: int, x0: int, y1: int, x1: int, width: int) -> Ints:
    """Profile, 0–256, of a straight stroke; ends and width are in 1/16 pixel."""
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.int32) * 16
    dy = y1 - y0
    dx = x1 - x0
    from_y = y - y0
    from_x = x - x0
    length = max(1, math.isqrt(dy * dy + dx * dx))
    along = (from_y * dy + from_x * dx) // length
    across = np.abs(from_y * dx - from_x * dy) // length
    beyond_ends = np.maximum(-along, along - length)
    outside = np.maximum(beyond_ends, 0)
    distance = np.maximum(across, outside)
    profile: Ints = (width - distance) * 256 // width
    return np.clip(profile, 0, 256)


def _disc(y0: int, x0: int, radius_y: int, radius_x: int) -> Ints:
    """Profile, 0–256, of an elliptic bowl; centre and radii are in pixels."""
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.int32)
    down = (y - y0) ** 2 * 256 // (radius_y * radius_y)
    across = (x - x0) ** 2 * 256 // (radius_x * radius_x)
    squared: Ints = down + across
    return np.clip(256 - squared, 0, 256)


def _middle(dice: Dice) -> int:
    """A coordinate that every photograph of the surface shows."""
    return dice.between(50, CANVAS - 51)


def _direction(dice: Dice) -> tuple[int, int]:
    """A direction as (dy, dx) of length about 64."""
    dy = dice.between(-64, 64)
    dx = dice.between(-64, 64)
    length = max(1, math.isqrt(dy * dy + dx * dx))
    return dy * 64 // length, dx * 64 // length


def scratch(surface: Surface, dice: Dice, strength: int) -> None:
    """A long, thin, slightly bent groove with bright flanks."""
    dy, dx = _direction(dice)
    y = _middle(dice) * 16
    x = _middle(dice) * 16
    pieces = dice.between(3, 6)
    bend_y = dice.between(-9, 9)
    bend_x = dice.between(-9, 9)
    y -= dy * pieces
    x -= dx * pieces
    mask = np.zeros_like(surface.albedo)
    for piece in range(pieces):
        if piece in (0, pieces - 1):
            width = 15
        else:
            width = dice.between(18, 24)
        y1 = y + dy * 2 + bend_y * piece
        x1 = x + dx * 2 + bend_x * piece
        mask = np.maximum(mask, _stroke(y, x, y1, x1, width))
        y, x = y1, x1
    surface.albedo += mask * (620 * strength // 100) >> 8
    surface.height -= mask * (520 * strength // 100) >> 8


def crack(surface: Surface, dice: Dice, strength: int) -> None:
    """A dark, jagged, sometimes forked line."""
    mask = np.zeros_like(surface.albedo)
    dy, dx = _direction(dice)
    y = _middle(dice) * 16 - dy * 4
    x = _middle(dice) * 16 - dx * 4
    tips = [(y, x, dy, dx, dice.between(8, 13))]
    forks = dice.between(0, 2)
    while tips:
        y, x, dy, dx, steps = tips.pop()
        for step in range(steps):
            y1 = y + dy + dice.between(-44, 44)
            x1 = x + dx + dice.between(-44, 44)
            stroke = _stroke(y, x, y1, x1, dice.between(14, 22))
            mask = np.maximum(mask, stroke)
            y, x = y1, x1
            if forks and step > 2 and dice.between(0, 3) == 0:
                forks -= 1
                fork_dy = (dy - dx * dice.sign()) * 3 // 4
                fork_dx = (dx + dy * dice.sign()) * 3 // 4
                tips.append((y, x, fork_dy, fork_dx, steps // 2))
    surface.albedo -= mask * (760 * strength // 100) >> 8
    surface.height -= mask * (420 * strength // 100) >> 8


def pit(surface: Surface, dice: Dice, strength: int) -> None:
    """One to five small round hollows, close together."""
    y = _middle(dice)
    x = _middle(dice)
    for _ in range(dice.between(2, 5)):
        radius = dice.between(3, 6)
        own_y = y + dice.between(-14, 14)
        own_x = x + dice.between(-14, 14)
        bowl = _disc(own_y, own_x, radius, radius + dice.between(-1, 1))
        surface.albedo -= bowl * (480 * strength // 100) >> 8
        surface.height -= bowl * (900 * strength // 100) >> 8


def stain(surface: Surface, dice: Dice, strength: int) -> None:
    """A flat discoloured patch with a ragged edge; it has no relief."""
    y = _middle(dice)
    x = _middle(dice)
    radius_y = dice.between(14, 27)
    radius_x = dice.between(14, 27)
    body = _disc(y, x, radius_y, radius_x)
    ragged = body + value_noise(dice, 11, 11, 150)
    ragged += value_noise(dice, 5, 5, 60)
    shade = np.clip((ragged - 70) * 3, 0, 256)
    mask = np.where(body > 0, shade, 0).astype(np.int32)
    darkness = dice.pick((430, 380, -330)) * strength // 100
    discolouring = dice.between(120, 220) * dice.sign()
    surface.albedo -= mask * darkness >> 8
    surface.cast += mask * (discolouring * strength // 100) >> 8


def sound(surface: Surface, dice: Dice, strength: int) -> None:
    """No flaw."""


FLAWS: dict[str, Callable[[Surface, Dice, int], None]] = {
    "ok": sound,
    "scratch": scratch,
    "pit": pit,
    "stain": stain,
    "crack": crack,
}


def wear(surface: Surface, dice: Dice) -> None:
    """What every part may carry and is no defect: dust, a machined groove, a broad
    shade.
    """
    for _ in range(dice.between(0, 4)):
        y = dice.between(0, CANVAS - 1)
        x = dice.between(0, CANVAS - 1)
        speck = _disc(y, x, 2, 2)
        brightness = dice.between(200, 600) * dice.sign()
        surface.albedo += speck * brightness >> 8
    if dice.between(0, 3) == 0:
        at = dice.between(0, CANVAS - 1) * 16
        groove = _stroke(at, -800, at, CANVAS * 16 + 800, 26)
        if not dice.between(0, 1):
            groove = groove.T
        surface.height -= groove * 300 >> 8
    shade = dice.between(60, 260)
    surface.albedo += value_noise(dice, 34, 34, shade)


@dataclass(frozen=True)
class Lamp:
    """How a photograph is lit: `gain` and `relief` in percent, `slope` of brightness
    across it, sensor `noise`.
    """

    gain: tuple[int, int]
    relief: int
    slope: int
    noise: int


LAMPS: dict[str, Lamp] = {
    "ring": Lamp(gain=(92, 112), relief=55, slope=250, noise=55),
    "side": Lamp(gain=(80, 110), relief=130, slope=900, noise=60),
    "dim": Lamp(gain=(34, 46), relief=80, slope=400, noise=75),
}


DIRECTIONS_OF_LIGHT = (
    (-2, -1),
    (-2, 1),
    (-1, -2),
    (1, -2),
    (-1, 2),
    (1, 2),
    (2, -1),
    (2, 1),
)


def photograph(
    surface: Surface, dice: Dice, lamp: Lamp, side: int
) -> npt.NDArray[np.uint8]:
    """An RGB picture (side, side, 3) of a shifted part of the surface under the lamp."""
    corner = pick_corner(dice, side)
    return photograph_at(surface, dice, lamp, side, corner)


def pick_corner(dice: Dice, side: int) -> tuple[int, int]:
    """Top and left of the part of the surface that a picture shows."""
    top = dice.between(4, CANVAS - side - 5)
    left = dice.between(4, CANVAS - side - 5)
    return top, left


def photograph_at(
    surface: Surface, dice: Dice, lamp: Lamp, side: int, corner: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """An RGB picture (side, side, 3) of the part of the surface that begins at a corner
    (top, left).
    """
    top, left = corner
    window = np.s_[top : top + side, left : left + side]
    ly, lx = dice.pick(DIRECTIONS_OF_LIGHT)
    height = surface.height
    slope_y = np.roll(height, 1, 0) - np.roll(height, -1, 0)
    slope_x = np.roll(height, 1, 1) - np.roll(height, -1, 1)
    slopes = slope_y * ly + slope_x * lx
    across = np.arange(side, dtype=np.int32) * 2 - side
    ramp = across * lamp.slope // side
    uneven = (ramp[:, None] * ly + ramp[None, :] * lx) // 2
    relief = surface.albedo + slopes * lamp.relief // 200
    light = relief[window] + uneven
    gain = dice.between(*lamp.gain)
    light = light * gain // 100 + grain(dice, side, lamp.noise)
    discoloured = surface.cast[window] * gain // 100
    red_tint, blue_tint = surface.tint
    speckle = grain(dice, side, lamp.noise // 3)
    red = light + light * red_tint // 100 + discoloured + speckle
    blue = light + light * blue_tint // 100 - discoloured - speckle
    picture: Ints = np.stack([red, light, blue], axis=-1) >> 4
    return np.clip(picture, 0, 255).astype(np.uint8)
