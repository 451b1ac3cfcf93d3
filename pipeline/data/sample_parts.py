"""Draws small metal parts on a surface, with integers only, as
`pipeline.data.sample_surfaces` draws the surface.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.sample_surfaces import (
    CANVAS,
    MATERIALS,
    Dice,
    Ints,
    Surface,
    grain,
    value_noise,
    wear,
)

Bools = npt.NDArray[np.bool_]

GROUNDS = ("painted", "woven", "cast")
TRIES = 12  # for a place where a part covers no other
MARGIN = 26  # pixels from the canvas's edge to the middle of a part
EMPTY_EVERY = 12  # of so many trays, one holds nothing


@dataclass
class Part:
    """A part on the surface.

    Args:
        label: what it is.
        mask: the pixels that it covers (CANVAS, CANVAS).
    """

    label: str
    mask: Bools


@dataclass
class Shape:
    """The form of a part before it is laid down.

    Args:
        profile: how high it stands, 0–256 (CANVAS, CANVAS).
        brightness: of its metal.
    """

    profile: Ints
    brightness: int


def lay_tray(number: int, dice: Dice) -> tuple[Surface, list[Part]]:
    """A surface with a few parts on it that cover none of each other."""
    surface = MATERIALS[dice.pick(GROUNDS)](dice)
    wear(surface, dice)
    surface.albedo = surface.albedo * 7 // 10
    parts: list[Part] = []
    count = dice.between(2, 6)
    if number % EMPTY_EVERY == EMPTY_EVERY - 1:
        count = 0
    for _ in range(count):
        label = dice.pick(("washer", "washer", "nut", "nut", "screw"))
        shape = _find_place(label, dice, parts)
        if shape is not None:
            _lay(surface, shape, dice)
            parts.append(Part(label, shape.profile > 0))
    return surface, parts


def _find_place(label: str, dice: Dice, parts: list[Part]) -> Shape | None:
    """The part at a place where it covers no other; None where none was found."""
    taken = np.zeros((CANVAS, CANVAS), dtype=bool)
    for part in parts:
        taken |= part.mask
    for _ in range(TRIES):
        shape = SHAPES[label](dice)
        if not (taken & (shape.profile > 0)).any():
            return shape
    return None


def _lay(surface: Surface, shape: Shape, dice: Dice) -> None:
    """Lays a part down: a shadow beside it, its metal, its relief."""
    mask = shape.profile > 0
    shadow = np.roll(mask, (2, 2), (0, 1)) & ~mask
    surface.albedo -= shadow * 420
    brushed = value_noise(dice, 3, 9, 200)
    grainy = grain(dice, CANVAS, 60)
    metal = shape.brightness + brushed + grainy
    albedo = np.where(mask, metal, surface.albedo)
    height = np.where(mask, shape.profile * 3, surface.height)
    cast = np.where(mask, 0, surface.cast)
    surface.albedo = albedo.astype(np.int32)
    surface.height = height.astype(np.int32)
    surface.cast = cast.astype(np.int32)


def _grid(dice: Dice) -> tuple[Ints, Ints]:
    """Distances of each pixel from the middle of a part (CANVAS, CANVAS), down and
    across, in 1/16 pixel.
    """
    down, across = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.int32) * 16
    y = dice.between(MARGIN, CANVAS - MARGIN) * 16
    x = dice.between(MARGIN, CANVAS - MARGIN) * 16
    return down - y, across - x


def _direction(dice: Dice) -> tuple[int, int]:
    """A direction (down, across) of length about 256."""
    down = dice.between(-256, 256)
    across = dice.between(-256, 256)
    length = math.isqrt(down * down + across * across)
    if length == 0:
        return 256, 0
    return down * 256 // length, across * 256 // length


def _rise(depth: Ints) -> Ints:
    """A profile, 0–256, that rises from an edge; depth within the edge is in 1/16
    pixel.
    """
    return np.clip(depth * 6, 0, 256).astype(np.int32)


def washer(dice: Dice) -> Shape:
    """A flat ring."""
    down, across = _grid(dice)
    radius = dice.between(9, 13) * 16
    hole = radius * dice.between(45, 60) // 100
    squared = down * down + across * across
    # (r² − d²) / 2r is about the distance from the edge.
    from_rim = (radius * radius - squared) // (2 * radius)
    from_hole = (squared - hole * hole) // (2 * hole)
    profile = np.minimum(_rise(from_rim), _rise(from_hole))
    brightness = 2900 + dice.between(-250, 250)
    return Shape(profile, brightness)


def nut(dice: Dice) -> Shape:
    """A hexagon with a hole."""
    down, across = _grid(dice)
    radius = dice.between(8, 11) * 16
    hole = radius * dice.between(48, 58) // 100
    dy, dx = _direction(dice)
    farthest = np.zeros_like(down)
    for _ in range(3):
        from_middle = np.abs(down * dy + across * dx) // 256
        farthest = np.maximum(farthest, from_middle)
        # Turned by 60 degrees.
        dy, dx = (dy * 128 + dx * 222) // 256, (dx * 128 - dy * 222) // 256
    squared = down * down + across * across
    from_hole = (squared - hole * hole) // (2 * hole)
    profile = np.minimum(_rise(radius - farthest), _rise(from_hole))
    brightness = 2300 + dice.between(-200, 200)
    return Shape(profile, brightness)


def screw(dice: Dice) -> Shape:
    """A threaded shaft with a round head."""
    down, across = _grid(dice)
    dy, dx = _direction(dice)
    half = dice.between(11, 16) * 16
    width = dice.between(34, 44)
    head = dice.between(88, 108)
    along = (down * dy + across * dx) // 256
    aside = np.abs(down * dx - across * dy) // 256
    depth = np.minimum(width - aside, half - np.abs(along))
    shaft = _rise(depth)
    is_ridge = along // 24 % 2 == 0
    thread = np.where(is_ridge, shaft, shaft * 5 // 8)
    from_head = along + half
    squared = from_head * from_head + aside * aside
    top = _rise((head * head - squared) // (2 * head))
    profile = np.maximum(thread, top).astype(np.int32)
    brightness = 2600 + dice.between(-200, 200)
    return Shape(profile, brightness)


SHAPES: dict[str, Callable[[Dice], Shape]] = {
    "nut": nut,
    "screw": screw,
    "washer": washer,
}
