"""Numbers and sentences of the report, as a reader would say them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.records import BaselineAge, Comparison, EvaluateRecord, MetricEstimate, RegisterRecord
from pipeline.text import pluralize

SPACE = "\u202f"  # narrow and unbreakable: between a number and its unit
TIED = "\u00a0"  # unbreakable: between a number and its noun
MINUS = "\u2212"


@dataclass(frozen=True)
class MetricMeaning:
    """How a metric is called, said and explained."""

    title: str
    share: bool  # said in per cent
    higher_is_better: bool
    note: str


MEANINGS = {
    "accuracy": MetricMeaning("Accuracy", True, True, "share of examples given the right class"),
    "balanced_accuracy": MetricMeaning("Balanced accuracy", True, True, "mean recall, every class counting the same"),
    "macro_f1": MetricMeaning("Macro F1", True, True, "mean F1, every class counting the same"),
    "auroc": MetricMeaning("AUROC", True, True, "chance that the right class is ranked above a wrong one"),
    "log_loss": MetricMeaning("Log loss", False, False, "how surprised the model is by the right class"),
    "calibration_error": MetricMeaning(
        "Calibration error", True, False, "typical gap between confidence and accuracy, beyond what chance makes"
    ),
}


def meaning(metric: str) -> MetricMeaning:
    """What the reader is told about a metric; a name that is not known here is shown as it is."""
    if metric.startswith("top_"):
        k = metric.split("_")[1]
        return MetricMeaning(f"Top-{k} accuracy", True, True, f"share with the right class among the {k} most probable")
    return MEANINGS.get(metric, MetricMeaning(metric.replace("_", " ").capitalize(), False, True, ""))


def order(metric: str) -> tuple[int, str]:
    """Where a metric stands among others: as the table above has them, top-k after accuracy's kin, then the rest."""
    known = list(MEANINGS)
    return (
        known.index("auroc") if metric.startswith("top_") else known.index(metric) if metric in known else 99,
        metric,
    )


def shown(value: object) -> object:
    r"""Text with what a reader could not see, or be misled by, made visible: control characters, undecodable bytes,
    marks that turn the writing's direction. The template engine passes every value through here."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return "".join(_visible(c) for c in value)


def _visible(character: str) -> str:
    kind = unicodedata.category(character)
    if kind not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    named = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
    code = ord(character)
    return named.get(character, f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}{SPACE}%"


def number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}"


def said(metric: str, value: float) -> str:
    return percent(value) if meaning(metric).share else number(value)


def spread(metric: str, estimate: MetricEstimate, digits: int = 1) -> str:
    """An interval without its unit: 91.2–98.0."""
    if meaning(metric).share:
        return f"{100 * estimate.low:.{digits}f}–{100 * estimate.high:.{digits}f}"
    return f"{estimate.low:.2f}–{estimate.high:.2f}" if digits < 1 else f"{estimate.low:.3f}–{estimate.high:.3f}"


def points(value: float, digits: int = 1, *, sign: bool = True) -> str:
    """A difference of shares in percentage points."""
    text = f"{100 * abs(value):.{digits}f}"
    mark = (MINUS if value < 0 else "+") if sign else ""
    return f"{mark}{text}{TIED}points"


def gap(difference: MetricEstimate) -> str:
    """The interval of a difference of shares, in points: −1.2 to +3.4."""
    return f"{points(difference.low).split(TIED)[0]} to {points(difference.high).split(TIED)[0]}"


def rate(value: float) -> str:
    """A learning rate: 1e-3, 2.5e-4."""
    mantissa, _, exponent = f"{value:.2g}".partition("e")
    if not exponent:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{MINUS if exponent.startswith('-') else ''}{int(exponent.lstrip('+-'))}"


def seconds(value: float) -> str:
    if value < 10:
        return f"{value:.1f}{SPACE}s"
    if value < 90:
        return f"{value:.0f}{SPACE}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 90:
        return f"{minutes}{SPACE}min {rest:02d}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60:02d}{SPACE}min"


def milliseconds(value: float) -> str:
    if value >= 1000:
        return seconds(value / 1000)
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}{SPACE}ms"


def size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f}{SPACE}{unit}" if unit == "B" else f"{value:.1f}{SPACE}{unit}"
        value /= 1000
    return f"{value:.1f}{SPACE}TB"


def count(value: int) -> str:
    return f"{value:,}".replace(",", SPACE)


def many(value: int, one: str, several: str = "") -> str:
    """A count with its noun: 1 example, 12 examples."""
    return f"{count(value)} {one if value == 1 else several or one + 's'}"


def p_value(value: float) -> str:
    return f"p{TIED}<{TIED}0.001" if value < 0.001 else f"p{TIED}={TIED}{value:.{3 if value < 0.1 else 2}f}"


def listed(names: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))


def describe_age(age: BaselineAge) -> str:
    """When and from what a remembered training from scratch was made."""
    return f"trained on {age.trained} from data version {age.data[:8]}, {pluralize(age.examples, 'example')} then"


def describe_baseline(evaluated: EvaluateRecord) -> str:
    """Since when a remembered training from scratch is, from what, and what was left out of the comparison for it."""
    assert evaluated.baseline is not None
    text = describe_age(evaluated.baseline)
    partial = [one.examples for one in evaluated.comparisons if one.examples is not None]
    if not partial:
        return text
    left_out = evaluated.examples - partial[0]
    return (
        f"{text}; {left_out:,} of today's {pluralize(evaluated.examples, 'test example')} left out of the comparison, "
        "because it had learnt from them"
    )


@dataclass(frozen=True)
class Verdict:
    """The one sentence on top, in parts, so that the template can set the figure in bold."""

    before: str
    figure: str
    after: str

    def __str__(self) -> str:
        return self.before + self.figure + self.after


def verdict(
    evaluated: EvaluateRecord, registered: RegisterRecord | None, baseline: str | None, *, pretrained: bool
) -> Verdict:
    """What came of the run, in a sentence.

    Args:
        baseline: name of the candidate trained for comparison, if there is one besides the best.
        pretrained: whether the best candidate started from pretrained weights.
    """
    found, name = evaluated.metrics[evaluated.primary], evaluated.primary
    metric = meaning(name).title
    on = f"({spread(name, found, 0)}) on {many(evaluated.examples, 'test example')}"
    after = f" {metric.lower() if metric != 'AUROC' else metric} {on}"
    against = next((one for one in evaluated.comparisons if one.other == baseline), None)
    if against:
        after += _against(against, "accuracy" if name != "accuracy" else "")
    if registered:
        role = "champion" if registered.champion else " and ".join(registered.aliases)
        after += f"; registered as {registered.model} v{registered.version}" + (f", {role}" if role else "")
    subject = "Fine-tuning" if pretrained else "Training from scratch"
    return Verdict(f"{subject} reached ", said(name, found.value), after + ".")


def _against(found: Comparison, of: str) -> str:
    much = points(found.difference.value, 1, sign=False)
    in_what = f" in {of}" if of else ""
    if found.verdict == "cannot-tell" or not found.difference.value:
        level = "level with" if abs(found.difference.value) < 0.0005 else ""
        if level:
            return f", level with training from scratch{in_what}"
        where = "above" if found.difference.value > 0 else "below"
        return f", {much} {where} training from scratch{in_what}, too little to tell the two apart"
    return f", {much} {'above' if found.verdict == 'better' else 'below'} training from scratch{in_what}"
