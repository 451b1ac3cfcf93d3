"""Numbers and sentences of the report, as a reader would say them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline import metric_registry, text
from pipeline.records import (
    BaselineAge,
    Comparison,
    EvaluateRecord,
    MetricEstimate,
    PromoteRecord,
)

NARROW_SPACE = "\u202f"  # unbreakable: between a number and its unit
HARD_SPACE = "\u00a0"  # unbreakable: between a number and its noun
MINUS = "\u2212"
# Unicode's: control, format, surrogate, line and paragraph ends.
INVISIBLE_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
NAMED_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


# --- text -----------------------------------------------------------------------------


def make_visible(value: object) -> object:
    r"""Text with what a reader could not see, or be misled by, made visible: control
    characters, undecodable bytes, marks that turn the writing's direction. The template
    engine passes every value through here.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    if value.isprintable():
        return value
    return "".join(_make_character_visible(character) for character in value)


def _make_character_visible(character: str) -> str:
    if unicodedata.category(character) not in INVISIBLE_CATEGORIES:
        return character
    if character in NAMED_ESCAPES:
        return NAMED_ESCAPES[character]
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"


def join_names(names: Sequence[str]) -> str:
    """a, b and c"""
    if len(names) < 2:
        return "".join(names)
    first_names = ", ".join(names[:-1])
    return f"{first_names} and {names[-1]}"


# --- numbers --------------------------------------------------------------------------


def format_percent(value: float, digits: int = 1) -> str:
    percent = 100 * value
    return f"{percent:.{digits}f}{NARROW_SPACE}%"


def format_metric(metric: str, value: float) -> str:
    """A metric's value: 91.2 %, or 0.314 where it is no share."""
    if metric_registry.find(metric).is_share:
        return format_percent(value)
    return f"{value:.3f}"


def format_interval(metric: str, estimate: MetricEstimate, digits: int = 1) -> str:
    """A metric's interval without its unit: 91.2–98.0."""
    low = estimate.low
    high = estimate.high
    if metric_registry.find(metric).is_share:
        return f"{100 * low:.{digits}f}–{100 * high:.{digits}f}"
    digits += 2
    return f"{low:.{digits}f}–{high:.{digits}f}"


def format_points(value: float) -> str:
    """A difference of shares in percentage points, with its sign: +3.4 points."""
    return f"{_format_signed(value)}{HARD_SPACE}points"


def format_difference(difference: MetricEstimate) -> str:
    """The interval of a difference of shares, in points: −1.2 to +3.4."""
    low = _format_signed(difference.low)
    high = _format_signed(difference.high)
    return f"{low} to {high}"


def _format_signed(share: float) -> str:
    sign = MINUS if share < 0 else "+"
    points = 100 * abs(share)
    return f"{sign}{points:.1f}"


def format_rate(value: float) -> str:
    """A learning rate: 1e-3, 2.5e-4."""
    scientific = f"{value:.1e}"
    mantissa, _, exponent = scientific.partition("e")
    sign = MINUS if exponent.startswith("-") else ""
    digits = int(exponent.lstrip("+-"))
    shown = mantissa.removesuffix(".0")
    return f"{shown}e{sign}{digits}"


def format_seconds(value: float) -> str:
    if value < 10:
        return f"{value:.1f}{NARROW_SPACE}s"
    if value < 90:
        return f"{value:.0f}{NARROW_SPACE}s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 90:
        return f"{minutes}{NARROW_SPACE}min {seconds:02d}{NARROW_SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{NARROW_SPACE}h {minutes:02d}{NARROW_SPACE}min"


def format_milliseconds(value: float) -> str:
    """Three digits and their unit: 7.90 ms, 14.2 ms, 230 ms; seconds from 1000 ms on."""
    if value >= 1000:
        return format_seconds(value / 1000)
    if value >= 100:
        digits = 0
    elif value >= 10:
        digits = 1
    else:
        digits = 2
    return f"{value:.{digits}f}{NARROW_SPACE}ms"


def format_size(value: float) -> str:
    """Bytes in decimal units: 512 B, 11.5 MB."""
    if value < 1000:
        return f"{value:.0f}{NARROW_SPACE}B"
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f}{NARROW_SPACE}{unit}"
    return f"{value / 1000:.1f}{NARROW_SPACE}TB"


