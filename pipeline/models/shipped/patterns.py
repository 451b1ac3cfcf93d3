"""Pictures to pretrain on: a texture, a mark on it, and some lighting, all drawn at
random.

A picture has two answers, its texture and its mark; contrast, polarity, colour, place,
size, turn and lighting are nuisances. Nothing here is shared with the sample data set:
its flaws are drawn elsewhere, and no class of it is one here. Tensors are (n, side,
side) and lengths are in pixels unless a docstring says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

SEGMENTS = 12
"""A mark is at most this many straight strokes; a dot is a stroke of no length."""


def uniform(random: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Numbers from `low` to `high` in a tensor of this shape."""
    numbers = torch.rand(*shape, generator=random)
    return numbers * (high - low) + low


def chance(random: torch.Generator, probability: float, *shape: int) -> Tensor:
    """1.0 with the given probability, else 0.0."""
    numbers = torch.rand(*shape, generator=random)
    return (numbers < probability).float()


def noise(
    random: torch.Generator, n: int, side: int, rows: int, columns: int
) -> Tensor:
    """Smooth noise with about unit range from a lattice of rows × columns."""
    lattice = torch.rand(n, 1, rows, columns, generator=random) * 2 - 1
    smooth = functional.interpolate(
        lattice, (side, side), mode="bilinear", align_corners=True
    )
    return smooth[:, 0]


