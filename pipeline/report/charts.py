"""Line and reliability charts as inline SVG: drawn at the width of a phone, so that no
text is ever scaled down.

Colours and type come from the page's style sheet by class, so a chart follows light,
dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup, escape

from pipeline.records import MetricEstimate
from pipeline.report.formatting import MINUS, make_visible
from pipeline.text import shorten

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 40, 66, 22, 34
BASE = HEIGHT - BOTTOM
LABEL_GAP, LABEL_LENGTH = 13, 10
STEPS = (1, 2, 5, 10, 20)
ROUNDING = 1e-9

Point = tuple[float, float]
TickFormat = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """One curve; `style` is a class of the style sheet: main, second or faint."""

    name: str
    points: Sequence[Point]
    style: str = "main"


class Mark(NamedTuple):
    """A place on the horizontal axis where something begins."""

    x: float
    name: str


@dataclass(frozen=True)
class Dot:
    """One reliability bin."""

    confidence: float
    accuracy: MetricEstimate
    examples: int


@dataclass(frozen=True)
class Scale:
    """Maps values linearly, or by their logarithm, to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        low = self.low
        high = self.high
        if self.log:
            low = math.log10(low)
            high = math.log10(high)
            value = math.log10(value)
        span = (high - low) or 1
        share = (value - low) / span
        return self.start + share * (self.end - self.start)


# --- charts ---------------------------------------------------------------------------


def draw_lines(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_format: TickFormat,
    marks: Iterable[Mark] = (),
    log_x: bool = False,
) -> Markup:
    """Curves over a common axis, each labelled at its end; empty where there is no
    point.

    Args:
        title: what is shown; also the text for who cannot see it.
        x_label: name of the horizontal axis, which counts.
        y_format: writes a value of the vertical axis.
        marks: where something begins.
        log_x: a logarithmic horizontal axis.
    """
    points: list[Point] = []
    for line in lines:
        points += _finite(line.points)
    if not points:
        return Markup("")
    xs = [point[0] for point in points]
    ys = [point[1] for point in points]
    margin = (max(ys) - min(ys)) * 0.06 or 0.05
    x_scale = Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT, log_x)
    y_scale = Scale(min(ys) - margin, max(ys) + margin, BASE, TOP)
    parts = [
        _draw_grid(y_scale, find_ticks(y_scale.low, y_scale.high), y_format),
        _draw_x_axis(x_scale, _x_ticks(x_scale), x_label),
        _draw_marks(x_scale, marks),
    ]
    parts += [_draw_curve(line, x_scale, y_scale) for line in lines]
    parts.append(_draw_line_names(lines, y_scale))
    return _wrap_svg(title, parts)


def draw_reliability(title: str, dots: Sequence[Dot]) -> Markup:
    """Accuracy over confidence, with intervals; the area of a dot grows with its
    examples. On the diagonal, a model is right as often as it says.
    """
    side = BASE - TOP
    x_scale = Scale(0, 1, LEFT, LEFT + side * 1.5)
    y_scale = Scale(0, 1, BASE, TOP)
    ticks = [0.0, 0.5, 1.0]
    most = max((dot.examples for dot in dots), default=1)
    x_ticks = [(value, _format_share(value)) for value in ticks]
    start = f'x1="{x_scale.place(0):.1f}" y1="{y_scale.place(0):.1f}"'
    end = f'x2="{x_scale.place(1):.1f}" y2="{y_scale.place(1):.1f}"'
    parts = [
        _draw_grid(y_scale, ticks, _format_share),
        _draw_x_axis(x_scale, x_ticks, "confidence"),
        f'<line class="ideal" {start} {end}/>',
    ]
    for dot in dots:
        parts.append(_draw_dot(dot, x_scale, y_scale, most))
    parts.append(f'<text x="{LEFT}" y="{TOP - 9}">accuracy</text>')
    return _wrap_svg(title, parts)


def _draw_dot(dot: Dot, x_scale: Scale, y_scale: Scale, most: int) -> str:
    x = f"{x_scale.place(dot.confidence):.1f}"
    y = f"{y_scale.place(dot.accuracy.value):.1f}"
    low = f"{y_scale.place(dot.accuracy.low):.1f}"
    high = f"{y_scale.place(dot.accuracy.high):.1f}"
    share = dot.examples / most
    radius = 2 + 6 * math.sqrt(share)
    whisker = f'<line class="whisker" x1="{x}" y1="{low}" x2="{x}" y2="{high}"/>'
    circle = f'<circle class="dot" cx="{x}" cy="{y}" r="{radius:.1f}"/>'
    return whisker + circle


