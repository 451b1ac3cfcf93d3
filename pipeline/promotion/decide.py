"""The verdict: a pure function of evidence and policy.

- promote: shown to be better than the champion (or not worse, where the policy accepts
  that).
- reject: shown to be worse, or something that the policy demands is missing.
- cannot-tell: neither; the champion stays.
- nothing-to-decide: the champion has the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from pipeline import metric_registry
from pipeline.config import PromotionConfig
from pipeline.promotion import sample_size
from pipeline.promotion.evidence import ChampionComparison, Evidence, PartGain
from pipeline.promotion.paired_gain import ExampleGains, PairedGain

Decision = Literal["promote", "reject", "cannot-tell", "nothing-to-decide"]

FEWEST_UNITS = 20  # on which "not worse" may rest
FEWEST_PART_UNITS = 10  # of a class or slice, to be judged on its own
# Where what stood in the way may be gone by then.
ASKED_AGAIN = "the next run asks again"


class Policy(NamedTuple):
    """What a workspace demands of a champion.

    Args:
        promotion: its section of params.yaml.
        floors: test metric → the least value, or the most where lower is better.
    """

    promotion: PromotionConfig
    floors: Mapping[str, float]


class Verdict(NamedTuple):
    """What was decided, and why, in a sentence.

    Args:
        details: further sentences: what the test split can show, and what would settle
            it.
    """

    decision: Decision
    reason: str
    details: tuple[str, ...] = ()


def decide(evidence: Evidence, policy: Policy) -> Verdict:
    """The verdict on a challenger."""
    for find in (
        _find_settled,
        _find_missed_demand,
        _judge_first,
        _judge_comparability,
        _judge_parts,
    ):
        verdict = find(evidence, policy)
        if verdict is not None:
            return verdict
    return _judge_gain(evidence, policy)


def _find_settled(evidence: Evidence, policy: Policy) -> Verdict | None:
    """What makes every comparison needless."""
    if evidence.blocked:
        reason = f"it cannot be served: {evidence.blocked}"
        return Verdict("reject", reason, (ASKED_AGAIN,))
    if evidence.champion == evidence.version:
        return Verdict("nothing-to-decide", "champion already")
    if evidence.withdrawn:
        return Verdict(
            "reject",
            f"version {evidence.version} was rolled back, or has the weights of one that was",
        )
    if evidence.same_weights:
        return Verdict(
            "nothing-to-decide",
            f"the weights of version {evidence.champion}, the champion, served otherwise",
        )
    if evidence.dirty_reason:
        return Verdict(
            "cannot-tell",
            f"the data's version does not lead back to the data: {evidence.dirty_reason}",
        )
    return None


# --- what the policy demands of a challenger alone ------------------------------------


def _find_missed_demand(evidence: Evidence, policy: Policy) -> Verdict | None:
    missed = [
        *list_missed_floors(evidence.metrics, policy.floors),
        *_list_missed_limits(evidence, policy.promotion),
    ]
    if missed:
        return Verdict("reject", "; ".join(missed))
    return None


def list_missed_floors(
    metrics: Mapping[str, float], floors: Mapping[str, float]
) -> list[str]:
    """The floors not reached, in words; that of a metric which the test split does not
    define is not.
    """
    missed = []
    for name, floor in floors.items():
        value = metrics.get(name, math.nan)
        if math.isnan(value):
            missed.append(f"{name} is not defined on the test split")
        elif metric_registry.find(name).higher_is_better:
            if value < floor:
                missed.append(f"{name} {value:.4g} is below {floor:g}")
        elif value > floor:
            missed.append(f"{name} {value:.4g} is above {floor:g}")
    return missed


def _list_missed_limits(
    evidence: Evidence, promotion: PromotionConfig
) -> Iterator[str]:
    most = promotion.max_megabytes
    if most is not None and evidence.megabytes > most:
        yield f"the weights take {evidence.megabytes:.1f} MB; at most {most:g} are accepted"
    longest = promotion.max_latency_ms
    if longest is None:
        return
    if evidence.latency_ms is None:
        yield "the time for an example was not measured"
    elif evidence.latency_ms > longest:
        yield f"an example takes {evidence.latency_ms:.1f} ms; at most {longest:g} are accepted"


# --- the first champion ---------------------------------------------------------------


def _judge_first(evidence: Evidence, policy: Policy) -> Verdict | None:
    """A first champion has floors to reach; where none are set, it must be shown to be
    better than no model.
    """
    if evidence.champion:
        return None
    if policy.floors:
        return Verdict("promote", "the first to reach every threshold")
    gain = evidence.trivial
    if gain is None:
        return Verdict(
            "cannot-tell",
            "nothing to compare the first champion with; set register.thresholds",
        )
    error_rate = policy.promotion.error_rate
    shown = _describe_gain(evidence.metric, gain, error_rate)
    if not _is_shown(gain, 0.0, error_rate):
        details = tuple(_describe_power(evidence.metric, gain, error_rate))
        return Verdict(
            "cannot-tell",
            f"not shown to be better than the best constant answer: {shown}",
            details,
        )
    if evidence.scratch not in ("", "better"):
        return Verdict(
            "cannot-tell", "not shown to be better than training from scratch"
        )
    return Verdict(
        "promote",
        f"the first shown to be better than the best constant answer: {shown}",
    )


# --- against a champion ---------------------------------------------------------------


def _judge_comparability(evidence: Evidence, policy: Policy) -> Verdict | None:
    """Whether champion and challenger can be compared at all."""
    looks = policy.promotion.looks
    if evidence.looks > looks:
        reason = f"worn: the test split has judged {looks} challengers; half of it must be new before it judges another"
        return Verdict("cannot-tell", reason)
    if evidence.comparison is None:
        reason = f"version {evidence.champion}, the champion: {evidence.champion_fault}"
        return Verdict("cannot-tell", reason, (ASKED_AGAIN,))
    refused = _find_refused_classes(evidence.comparison, policy.promotion)
    if refused:
        return Verdict("reject", refused)
    if evidence.comparison.gain is None:
        return Verdict(
            "cannot-tell", _explain_no_gain(evidence.champion, evidence.comparison)
        )
    if math.isnan(evidence.comparison.gain.value):
        reason = (
            f"{evidence.metric} is not defined on the test examples that both answered"
        )
        return Verdict("cannot-tell", reason)
    return None


def _explain_no_gain(champion: str, comparison: ChampionComparison) -> str:
    """Why no test example is left on which the two can be compared."""
    if comparison.seen + comparison.unknown == 0:
        return "the test split has no examples"
    if comparison.unknown == 0:
        return f"the champion, version {champion}, had learnt from every test example"
    return (
        f"no test example is left to compare with version {champion}, the champion: it had learnt from "
        f"{comparison.seen:,} and does not know the classes of {comparison.unknown:,}"
    )


def _find_refused_classes(
    comparison: ChampionComparison, promotion: PromotionConfig
) -> str:
    removed = [
        label
        for label in comparison.removed_classes
        if label not in promotion.removed_classes
    ]
    if removed:
        names = ", ".join(removed)
        return f"it does not know the champion's {names}; name them in promotion.removed_classes if that is meant"
    for label, recall in comparison.new_classes.items():
        least = promotion.new_class_recall
        if recall is not None and recall < least:
            return f"recall of the new class {label} is {recall:.3g}, below {least:g}"
    return ""


def _judge_parts(evidence: Evidence, policy: Policy) -> Verdict | None:
    """Whether what is better on the whole loses where it must not."""
    comparison = evidence.comparison
    assert comparison is not None
    flips = comparison.negative_flips
    most = policy.promotion.max_negative_flips
    if flips is not None and most is not None and flips > most:
        reason = f"the champion is right and it is wrong on {flips:.1%} of the examples; at most {most:.1%} are accepted"
        return Verdict("reject", reason)
    parts = [part for part in comparison.parts if part.gain.units >= FEWEST_PART_UNITS]
    margin = policy.promotion.part_margin
    whole_error = 1 - policy.promotion.confidence
    error_rate = whole_error / max(len(parts), 1)
    lost = [part for part in parts if _is_lost(part.gain, margin, error_rate)]
    if not lost:
        return None
    reasons = [_describe_loss(evidence.metric, part) for part in lost]
    return Verdict("reject", "; ".join(reasons))


def _judge_gain(evidence: Evidence, policy: Policy) -> Verdict:
    comparison = evidence.comparison
    assert comparison is not None
    promotion = policy.promotion
    error_rate = promotion.error_rate
    gain = comparison.gain
    assert gain is not None
    least = -promotion.margin if promotion.accept == "not-worse" else 0.0
    shown = _describe_gain(evidence.metric, gain, error_rate)
    champion = f"version {comparison.champion}, the champion"
    if (
        promotion.accept == "not-worse"
        and gain.units >= FEWEST_UNITS
        and gain.lower_bound(error_rate) > least
    ):
        return Verdict("promote", f"not worse than {champion}: {shown}")
    if _is_shown(gain, 0.0, error_rate):
        return Verdict("promote", f"better than {champion}: {shown}")
    if gain.upper_bound(error_rate) < least:
        return Verdict("reject", f"worse than {champion}: {shown}")
    details = [*_describe_power(evidence.metric, gain, error_rate)]
    if promotion.accept == "not-worse" and gain.units < FEWEST_UNITS:
        details.append(
            f"not-worse rests on at least {FEWEST_UNITS} independent examples or groups; "
            f"there are {gain.units}"
        )
    return Verdict(
        "cannot-tell",
        f"neither better nor worse than {champion}: {shown}",
        tuple(details),
    )


def _is_shown(gain: PairedGain, least: float, error_rate: float) -> bool:
    """Whether bound and test both say that the gain is above `least`. The test is asked
    first: it is the cheaper.
    """
    if not _passes(gain.p_value(), error_rate):
        return False
    return gain.lower_bound(error_rate) > least


def _is_lost(gain: PairedGain, margin: float, error_rate: float) -> bool:
    """Whether the loss is shown to be beyond the margin."""
    return (
        _passes(gain.loss_p_value(), error_rate)
        and gain.upper_bound(error_rate) < -margin
    )


def _passes(p_value: float | None, error_rate: float) -> bool:
    return p_value is None or p_value <= error_rate


# --- sentences ------------------------------------------------------------------------


def _describe_gain(metric: str, gain: PairedGain, error_rate: float) -> str:
    """+3.2 points of accuracy, at least +0.8 (p = 0.0004, wanted 0.0025)."""
    metric_kind = metric_registry.find(metric)
    show = metric_kind.format_gain
    low = show(gain.lower_bound(error_rate))
    high = show(gain.upper_bound(error_rate))
    unit = "points of " if metric_kind.is_share else ""
    text = f"{show(gain.value)} {unit}{metric} (between {low} and {high}"
    p_value = gain.p_value()
    if p_value is None:
        return f"{text}, by the bootstrap alone)"
    return (
        f"{text}; sign-flip test p = {p_value:.2g}, at most {error_rate:.2g} is asked)"
    )


def _describe_power(metric: str, gain: PairedGain, error_rate: float) -> Iterator[str]:
    """What the test split can show, and what would settle the gain seen."""
    if not isinstance(gain, ExampleGains):
        return
    fewest = math.ceil(math.log2(1 / error_rate))
    if gain.differing_units < fewest:
        units = f"{gain.differing_units} independent examples or groups"
        yield f"the two differ on {units}; fewer than {fewest} show nothing"
        return
    examples = len(gain.gains)
    spread = gain.disagreement
    design = gain.design_effect
    smallest = sample_size.smallest_gain(examples, spread, design, error_rate)
    show = metric_registry.find(metric).format_gain
    if smallest is not None:
        yield f"the smallest difference that {examples:,} examples show four times in five: {show(smallest)}"
    if gain.value > 0:
        needed = sample_size.examples_needed(gain.value, spread, design, error_rate)
        yield f"a difference of {show(gain.value)} would be settled by about {needed:,} test examples"


def _describe_loss(metric: str, part: PartGain) -> str:
    kind = metric_registry.find(metric)
    unit = "points of " if kind.is_share else ""
    gain = kind.format_gain(part.gain.value)
    return f"{part.name}: {gain} {unit}{metric} on {part.gain.units} units"