def _grid(side: int) -> tuple[Tensor, Tensor]:
    axis = torch.arange(side, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return y, x


def _wave(
    random: torch.Generator, n: int, side: int, angle: Tensor, period: Tensor
) -> Tensor:
    """A sine grating whose stripes wobble a little."""
    y, x = _grid(side)
    straight = x * torch.cos(angle) + y * torch.sin(angle)
    along = straight + noise(random, n, side, 4, 4) * 2
    phase = uniform(random, 0, 6.3, n, 1, 1)
    return torch.sin(along * 2 * math.pi / period + phase)


def plain(random: torch.Generator, n: int, side: int) -> Tensor:
    return noise(random, n, side, 3, 3) * 0.3


def clouds(random: torch.Generator, n: int, side: int) -> Tensor:
    octaves: list[Tensor] = []
    for cells, weight in ((5, 0.5), (11, 0.3), (23, 0.25)):
        octaves.append(noise(random, n, side, cells, cells) * weight)
    return torch.stack(octaves).sum(0)


def grain(random: torch.Generator, n: int, side: int) -> Tensor:
    coarse = noise(random, n, side, side // 2, side // 2)
    fine = noise(random, n, side, side, side)
    return coarse * 0.6 + fine * 0.4


def stripes(random: torch.Generator, n: int, side: int) -> Tensor:
    angle = uniform(random, 0, math.pi, n, 1, 1)
    period = uniform(random, 4, 14, n, 1, 1)
    return _wave(random, n, side, angle, period) * 0.6


def streaks(random: torch.Generator, n: int, side: int) -> Tensor:
    """Noise drawn out along a random direction."""
    long = noise(random, n, side, side, 3)
    fine = noise(random, n, side, side // 2, 5)
    turn = _rotations(uniform(random, 0, math.pi, n))
    transform = torch.cat([turn, torch.zeros(n, 2, 1)], 2)
    grid = functional.affine_grid(transform, [n, 1, side, side], align_corners=False)
    picture = (long + fine * 0.6)[:, None]
    turned = functional.grid_sample(
        picture, grid, padding_mode="reflection", align_corners=False
    )
    return turned[:, 0]


def _rotations(angles: Tensor) -> Tensor:
    """Matrices (n, 2, 2) that turn by angles (n,)."""
    cos = torch.cos(angles)
    sin = torch.sin(angles)
    return torch.stack([cos, -sin, sin, cos], 1).view(len(angles), 2, 2)


def checks(random: torch.Generator, n: int, side: int) -> Tensor:
    angle = uniform(random, 0, math.pi, n, 1, 1)
    period = uniform(random, 7, 20, n, 1, 1)
    along = _wave(random, n, side, angle, period)
    across = _wave(random, n, side, angle + math.pi / 2, period)
    return torch.tanh(along * across * 4) * 0.5


def cells(random: torch.Generator, n: int, side: int) -> Tensor:
    """Distance to the nearest of scattered points (Worley 1996)."""
    y, x = _grid(side)
    nearest = torch.full((n, side, side), float(side * side))
    for _ in range(28):
        at_y, at_x = uniform(random, 0, side, 2, n, 1, 1)
        squared = (y - at_y) ** 2 + (x - at_x) ** 2
        nearest = torch.minimum(nearest, squared)
    return nearest.sqrt() / (side / 9) - 0.8


def spots(random: torch.Generator, n: int, side: int) -> Tensor:
    height = noise(random, n, side, side // 5, side // 5)
    return torch.sigmoid((height - 0.35) * 12) - 0.3


TEXTURES: tuple[Callable[[torch.Generator, int, int], Tensor], ...] = (
    plain,
    clouds,
    grain,
    stripes,
    streaks,
    checks,
    cells,
    spots,
)

# Marks are strokes (n, SEGMENTS, 2 ends, 2 coordinates y x) in a frame where the mark
# has about unit radius. Those that need fewer strokes repeat one.


def _polyline(points: Tensor) -> Tensor:
    """Strokes joining points (n, count, 2) in order."""
    strokes = torch.stack([points[:, :-1], points[:, 1:]], 2)
    return _filled(strokes)


def _filled(strokes: Tensor) -> Tensor:
    """The strokes, the last of them repeated up to SEGMENTS."""
    missing = SEGMENTS - strokes.shape[1]
    repeated = strokes[:, -1:].expand(-1, missing, -1, -1)
    return torch.cat([strokes, repeated], 1)


def _around(angles: Tensor) -> Tensor:
    """Points of the unit circle."""
    return torch.stack([torch.sin(angles), torch.cos(angles)], -1)


def line(random: torch.Generator, n: int) -> Tensor:
    t = torch.linspace(-1, 1, 7).expand(n, 7)
    bend = uniform(random, -0.2, 0.2, n, 1)
    return _polyline(torch.stack([t**2 * bend, t * 1.3], -1))


def pair(random: torch.Generator, n: int) -> Tensor:
    gap = uniform(random, 0.2, 0.45, n, 1).expand(n, 2)
    ends = torch.tensor([-1.2, 1.2]).expand(n, 2)
    first = torch.stack([gap, ends], -1)
    second = torch.stack([-gap, ends], -1)
    return _filled(torch.stack([first, second], 1))


def arc(random: torch.Generator, n: int) -> Tensor:
    sweep = uniform(random, 1.6, 3.6, n, 1)
    angles = torch.linspace(0, 1, 11) * sweep
    return _polyline(_around(angles))


def ring(random: torch.Generator, n: int) -> Tensor:
    angles = torch.linspace(0, 2 * math.pi, 13).expand(n, 13)
    radius = uniform(random, 0.4, 0.8, n, 1, 1, 1)
    return _polyline(_around(angles)) * radius


def dot(random: torch.Generator, n: int) -> Tensor:
    place = uniform(random, -0.1, 0.1, n, 1, 1, 2)
    return place.expand(n, SEGMENTS, 2, 2)


def dots(random: torch.Generator, n: int) -> Tensor:
    places = uniform(random, -1, 1, n, SEGMENTS, 1, 2)
    count = torch.randint(3, SEGMENTS, (n, 1), generator=random)
    is_shown = torch.arange(SEGMENTS).expand(n, SEGMENTS) < count
    shown = torch.where(is_shown[:, :, None, None], places, places[:, :1])
    return shown.expand(n, SEGMENTS, 2, 2)


def zigzag(random: torch.Generator, n: int) -> Tensor:
    signs = torch.tensor([1.0, -1.0]).repeat(4)[:7]
    height = uniform(random, 0.25, 0.5, n, 1) * signs
    along = torch.linspace(-1.2, 1.2, 7).expand(n, 7)
    return _polyline(torch.stack([height, along], -1))


def cross(random: torch.Generator, n: int) -> Tensor:
    angle = uniform(random, 1.1, 2.0, n)
    ends = _around(torch.stack([torch.zeros(n), angle], 1))
    return _filled(torch.stack([ends, -ends], 2))


def square(random: torch.Generator, n: int) -> Tensor:
    corners = torch.tensor([[-1.0, -1], [-1, 1], [1, 1], [1, -1], [-1, -1]])
    size = uniform(random, 0.4, 0.8, n, 1, 2)
    return _polyline(corners.expand(n, 5, 2) * size)


def fork(random: torch.Generator, n: int) -> Tensor:
    second = uniform(random, 1.7, 2.4, n)
    third = uniform(random, 3.6, 4.6, n)
    angles = torch.stack([torch.zeros(n), second, third], 1)
    tips = _around(angles) * 1.1
    return _filled(torch.stack([torch.zeros_like(tips), tips], 2))


def dashes(random: torch.Generator, n: int) -> Tensor:
    even = torch.linspace(-1.3, 0.9, 4).expand(n, 4)
    starts = even + uniform(random, -0.1, 0.1, n, 4)
    ends = torch.stack([starts, starts + 0.35], 2)
    return _filled(torch.stack([torch.zeros_like(ends), ends], -1))


def wander(random: torch.Generator, n: int) -> Tensor:
    turns = uniform(random, -0.9, 0.9, n, SEGMENTS)
    directions = _around(turns.cumsum(1) * 0.6)
    lengths = uniform(random, 0.12, 0.3, n, SEGMENTS, 1)
    path = (directions * lengths).cumsum(1)
    path = torch.cat([torch.zeros(n, 1, 2), path], 1)
    return _polyline(path - path.mean(1, keepdim=True))


MARKS: tuple[
    tuple[Callable[[torch.Generator, int], Tensor], tuple[float, float], float], ...
] = (
    # drawn by, half-width from and to, how far noise frays its edge
    (dot, (0, 0), 0.0),  # width 0: no mark at all
    (line, (0.6, 1.8), 0.3),
    (pair, (0.6, 1.5), 0.3),
    (arc, (0.6, 1.8), 0.3),
    (ring, (0.6, 1.8), 0.3),
    (dot, (3.0, 8.0), 0.5),
    (dots, (1.2, 3.0), 0.3),
    (zigzag, (0.6, 1.6), 0.3),
    (cross, (0.6, 1.8), 0.3),
    (square, (0.6, 1.8), 0.3),
    (fork, (0.6, 1.8), 0.3),
    (dashes, (0.8, 1.8), 0.3),
    (wander, (0.6, 1.8), 0.5),
    (dot, (9.0, 17.0), 7.0),  # a large frayed patch
)

OUTPUTS = len(TEXTURES) + len(MARKS)
"""A network's outputs: a score for each texture, then one for each mark."""


def _placed(random: torch.Generator, strokes: Tensor, side: int) -> Tensor:
    """Turn, stretch, scale and move unit strokes into the picture."""
    n = len(strokes)
    turn = _rotations(uniform(random, 0, 2 * math.pi, n))
    stretch = uniform(random, 0.75, 1.1, n, 1, 1, 2)
    turned = torch.einsum("nij,nkej->nkei", turn, strokes * stretch)
    radius = uniform(random, 9, 24, n, 1, 1, 1)
    place = uniform(random, side * 0.3, side * 0.7, n, 1, 1, 2)
    return turned * radius + place


def _distance(strokes: Tensor, side: int) -> Tensor:
    """Distance of each pixel from the nearest stroke."""
    y, x = _grid(side)
    nearest = torch.full((len(strokes), side, side), 1e9)
    for number in range(strokes.shape[1]):
        start_y, start_x = strokes[:, number, 0, :, None, None].unbind(1)
        end_y, end_x = strokes[:, number, 1, :, None, None].unbind(1)
        stroke_y = end_y - start_y
        stroke_x = end_x - start_x
        pixel_y = y - start_y
        pixel_x = x - start_x
        squared_length = stroke_y * stroke_y + stroke_x * stroke_x + 1e-6
        share = (pixel_y * stroke_y + pixel_x * stroke_x) / squared_length
        share = share.clamp(0, 1)  # of the stroke, at the point nearest to the pixel
        squared = (pixel_y - share * stroke_y) ** 2 + (pixel_x - share * stroke_x) ** 2
        nearest = torch.minimum(nearest, squared)
    return nearest.sqrt()


def _embossed(height: Tensor, angle: Tensor) -> Tensor:
    """Relief lit from one side."""
    down = height[:, 1:] - height[:, :-1]
    right = height[:, :, 1:] - height[:, :, :-1]
    slope_y = functional.pad(down, (0, 0, 0, 1))
    slope_x = functional.pad(right, (0, 1))
    return slope_y * torch.sin(angle) + slope_x * torch.cos(angle)


def draw(
    random: torch.Generator, n: int, side: int, ease: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Pictures as bytes (n, 3, side, side), and the numbers of their textures and marks
    (n, 2).

    `ease` goes from 0, as hard as it gets, to 1, bold marks on faint textures.
    """
    textures = torch.randint(len(TEXTURES), (n,), generator=random)
    marks = torch.randint(len(MARKS), (n,), generator=random)
    ground = _draw_textures(random, textures, side)
    profile = _draw_marks(random, marks, side, ease)
    pictures = _lit(random, ground, profile, side, ease)
    return pictures, torch.stack([textures, marks], 1)


def _draw_textures(random: torch.Generator, textures: Tensor, side: int) -> Tensor:
    """A texture for each of these numbers (n,)."""
    ground = torch.zeros(len(textures), side, side)
    for number, texture in enumerate(TEXTURES):
        chosen = (textures == number).nonzero()[:, 0]
        if len(chosen):
            ground[chosen] = texture(random, len(chosen), side)
    return ground


def _draw_marks(
    random: torch.Generator, marks: Tensor, side: int, ease: float
) -> Tensor:
    """How much each pixel belongs to the mark of each of these numbers (n,), from 0 to
    1.
    """
    n = len(marks)
    strokes = torch.zeros(n, SEGMENTS, 2, 2)
    width = torch.zeros(n)
    fray = torch.zeros(n)
    for number, (mark, (narrowest, widest), frayed) in enumerate(MARKS):
        chosen = (marks == number).nonzero()[:, 0]
        strokes[chosen] = mark(random, len(chosen))
        width[chosen] = uniform(random, narrowest, widest, len(chosen))
        fray[chosen] = frayed
    distance = _distance(_placed(random, strokes, side), side)
    distance += noise(random, n, side, side // 5, side // 5) * fray[:, None, None]
    bold = width * (1 + 0.7 * ease)
    softness = uniform(random, 0.8, 1.6, n, 1, 1)
    profile = (bold[:, None, None] - distance) / softness + 0.5
    profile = profile.clamp(0, 1)
    profile[width == 0] = 0
    return profile


def _lit(
    random: torch.Generator, ground: Tensor, mark: Tensor, side: int, ease: float
) -> Tensor:
    """The mark laid on the texture in some colour and relief, then lit and
    photographed.
    """
    n = len(ground)
    faint = 1 - 0.7 * ease
    contrast = uniform(random, 0.02, 0.22, n, 1, 1) * faint
    depth = uniform(random, 0.2, 0.6, n, 1, 1) * (1 + ease)
    angle = uniform(random, 0, 2 * math.pi, n, 1, 1)
    sign = chance(random, 0.5, n, 1, 1) * 2 - 1
    relief = chance(random, 0.35, n, 1, 1)
    light = uniform(random, 0.3, 0.7, n, 1, 1)
    light = light + ground * contrast + mark * sign * depth * (1 - relief)
    light = (
        light
        + _embossed(mark, angle) * depth * 1.5 * relief
        + _embossed(ground, angle) * contrast * 2
    )
    colour = uniform(random, 0.7, 1.3, n, 3, 1, 1)
    hue = uniform(random, -0.15, 0.15, n, 3, 1, 1)
    is_dyed = chance(random, 0.5, n, 1, 1, 1)
    dye = mark[:, None] * hue * is_dyed
    brightness = _brightness(random, angle, side)
    picture = (light[:, None] * colour + dye) * brightness[:, None]
    grain_noise = torch.randn(picture.shape, generator=random)
    strength = uniform(random, 0.005, 0.04, n, 1, 1, 1)
    picture = picture + grain_noise * strength * faint
    return (picture * 255).clamp(0, 255).to(torch.uint8)


def _brightness(random: torch.Generator, angle: Tensor, side: int) -> Tensor:
    """Uneven light from some angle (n, 1, 1); of some pictures, little light."""
    n = len(angle)
    y, x = _grid(side)
    ramp = (y * torch.sin(angle) + x * torch.cos(angle)) / side - 0.5
    steepness = uniform(random, 0, 0.7, n, 1, 1)
    shade = 1 + ramp * steepness + noise(random, n, side, 3, 3) * 0.1
    is_dark = chance(random, 0.3, n, 1, 1) > 0
    darkness = uniform(random, 0.3, 0.6, n, 1, 1)
    gain = torch.where(is_dark, darkness, 1.0)
    return shade * gain
