"""Line and reliability charts as inline SVG: drawn at the width of a phone, so that no text is ever scaled down.

Colours and type come from the page's style sheet by class, so a chart follows light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from pipeline.report.formatting import shown

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 40, 66, 22, 34
LABEL_GAP, LABEL_LENGTH = 13, 10

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve; `style` is a class of the style sheet: main, second or faint."""

    name: str
    points: Sequence[Point]
    style: str = "main"


@dataclass(frozen=True)
class Scale:
    """Maps values linearly, or by their logarithm, to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (map(math.log10, (self.low, self.high, value))) if self.log else (self.low, self.high, value)
        return self.start + (value - low) / ((high - low) or 1) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values within [low, high], at steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= most)
    return [round(n * step, 12) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def lines(
    title: str,
    curves: Sequence[Line],
    *,
    x_label: str,
    y_format: Callable[[float], str],
    marks: Iterable[tuple[float, str]] = (),
    log_x: bool = False,
) -> Markup:
    """Curves over a common axis, each labelled at its end.

    Args:
        title: what is shown; also the text for who cannot see it.
        x_label: name of the horizontal axis, which counts.
        y_format: writes a value of the vertical axis.
        marks: (x, name) where something begins.
        log_x: a logarithmic horizontal axis.
    """
    every = [point for curve in curves for point in _finite(curve.points)]
    if not every:
        return Markup("")
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    y_low, y_high = min(y for _, y in every), max(y for _, y in every)
    room = (y_high - y_low) * 0.06 or 0.05
    x = Scale(x_low, x_high, LEFT, WIDTH - RIGHT, log_x)
    y = Scale(y_low - room, y_high + room, HEIGHT - BOTTOM, TOP)
    parts = [_grid(y, y_format), _bottom(x, x_label), _marks(x, marks)]
    parts += [_curve(curve, x, y) for curve in curves]
    parts.append(_labels(curves, y))
    return _svg(title, parts)


@dataclass(frozen=True)
class Dot:
    """One reliability bin."""

    confidence: float
    accuracy: float
    low: float
    high: float
    examples: int


def reliability(title: str, dots: Sequence[Dot]) -> Markup:
    """Accuracy over confidence, with intervals; the area of a dot grows with its examples. On the diagonal, a model
    is right as often as it says."""
    side = HEIGHT - TOP - BOTTOM
    x, y = Scale(0, 1, LEFT, LEFT + side * 1.5), Scale(0, 1, HEIGHT - BOTTOM, TOP)
    most = max((dot.examples for dot in dots), default=1)
    parts = [_grid(y, lambda value: f"{value:.0%}", [0, 0.5, 1]), _bottom(x, "confidence", [0, 0.5, 1], "{:.0%}")]
    parts.append(f'<line class="ideal" x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}"/>')
    for dot in dots:
        at, radius = x(dot.confidence), 2 + 6 * math.sqrt(dot.examples / most)
        parts.append(
            f'<line class="whisker" x1="{at:.1f}" y1="{y(dot.low):.1f}" x2="{at:.1f}" y2="{y(dot.high):.1f}"/>'
        )
        parts.append(f'<circle class="dot" cx="{at:.1f}" cy="{y(dot.accuracy):.1f}" r="{radius:.1f}"/>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 9}">accuracy</text>')
    return _svg(title, parts)


def matrix(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """How often each class (row) was taken for each (column): darker where it is more of the row."""
    side = (HEIGHT - TOP - BOTTOM) / len(labels)
    left = (WIDTH - side * len(labels)) / 2
    parts = []
    for row, (label, line) in enumerate(zip(labels, counts, strict=True)):
        y, total = TOP + row * side, sum(line) or 1
        parts.append(
            f'<text class="y" x="{left - 6:.1f}" y="{y + side / 2:.1f}" dy="0.35em">{_cut(label)}</text>'
            f'<text class="x" x="{left + (row + 0.5) * side:.1f}" y="{HEIGHT - BOTTOM + 15}">{_cut(label, int(side / 5))}</text>'
        )
        for column, count in enumerate(line):
            x, kind = left + column * side, "" if row == column else "second"
            parts.append(
                f'<circle class="{kind}" cx="{x + side / 2:.1f}" cy="{y + side / 2:.1f}" '
                f'r="{0.48 * side * math.sqrt(count / total):.1f}" fill-opacity="0.35"/>'
                + (
                    f'<text class="x" x="{x + side / 2:.1f}" y="{y + side / 2:.1f}" dy="0.35em">{count}</text>'
                    if count
                    else ""
                )
            )
    parts.append(f'<text x="{left:.1f}" y="{TOP - 8}">is (row), was taken for (column)</text>')
    return _svg(title, parts)


def _svg(title: str, parts: Iterable[str]) -> Markup:
    name = escape(shown(title))
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}"><title>{name}</title>'
        + "".join(parts)
        + "</svg>"
    )


def _grid(y: Scale, y_format: Callable[[float], str], at: Sequence[float] | None = None) -> str:
    rows = []
    for value in at if at is not None else ticks(y.low, y.high):
        level = f"{y(value):.1f}"
        rows.append(f'<line class="grid" x1="{LEFT}" y1="{level}" x2="{WIDTH - RIGHT}" y2="{level}"/>')
        rows.append(f'<text class="y" x="{LEFT - 6}" y="{level}" dy="0.35em">{escape(y_format(value))}</text>')
    return "".join(rows)


def _bottom(x: Scale, label: str, at: Sequence[float] | None = None, form: str = "{:g}") -> str:
    if x.log:
        powers = range(math.ceil(math.log10(x.low) - 1e-9), math.floor(math.log10(x.high) + 1e-9) + 1)
        named = [(10.0**power, f"1e{power}".replace("-", "\u2212")) for power in powers]
    else:
        whole = [value for value in ticks(x.low, x.high) if value == round(value)]  # epochs, examples
        named = [(value, form.format(value)) for value in (at if at is not None else whole)]
    texts = [f'<text class="x" x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 15}">{name}</text>' for value, name in named]
    end = f'<text class="x" x="{(x.start + x.end) / 2:.1f}" y="{HEIGHT - 4}">{escape(label)}</text>'
    return "".join(texts) + end


def _marks(x: Scale, marks: Iterable[tuple[float, str]]) -> str:
    parts = []
    for value, name in marks:
        if not x.low <= value <= x.high:
            continue
        at = f"{x(value):.1f}"
        parts.append(f'<line class="mark" x1="{at}" y1="{TOP - 4}" x2="{at}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="mark" x="{float(at) + 3:.1f}" y="{TOP - 8}">{_cut(name)}</text>')
    return "".join(parts)


def _curve(curve: Line, x: Scale, y: Scale) -> str:
    at = [(x(a), y(b)) for a, b in _finite(curve.points)]
    if not at:
        return ""
    if len(at) == 1:
        return f'<circle class="{curve.style}" cx="{at[0][0]:.1f}" cy="{at[0][1]:.1f}" r="3"/>'
    return f'<polyline class="{curve.style}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in at)}"/>'


def _labels(curves: Sequence[Line], y: Scale) -> str:
    """Names at the curves' ends, moved apart where they would lie on each other."""
    ends = [(_finite(curve.points)[-1:], curve) for curve in curves if curve.name]
    placed = sorted(((y(points[0][1]), curve) for points, curve in ends if points), key=lambda pair: pair[0])
    levels: list[float] = []
    for level, _ in placed:
        levels.append(max(level, levels[-1] + LABEL_GAP) if levels else level)
    lift = max(0.0, levels[-1] - (HEIGHT - BOTTOM)) if levels else 0.0
    return "".join(
        f'<text class="end {curve.style}" x="{WIDTH - RIGHT + 6}" y="{level - lift:.1f}" dy="0.35em">{_cut(curve.name)}</text>'
        for level, (_, curve) in zip(levels, placed, strict=True)
    )


def _finite(points: Iterable[Point]) -> list[Point]:
    return [point for point in points if all(map(math.isfinite, point))]


def _cut(name: str, length: int = LABEL_LENGTH) -> Markup:
    text = str(shown(name))
    return escape(text if len(text) <= length else text[: max(0, length - 1)] + "…")
