"""The verdict: what promotes, what rejects, and what the test split cannot tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.config import PromotionConfig
from pipeline.promotion.decide import Policy, decide
from pipeline.promotion.evidence import ChampionComparison, Evidence, PartGain
from pipeline.promotion.paired_gain import (
    ExampleGains,
    RankedGain,
    resample_means,
    sign_flip_p_value,
)
from pipeline.promotion.sample_size import examples_needed, smallest_gain

ERROR_RATE = 0.05 / 20


def gains(won: int, lost: int, alike: int, group: int = 1) -> ExampleGains:
    """Single examples, or groups of examples that go the same way."""
    values = np.repeat([1.0] * won + [-1.0] * lost + [0.0] * alike, group)
    units = np.repeat(np.arange(won + lost + alike), group).astype(np.intp)
    return ExampleGains(values, units, ERROR_RATE)


def evidence(gain: Any, **more: Any) -> Evidence:
    comparison = ChampionComparison(champion="1", gain=gain, examples=100)
    return Evidence(
        version="2",
        metrics={"accuracy": 0.9},
        metric="accuracy",
        champion="1",
        comparison=comparison,
        **more,
    )


def policy(floors: dict[str, float] | None = None, **settings: Any) -> Policy:
    return Policy(PromotionConfig(**settings), floors or {})


def test_a_certain_gain_promotes_a_certain_loss_rejects_and_little_tells_nothing() -> (
    None
):
    assert decide(evidence(gains(40, 5, 200)), policy()).decision == "promote"
    assert decide(evidence(gains(5, 40, 200)), policy()).decision == "reject"
    verdict = decide(evidence(gains(14, 9, 200)), policy())
    assert verdict.decision == "cannot-tell"
    assert "settled by about" in verdict.details[-1]


def test_fewer_than_nine_differing_units_show_nothing() -> None:
    verdict = decide(evidence(gains(8, 0, 200)), policy())
    assert verdict.decision == "cannot-tell"
    assert "fewer than 9 show nothing" in verdict.details[0]
    assert decide(evidence(gains(9, 0, 200)), policy()).decision == "promote"


def test_groups_that_swing_together_are_one_piece_of_evidence_each() -> None:
    assert decide(evidence(gains(60, 20, 100)), policy()).decision == "promote"
    assert (
        decide(evidence(gains(6, 2, 10, group=10)), policy()).decision == "cannot-tell"
    )


def test_not_worse_promotes_what_is_within_the_margin_from_twenty_units_on() -> None:
    level = gains(20, 20, 4000)
    assert decide(evidence(level), policy()).decision == "cannot-tell"
    assert (
        decide(evidence(level), policy(accept="not-worse", margin=0.01)).decision
        == "promote"
    )
    few = decide(evidence(gains(0, 0, 19)), policy(accept="not-worse", margin=0.5))
    assert few.decision == "cannot-tell"
    assert "at least 20 independent examples or groups; there are 19" in few.details[-1]


@pytest.mark.parametrize(
    ("more", "settings", "decision", "words"),
    [
        ({"withdrawn": True}, {}, "reject", "rolled back"),
        (
            {"dirty_reason": "data.dvc is not committed to Git"},
            {},
            "cannot-tell",
            "not committed",
        ),
        ({"blocked": "HTTP 500"}, {}, "reject", "cannot be served: HTTP 500"),
        ({"same_weights": True}, {}, "nothing-to-decide", "served otherwise"),
        ({"looks": 21}, {}, "cannot-tell", "worn"),
        ({"megabytes": 30.0}, {"max_megabytes": 20}, "reject", "30.0 MB; at most 20"),
        ({"latency_ms": None}, {"max_latency_ms": 5}, "reject", "not measured"),
        ({"latency_ms": 9.0}, {"max_latency_ms": 5}, "reject", "9.0 ms"),
        (
            {"metrics": {"accuracy": 0.7}},
            {"floors": {"accuracy": 0.8}},
            "reject",
            "accuracy 0.7 is below 0.8",
        ),
        (
            {"metrics": {"log_loss": 0.7}},
            {"floors": {"log_loss": 0.3}},
            "reject",
            "log_loss 0.7 is above 0.3",
        ),
        (
            {},
            {"floors": {"auroc": 0.8}},
            "reject",
            "auroc is not defined on the test split",
        ),
        (
            {"comparison": None, "champion_fault": "it cannot answer"},
            {},
            "cannot-tell",
            "it cannot answer",
        ),
    ],
)
def test_what_stops_a_better_model_is_named(
    more: dict[str, Any], settings: dict[str, Any], decision: str, words: str
) -> None:
    verdict = decide(replace(evidence(gains(40, 5, 200)), **more), policy(**settings))
    assert verdict.decision == decision
    assert words in verdict.reason


def change(**more: Any) -> Evidence:
    better = evidence(gains(40, 5, 200))
    assert better.comparison is not None
    return replace(better, comparison=replace(better.comparison, **more))


def test_the_champion_itself_is_not_rejected_for_a_withdrawn_twin() -> None:
    known = evidence(gains(40, 5, 200))
    verdict = decide(replace(known, champion=known.version, withdrawn=True), policy())
    assert (verdict.decision, verdict.reason) == (
        "nothing-to-decide",
        "champion already",
    )


def test_why_nothing_is_left_to_compare_is_told_apart() -> None:
    assert "has no examples" in decide(change(gain=None), policy()).reason
    assert (
        "had learnt from every test example"
        in decide(change(gain=None, seen=40), policy()).reason
    )
    assert (
        "does not know the classes of 30"
        in decide(change(gain=None, seen=10, unknown=30), policy()).reason
    )


def test_classes_that_disappear_must_be_named_and_new_ones_have_a_floor() -> None:
    assert decide(change(removed_classes=("bee",)), policy()).decision == "reject"
    assert (
        decide(
            change(removed_classes=("bee",)), policy(removed_classes=("bee",))
        ).decision
        == "promote"
    )
    assert (
        decide(change(new_classes={"wasp": 0.2}), policy(new_class_recall=0.5)).decision
        == "reject"
    )
    assert (
        decide(
            change(new_classes={"wasp": None}), policy(new_class_recall=0.5)
        ).decision
        == "promote"
    )


def test_a_class_that_certainly_loses_rejects_and_one_that_may_does_not() -> None:
    lost = PartGain("class ant", gains(0, 12, 20))
    verdict = decide(change(parts=(lost,)), policy())
    assert verdict.decision == "reject"
    assert "class ant" in verdict.reason
    assert (
        decide(
            change(parts=(PartGain("class ant", gains(2, 4, 20)),)), policy()
        ).decision
        == "promote"
    )
    many = (
        lost,
        *[PartGain(f"camera = {number}", gains(3, 3, 20)) for number in range(300)],
    )
    assert decide(change(parts=many), policy()).decision == "promote", (
        "one of so many loses so much by chance"
    )


def test_too_many_negative_flips_reject() -> None:
    assert (
        decide(change(negative_flips=0.04), policy(max_negative_flips=0.03)).decision
        == "reject"
    )


def test_a_first_champion_reaches_the_thresholds_or_is_better_than_a_constant_answer() -> (
    None
):
    first = Evidence(
        version="1",
        metrics={"accuracy": 0.9},
        metric="accuracy",
        trivial=gains(2, 1, 9),
    )
    assert decide(first, policy({"accuracy": 0.8})).decision == "promote"
    assert decide(first, policy({"accuracy": 0.95})).decision == "reject"
    assert decide(first, policy()).decision == "cannot-tell"
    shown = replace(first, trivial=gains(40, 2, 9))
    assert decide(shown, policy()).decision == "promote"
    assert (
        decide(replace(shown, scratch="cannot-tell"), policy()).decision
        == "cannot-tell"
    )
    assert decide(replace(shown, scratch="better"), policy()).decision == "promote"


def test_a_ranked_metric_is_decided_by_the_bootstrap_alone() -> None:
    values = np.full(60, 0.2)
    ranked = RankedGain(
        lambda weights: (values @ weights) / weights.sum(axis=0),
        np.arange(60),
        ERROR_RATE,
    )
    verdict = decide(replace(evidence(ranked), metric="mean_ap"), policy())
    assert verdict.decision == "promote"
    assert "by the bootstrap alone" in verdict.reason


def test_a_metric_that_the_examples_do_not_define_is_said() -> None:
    undefined = RankedGain(
        lambda weights: np.full(weights.shape[1], np.nan), np.arange(9), ERROR_RATE
    )
    verdict = decide(replace(evidence(undefined), metric="auroc"), policy())
    assert verdict.decision == "cannot-tell"
    assert verdict.reason.startswith("auroc is not defined")


# --- the numbers ----------------------------------------------------------------------


def test_of_single_examples_the_sign_flip_test_is_mcnemars() -> None:
    for won, lost in ((9, 0), (20, 7), (3, 3), (2, 9)):
        sums = np.array([1.0] * won + [-1.0] * lost + [0.0] * 50)
        expected = binomtest(won, won + lost, 0.5, alternative="greater").pvalue
        assert sign_flip_p_value(sums, ERROR_RATE) == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_groups_are_flipped_in_every_way(scale: float) -> None:
    sums = np.array([3.0, -1.0, 4.0, 1.0, -5.0, 2.0, 6.0]) * scale
    signs = np.array(np.meshgrid(*[[-1, 1]] * 7)).reshape(7, -1).T
    expected = (signs @ np.abs(sums) >= sums.sum() - 1e-9).mean()
    assert sign_flip_p_value(sums, ERROR_RATE) == pytest.approx(expected)


def test_many_differing_gains_are_drawn_and_come_near_the_exact_share() -> None:
    generator = np.random.default_rng(0)
    sums = generator.integers(-3, 6, 30).astype(np.float64)
    exact = sign_flip_p_value(sums, ERROR_RATE)
    drawn = sign_flip_p_value(sums * 0.37, ERROR_RATE)
    assert drawn == pytest.approx(exact, abs=0.01)


def test_units_are_resampled_whole() -> None:
    generator = np.random.default_rng(0)
    sums, sizes = np.array([4.0, 0.0, -1.0, 2.0]), np.array([4.0, 3.0, 1.0, 2.0])
    ours = resample_means(sums, sizes, 20_000, generator)
    chosen = np.random.default_rng(1).integers(0, 4, (20_000, 4))
    plain = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    assert np.quantile(ours, [0.025, 0.5, 0.975]) == pytest.approx(
        np.quantile(plain, [0.025, 0.5, 0.975]), abs=0.05
    )


def test_the_examples_needed_are_those_of_connor() -> None:
    # Connor 1987: z 1.645 and 0.842, disagreement 0.2, gain 0.1.
    needed = examples_needed(0.1, 0.2, 1.0, 0.05)
    assert needed == pytest.approx(
        ((1.6449 * 0.2**0.5 + 0.8416 * (0.2 - 0.01) ** 0.5) / 0.1) ** 2, abs=1
    )
    assert examples_needed(0.1, 0.2, 3.0, 0.05) == pytest.approx(3 * needed, abs=3)
    found = smallest_gain(needed, 0.2, 1.0, 0.05)
    assert found == pytest.approx(0.1, abs=0.001)
    assert smallest_gain(3, 0.2, 1.0, 0.0025) is None


@pytest.mark.slow
def test_models_of_one_quality_are_seldom_promoted() -> None:
    promoted = 0
    for seed in range(1500):
        generator = np.random.default_rng(seed)
        values = generator.choice([1.0, -1.0, 0.0], 150, p=[0.1, 0.1, 0.8])
        gain = ExampleGains(values, np.arange(150), 0.05, seed)
        promoted += decide(evidence(gain), policy(looks=1)).decision == "promote"
    assert binomtest(promoted, 1500, 0.05, alternative="greater").pvalue > 0.01
    assert promoted > 0, "nothing is promoted at all"