def format_count(value: int) -> str:
    return f"{value:,}"


def pluralize(value: int, one: str, several: str = "") -> str:
    """A count with its noun: 1 example, 12 examples."""
    if value == 1:
        noun = one
    else:
        noun = several or f"{one}s"
    return f"{format_count(value)} {noun}"


def format_p_value(value: float) -> str:
    if value < 0.001:
        return f"p{HARD_SPACE}<{HARD_SPACE}0.001"
    digits = 3 if value < 0.1 else 2
    return f"p{HARD_SPACE}={HARD_SPACE}{value:.{digits}f}"


# --- sentences ------------------------------------------------------------------------


def describe_age(age: BaselineAge) -> str:
    """When and from what a remembered training from scratch was made."""
    examples = text.pluralize(age.examples, "example")
    version = age.data[:8]
    return f"trained on {age.trained} from data version {version}, {examples} then"


def describe_baseline(evaluated: EvaluateRecord) -> str:
    """Since when a remembered training from scratch is, from what, and what was left
    out of the comparison for it.
    """
    assert evaluated.baseline is not None
    age = describe_age(evaluated.baseline)
    compared = [
        comparison.examples
        for comparison in evaluated.comparisons
        if comparison.examples is not None
    ]
    if not compared:
        return age
    left_out = evaluated.examples - compared[0]
    examples = text.pluralize(evaluated.examples, "test example")
    return f"{age}; {left_out:,} of today's {examples} left out of the comparison, because it had learnt from them"


@dataclass(frozen=True)
class Verdict:
    """The one sentence on top, in parts, so that the template can set the figure in
    bold.
    """

    before: str
    figure: str
    after: str


def write_verdict(
    evaluated: EvaluateRecord,
    promoted: PromoteRecord | None,
    baseline: str | None,
    *,
    pretrained: bool,
) -> Verdict:
    """What came of the run, in a sentence.

    Args:
        baseline: name of the candidate trained for comparison, if there is one besides
            the best.
        pretrained: whether the best candidate started from pretrained weights.
    """
    primary = evaluated.primary
    estimate = evaluated.metrics[primary]
    subject = "Fine-tuning" if pretrained else "Training from scratch"
    interval = format_interval(primary, estimate, 0)
    examples = pluralize(evaluated.examples, "test example")
    after = f" {metric_title(primary)} ({interval}) on {examples}"
    for comparison in evaluated.comparisons:
        if comparison.other == baseline:
            after += _describe_comparison(comparison, primary)
    if promoted is not None:
        after += f"; {describe_promotion(promoted)}"
    return Verdict(
        f"{subject} reached ", format_metric(primary, estimate.value), f"{after}."
    )


def format_gain(value: float, metric: str) -> str:
    """A gain in a metric: in points where the metric is a share."""
    kind = metric_registry.find(metric)
    written = kind.format_gain(value).replace("-", MINUS)
    return f"{written} points" if kind.is_share else written


def metric_title(metric: str) -> str:
    """A metric's title within a sentence."""
    title = metric_registry.find(metric).title
    if title.isupper():
        return title
    return title[0].lower() + title[1:]


def describe_promotion(promoted: PromoteRecord) -> str:
    """registered as flowers v3, the champion."""
    version = f"registered as {promoted.model} v{promoted.version}"
    if promoted.is_champion:
        return f"{version}, the champion"
    if promoted.waits:
        return f"{version}, waiting for approval"
    stays = (
        f"version {promoted.champion} stays champion"
        if promoted.champion
        else "there is no champion yet"
    )
    return f"{version}; {stays}"


def _describe_comparison(comparison: Comparison, primary: str) -> str:
    """The difference from training from scratch; the metric is named where it is not
    the one just told.
    """
    value = comparison.difference.value
    points = f"{100 * abs(value):.1f}{HARD_SPACE}points"
    measured = "" if primary == comparison.metric else f" in {comparison.metric}"
    if comparison.verdict == "better":
        return f", {points} above training from scratch{measured}"
    if comparison.verdict == "worse":
        return f", {points} below training from scratch{measured}"
    if abs(value) < 0.0005:
        return f", level with training from scratch{measured}"
    side = "above" if value > 0 else "below"
    return f", {points} {side} training from scratch{measured}, too little to tell the two apart"