def draw_matrix(
    title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]
) -> Markup:
    """How often each class (row) was taken for each (column): larger where it is more
    of the row.
    """
    side = (BASE - TOP) / len(labels)
    left = (WIDTH - side * len(labels)) / 2
    parts = []
    for row, (label, line) in enumerate(zip(labels, counts, strict=True)):
        y = TOP + (row + 0.5) * side
        x = left + (row + 0.5) * side
        row_name = _shorten(label)
        column_name = _shorten(label, int(side / 5))
        parts.append(
            f'<text class="y" x="{left - 6:.1f}" y="{y:.1f}" dy="0.35em">{row_name}</text>'
        )
        parts.append(
            f'<text class="x" x="{x:.1f}" y="{BASE + 15}">{column_name}</text>'
        )
        total = sum(line) or 1
        for column, count in enumerate(line):
            x = left + (column + 0.5) * side
            style = "" if row == column else "second"
            radius = 0.48 * side * math.sqrt(count / total)
            parts.append(
                f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill-opacity="0.35"/>'
            )
            if count:
                parts.append(
                    f'<text class="x" x="{x:.1f}" y="{y:.1f}" dy="0.35em">{count}</text>'
                )
    parts.append(
        f'<text x="{left:.1f}" y="{TOP - 8}">class (row), predicted class (column)</text>'
    )
    return _wrap_svg(title, parts)


def _wrap_svg(title: str, parts: Iterable[str]) -> Markup:
    name = escape(make_visible(title))
    content = "".join(parts)
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        f"<title>{name}</title>{content}</svg>"
    )


# --- axes -----------------------------------------------------------------------------


def find_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values within [low, high], at steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / most))
    steps = [power * factor for factor in STEPS]
    step = next(step for step in steps if span / step <= most)
    first = math.ceil(low / step - ROUNDING)
    last = math.floor(high / step + ROUNDING)
    numbers = range(first, last + 1)
    return [round(number * step, 12) for number in numbers]


def _x_ticks(scale: Scale) -> list[tuple[float, str]]:
    """Values of a horizontal axis with their names: powers of ten, or whole numbers
    (epochs, examples).
    """
    if not scale.log:
        return [
            (value, f"{value:g}")
            for value in find_ticks(scale.low, scale.high)
            if value == round(value)
        ]
    first = math.ceil(math.log10(scale.low) - ROUNDING)
    last = math.floor(math.log10(scale.high) + ROUNDING)
    ticks = []
    for power in range(first, last + 1):
        name = f"1e{power}".replace("-", MINUS)
        ticks.append((10.0**power, name))
    return ticks


def _draw_grid(scale: Scale, ticks: Sequence[float], tick_format: TickFormat) -> str:
    parts = []
    for value in ticks:
        y = f"{scale.place(value):.1f}"
        name = escape(tick_format(value))
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>'
        )
        parts.append(
            f'<text class="y" x="{LEFT - 6}" y="{y}" dy="0.35em">{name}</text>'
        )
    return "".join(parts)


def _draw_x_axis(scale: Scale, ticks: Iterable[tuple[float, str]], label: str) -> str:
    parts = []
    for value, name in ticks:
        parts.append(
            f'<text class="x" x="{scale.place(value):.1f}" y="{BASE + 15}">{name}</text>'
        )
    middle = (scale.start + scale.end) / 2
    parts.append(
        f'<text class="x" x="{middle:.1f}" y="{HEIGHT - 4}">{escape(label)}</text>'
    )
    return "".join(parts)


def _draw_marks(scale: Scale, marks: Iterable[Mark]) -> str:
    parts = []
    for mark in marks:
        if not scale.low <= mark.x <= scale.high:
            continue
        x = f"{scale.place(mark.x):.1f}"
        parts.append(
            f'<line class="mark" x1="{x}" y1="{TOP - 4}" x2="{x}" y2="{BASE}"/>'
        )
        parts.append(
            f'<text class="mark" x="{float(x) + 3:.1f}" y="{TOP - 8}">{_shorten(mark.name)}</text>'
        )
    return "".join(parts)


# --- curves ---------------------------------------------------------------------------


def _draw_curve(line: Line, x_scale: Scale, y_scale: Scale) -> str:
    places = []
    for x, y in _finite(line.points):
        places.append((x_scale.place(x), y_scale.place(y)))
    if not places:
        return ""
    if len(places) == 1:
        x, y = places[0]
        return f'<circle class="{line.style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="{line.style}" points="{points}"/>'


def _draw_line_names(lines: Sequence[Line], y_scale: Scale) -> str:
    """Names at the curves' ends, moved apart where they would lie on each other."""
    ends: list[tuple[float, Line]] = []
    for line in lines:
        points = _finite(line.points)
        if line.name and points:
            ends.append((y_scale.place(points[-1][1]), line))
    if not ends:
        return ""
    ends.sort(key=lambda end: end[0])
    heights: list[float] = []
    for wanted, _ in ends:
        lowest = heights[-1] + LABEL_GAP if heights else wanted
        heights.append(max(wanted, lowest))
    lift = max(0.0, heights[-1] - BASE)
    parts = []
    for height, (_, line) in zip(heights, ends, strict=True):
        place = f'x="{WIDTH - RIGHT + 6}" y="{height - lift:.1f}"'
        parts.append(
            f'<text class="end {line.style}" {place} dy="0.35em">{_shorten(line.name)}</text>'
        )
    return "".join(parts)


def _finite(points: Iterable[Point]) -> list[Point]:
    finite = []
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            finite.append((x, y))
    return finite


def _format_share(value: float) -> str:
    return f"{value:.0%}"


def _shorten(name: str, length: int = LABEL_LENGTH) -> Markup:
    visible = str(make_visible(name))
    return escape(shorten(visible, max(length, 1)))
