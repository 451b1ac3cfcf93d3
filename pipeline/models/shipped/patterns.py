"""Pictures to pretrain on: a texture, a mark on it, and some lighting, all drawn at random.

A picture has two answers, its texture and its mark; contrast, polarity, colour, place, size, turn and lighting are
nuisances. Nothing here is shared with the sample data set: its flaws are drawn elsewhere, and no class of it is one here.
Tensors are (n, side, side) and lengths are in pixels unless a docstring says otherwise.
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
    return torch.rand(*shape, generator=random) * (high - low) + low


def chance(random: torch.Generator, probability: float, *shape: int) -> Tensor:
    """1.0 with the given probability, else 0.0."""
    return (torch.rand(*shape, generator=random) < probability).float()


def noise(random: torch.Generator, n: int, side: int, rows: int, columns: int) -> Tensor:
    """Smooth noise with about unit range from a lattice of rows × columns."""
    lattice = torch.rand(n, 1, rows, columns, generator=random) * 2 - 1
    return functional.interpolate(lattice, (side, side), mode="bilinear", align_corners=True)[:, 0]


def _grid(side: int) -> tuple[Tensor, Tensor]:
    axis = torch.arange(side, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return y, x


def _wave(random: torch.Generator, n: int, side: int, angle: Tensor, period: Tensor) -> Tensor:
    """A sine grating whose stripes wobble a little."""
    y, x = _grid(side)
    along = x * torch.cos(angle) + y * torch.sin(angle) + noise(random, n, side, 4, 4) * 2
    return torch.sin(along * 2 * math.pi / period + uniform(random, 0, 6.3, n, 1, 1))


def plain(random: torch.Generator, n: int, side: int) -> Tensor:
    return noise(random, n, side, 3, 3) * 0.3


def clouds(random: torch.Generator, n: int, side: int) -> Tensor:
    octaves = [noise(random, n, side, cells, cells) * weight for cells, weight in ((5, 0.5), (11, 0.3), (23, 0.25))]
    return torch.stack(octaves).sum(0)


def grain(random: torch.Generator, n: int, side: int) -> Tensor:
    return noise(random, n, side, side // 2, side // 2) * 0.6 + noise(random, n, side, side, side) * 0.4


def stripes(random: torch.Generator, n: int, side: int) -> Tensor:
    angle, period = uniform(random, 0, math.pi, n, 1, 1), uniform(random, 4, 14, n, 1, 1)
    return _wave(random, n, side, angle, period) * 0.6


def streaks(random: torch.Generator, n: int, side: int) -> Tensor:
    """Noise drawn out along a random direction."""
    long, fine = noise(random, n, side, side, 3), noise(random, n, side, side // 2, 5)
    angle = uniform(random, 0, math.pi, n)
    rows = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)], 1)
    turn = torch.cat([rows.view(n, 2, 2), torch.zeros(n, 2, 1)], 2)
    grid = functional.affine_grid(turn, [n, 1, side, side], align_corners=False)
    picture = (long + fine * 0.6)[:, None]
    return functional.grid_sample(picture, grid, padding_mode="reflection", align_corners=False)[:, 0]


def checks(random: torch.Generator, n: int, side: int) -> Tensor:
    angle, period = uniform(random, 0, math.pi, n, 1, 1), uniform(random, 7, 20, n, 1, 1)
    product = _wave(random, n, side, angle, period) * _wave(random, n, side, angle + math.pi / 2, period)
    return torch.tanh(product * 4) * 0.5


def cells(random: torch.Generator, n: int, side: int) -> Tensor:
    """Distance to the nearest of scattered points (Worley 1996)."""
    y, x = _grid(side)
    nearest = torch.full((n, side, side), float(side * side))
    for _ in range(28):
        at_y, at_x = uniform(random, 0, side, 2, n, 1, 1)
        nearest = torch.minimum(nearest, (y - at_y) ** 2 + (x - at_x) ** 2)
    return nearest.sqrt() / (side / 9) - 0.8


def spots(random: torch.Generator, n: int, side: int) -> Tensor:
    return torch.sigmoid((noise(random, n, side, side // 5, side // 5) - 0.35) * 12) - 0.3


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

# Marks are strokes (n, SEGMENTS, 2 ends, 2 coordinates y x) in a frame where the mark has about unit radius. Those that
# need fewer strokes repeat one.


def _polyline(points: Tensor) -> Tensor:
    """Strokes joining points (n, count, 2) in order."""
    return _filled(torch.stack([points[:, :-1], points[:, 1:]], 2))


def _filled(strokes: Tensor) -> Tensor:
    rest = strokes[:, -1:].expand(-1, SEGMENTS - strokes.shape[1], -1, -1)
    return torch.cat([strokes, rest], 1)


def _around(angles: Tensor) -> Tensor:
    return torch.stack([torch.sin(angles), torch.cos(angles)], -1)


def line(random: torch.Generator, n: int) -> Tensor:
    t = torch.linspace(-1, 1, 7).expand(n, 7)
    return _polyline(torch.stack([t**2 * uniform(random, -0.2, 0.2, n, 1), t * 1.3], -1))


def pair(random: torch.Generator, n: int) -> Tensor:
    gap = uniform(random, 0.2, 0.45, n, 1).expand(n, 2)
    ends = torch.tensor([-1.2, 1.2]).expand(n, 2)
    one, other = torch.stack([gap, ends], -1), torch.stack([-gap, ends], -1)
    return _filled(torch.stack([one, other], 1))


def arc(random: torch.Generator, n: int) -> Tensor:
    sweep = uniform(random, 1.6, 3.6, n, 1)
    return _polyline(_around(torch.linspace(0, 1, 11) * sweep))


def ring(random: torch.Generator, n: int) -> Tensor:
    return _polyline(_around(torch.linspace(0, 2 * math.pi, 13).expand(n, 13))) * uniform(random, 0.4, 0.8, n, 1, 1, 1)


def dot(random: torch.Generator, n: int) -> Tensor:
    return uniform(random, -0.1, 0.1, n, 1, 1, 2).expand(n, SEGMENTS, 2, 2)


def dots(random: torch.Generator, n: int) -> Tensor:
    places = uniform(random, -1, 1, n, SEGMENTS, 1, 2)
    shown = torch.arange(SEGMENTS).expand(n, SEGMENTS) < torch.randint(3, SEGMENTS, (n, 1), generator=random)
    return torch.where(shown[:, :, None, None], places, places[:, :1]).expand(n, SEGMENTS, 2, 2)


def zigzag(random: torch.Generator, n: int) -> Tensor:
    height = uniform(random, 0.25, 0.5, n, 1) * torch.tensor([1.0, -1.0]).repeat(4)[:7]
    return _polyline(torch.stack([height, torch.linspace(-1.2, 1.2, 7).expand(n, 7)], -1))


def cross(random: torch.Generator, n: int) -> Tensor:
    angle = uniform(random, 1.1, 2.0, n)
    ends = _around(torch.stack([torch.zeros(n), angle], 1))
    return _filled(torch.stack([ends, -ends], 2))


def square(random: torch.Generator, n: int) -> Tensor:
    corners = torch.tensor([[-1.0, -1], [-1, 1], [1, 1], [1, -1], [-1, -1]]).expand(n, 5, 2)
    return _polyline(corners * uniform(random, 0.4, 0.8, n, 1, 2))


def fork(random: torch.Generator, n: int) -> Tensor:
    angles = torch.stack([torch.zeros(n), uniform(random, 1.7, 2.4, n), uniform(random, 3.6, 4.6, n)], 1)
    tips = _around(angles) * 1.1
    return _filled(torch.stack([torch.zeros_like(tips), tips], 2))


def dashes(random: torch.Generator, n: int) -> Tensor:
    starts = torch.linspace(-1.3, 0.9, 4).expand(n, 4) + uniform(random, -0.1, 0.1, n, 4)
    ends = torch.stack([starts, starts + 0.35], 2)
    return _filled(torch.stack([torch.zeros_like(ends), ends], -1))


def wander(random: torch.Generator, n: int) -> Tensor:
    turns = (uniform(random, -0.9, 0.9, n, SEGMENTS)).cumsum(1) * 0.6
    path = (_around(turns) * uniform(random, 0.12, 0.3, n, SEGMENTS, 1)).cumsum(1)
    path = torch.cat([torch.zeros(n, 1, 2), path], 1)
    return _polyline(path - path.mean(1, keepdim=True))


MARKS: tuple[tuple[Callable[[torch.Generator, int], Tensor], tuple[float, float], float], ...] = (
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
    angle = uniform(random, 0, 2 * math.pi, n)
    turn = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)], 1).view(n, 2, 2)
    stretch = uniform(random, 0.75, 1.1, n, 1, 1, 2)
    turned = torch.einsum("nij,nkej->nkei", turn, strokes * stretch)
    radius = uniform(random, 9, 24, n, 1, 1, 1)
    return turned * radius + uniform(random, side * 0.3, side * 0.7, n, 1, 1, 2)


def _distance(strokes: Tensor, side: int) -> Tensor:
    """Distance of each pixel from the nearest stroke."""
    y, x = _grid(side)
    nearest = torch.full((len(strokes), side, side), 1e9)
    for k in range(strokes.shape[1]):
        (ay, ax), (by, bx) = strokes[:, k, 0, :, None, None].unbind(1), strokes[:, k, 1, :, None, None].unbind(1)
        dy, dx = by - ay, bx - ax
        py, px = y - ay, x - ax
        along = ((py * dy + px * dx) / (dy * dy + dx * dx + 1e-6)).clamp(0, 1)
        nearest = torch.minimum(nearest, (py - along * dy) ** 2 + (px - along * dx) ** 2)
    return nearest.sqrt()


def _embossed(height: Tensor, angle: Tensor) -> Tensor:
    """Relief lit from one side."""
    dy = functional.pad(height[:, 1:] - height[:, :-1], (0, 0, 0, 1))
    dx = functional.pad(height[:, :, 1:] - height[:, :, :-1], (0, 1))
    return dy * torch.sin(angle) + dx * torch.cos(angle)


def draw(random: torch.Generator, n: int, side: int, ease: float = 0.0) -> tuple[Tensor, Tensor]:
    """Pictures as bytes (n, 3, side, side), and the numbers of their textures and marks (n, 2).

    `ease` goes from 0, as hard as it gets, to 1, bold marks on faint textures.
    """
    textures = torch.randint(len(TEXTURES), (n,), generator=random)
    marks = torch.randint(len(MARKS), (n,), generator=random)
    ground, shape = torch.zeros(n, side, side), torch.zeros(n, SEGMENTS, 2, 2)
    width, fray = torch.zeros(n), torch.zeros(n)
    for number, texture in enumerate(TEXTURES):
        chosen = (textures == number).nonzero()[:, 0]
        if len(chosen):
            ground[chosen] = texture(random, len(chosen), side)
    for number, (mark, widths, frayed) in enumerate(MARKS):
        chosen = (marks == number).nonzero()[:, 0]
        shape[chosen] = mark(random, len(chosen))
        width[chosen], fray[chosen] = uniform(random, *widths, len(chosen)), frayed
    distance = _distance(_placed(random, shape, side), side)
    distance += noise(random, n, side, side // 5, side // 5) * fray[:, None, None]
    bold = width * (1 + 0.7 * ease)
    profile = ((bold[:, None, None] - distance) / uniform(random, 0.8, 1.6, n, 1, 1) + 0.5).clamp(0, 1)
    profile[width == 0] = 0
    return _lit(random, ground, profile, side, ease), torch.stack([textures, marks], 1)


def _lit(random: torch.Generator, ground: Tensor, mark: Tensor, side: int, ease: float) -> Tensor:
    """The mark laid on the texture in some colour and relief, then lit and photographed."""
    n = len(ground)
    faint = 1 - 0.7 * ease
    contrast = uniform(random, 0.02, 0.22, n, 1, 1) * faint
    depth = uniform(random, 0.2, 0.6, n, 1, 1) * (1 + ease)
    angle = uniform(random, 0, 2 * math.pi, n, 1, 1)
    sign = chance(random, 0.5, n, 1, 1) * 2 - 1
    relief = chance(random, 0.35, n, 1, 1)
    light = uniform(random, 0.3, 0.7, n, 1, 1) + ground * contrast + mark * sign * depth * (1 - relief)
    light = light + _embossed(mark, angle) * depth * 1.5 * relief + _embossed(ground, angle) * contrast * 2
    colour = uniform(random, 0.7, 1.3, n, 3, 1, 1)
    dye = mark[:, None] * uniform(random, -0.15, 0.15, n, 3, 1, 1) * chance(random, 0.5, n, 1, 1, 1)
    y, x = _grid(side)
    ramp = (y * torch.sin(angle) + x * torch.cos(angle)) / side - 0.5
    shade = 1 + ramp * uniform(random, 0, 0.7, n, 1, 1) + noise(random, n, side, 3, 3) * 0.1
    gain = torch.where(chance(random, 0.3, n, 1, 1) > 0, uniform(random, 0.3, 0.6, n, 1, 1), 1.0)
    picture = (light[:, None] * colour + dye) * (shade * gain)[:, None]
    picture = picture + torch.randn(picture.shape, generator=random) * uniform(random, 0.005, 0.04, n, 1, 1, 1) * faint
    return (picture * 255).clamp(0, 255).to(torch.uint8)
