"""A difference is only called one where both the interval and the test say so."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.evaluation.bootstrap import BootstrapSettings
from pipeline.evaluation.compare import (
    compare_accuracies,
    judge_difference,
    paired_difference,
    sign_flip_test,
)
from pipeline.records import MetricEstimate

SETTINGS = BootstrapSettings(resamples=400, confidence=0.95, seed=0)


def pair(
    both: int, ours: int, theirs: int, neither: int
) -> tuple[np.ndarray, np.ndarray]:
    """Correctness of two models: right both, only ours, only theirs, neither."""
    a = np.repeat([True, True, False, False], [both, ours, theirs, neither])
    b = np.repeat([True, False, True, False], [both, ours, theirs, neither])
    return a, b


@pytest.mark.parametrize(("ours", "theirs"), [(9, 1), (5, 5), (0, 7), (30, 12)])
def test_of_single_examples_the_test_is_mcnemars(ours: int, theirs: int) -> None:
    a, b = pair(50, ours, theirs, 20)
    expected = binomtest(min(ours, theirs), ours + theirs, 0.5).pvalue
    assert sign_flip_test(a, b, np.arange(len(a))) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_of_units_every_way_to_swap_the_models_is_counted(seed: int) -> None:
    dice = np.random.default_rng(seed)
    units = np.sort(dice.integers(0, 9, 40))
    a, b = dice.random(40) < 0.8, dice.random(40) < 0.6
    gains = np.bincount(units, weights=a.astype(float) - b)
    sums = [
        abs(np.dot(signs, gains))
        for signs in itertools.product((1, -1), repeat=len(gains))
    ]
    expected = np.mean(np.array(sums) >= abs(gains.sum()))
    assert sign_flip_test(a, b, units) == pytest.approx(expected)


def test_models_that_are_equal_within_units_are_told_apart_no_oftener_than_the_test_says() -> (
    None
):
    """Five copies of an example share their fate: one by one they would count five
    times.
    """
    dice = np.random.default_rng(0)
    units = np.repeat(np.arange(30), 5)
    found = []
    for _ in range(400):
        a, b = (np.repeat(dice.random(30) < 0.7, 5) for _ in range(2))
        found.append(sign_flip_test(a, b, units))
    assert np.mean(np.array(found) < 0.05) < 0.07


def test_many_units_of_many_sizes_have_a_p_value() -> None:
    dice = np.random.default_rng(0)
    units = dice.integers(0, 20_000, 100_000)
    ours = dice.random(100_000) < 0.9
    assert sign_flip_test(ours, dice.random(100_000) < 0.8, units) < 1e-9
    assert sign_flip_test(ours, dice.permutation(ours), units) > 1e-3


def test_two_equal_models_cannot_be_told_apart() -> None:
    a, _ = pair(50, 0, 0, 20)
    found = compare_accuracies("head", a, a, np.arange(70), SETTINGS)
    assert (found.p_value, found.difference.value, found.verdict) == (
        1.0,
        0.0,
        "cannot-tell",
    )


def test_a_clear_difference_is_told_in_both_directions() -> None:
    a, b = pair(50, 25, 3, 22)
    better = compare_accuracies("scratch", a, b, np.arange(100), SETTINGS)
    worse = compare_accuracies("scratch", b, a, np.arange(100), SETTINGS)
    assert (better.verdict, worse.verdict) == ("better", "worse")
    assert better.difference.value == pytest.approx(0.22)
    assert worse.difference.value == pytest.approx(-0.22)


def test_noise_is_not_called_better() -> None:
    a, b = pair(60, 6, 3, 11)
    assert (
        compare_accuracies("head", a, b, np.arange(80), SETTINGS).verdict
        == "cannot-tell"
    )


def test_one_lucky_group_is_not_called_better() -> None:
    """Twelve to nothing, yet all of one part."""
    a, b = pair(48, 12, 0, 0)
    units = np.repeat(np.arange(5), 12)
    found = compare_accuracies("head", a, b, units, SETTINGS)
    assert found.p_value == 1.0
    assert found.verdict == "cannot-tell"


def test_pairing_narrows_the_interval() -> None:
    a, b = pair(70, 6, 2, 22)
    paired = paired_difference(a, b, np.arange(100), SETTINGS)
    shuffled = paired_difference(
        a, np.random.default_rng(0).permutation(b), np.arange(100), SETTINGS
    )
    assert paired.high - paired.low < shuffled.high - shuffled.low


@pytest.mark.parametrize(
    ("low", "high", "p_value", "expected"),
    [
        (0.01, 0.2, 0.01, "better"),
        (-0.2, -0.01, 0.01, "worse"),
        (-0.01, 0.2, 0.01, "cannot-tell"),
        (0.01, 0.2, 0.2, "cannot-tell"),
        (0.0, 0.2, 0.01, "cannot-tell"),
    ],
)
def test_verdict(low: float, high: float, p_value: float, expected: str) -> None:
    assert (
        judge_difference(
            MetricEstimate(value=(low + high) / 2, low=low, high=high), p_value, 0.95
        )
        == expected
    )
