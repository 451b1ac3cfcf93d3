"""How much better a challenger answers the same examples than the champion: the mean
paired gain, and what may be said of it at a one-sided error rate.

Evidence is counted in *units*: an example, or examples that belong together. Two
statements are made, and a verdict asks both: a bound by the cluster bootstrap (Cameron,
Gelbach and Miller 2008, "Bootstrap-based improvements for inference with clustered
errors"), and a sign-flip test over units (Winkler et al. 2014, "Permutation inference
for the general linear model", section on exchangeability blocks), which where single
examples are right or wrong is McNemar's exact test (McNemar 1947). The bootstrap alone
claims too much of few units; the test alone knows no margin.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.compare import signed_sum_probabilities

Floats = NDArray[np.float64]
Units = NDArray[np.intp]

DRAWS_PER_ERROR = 20  # resamples and flips: at least so many over the error rate
MOST_FLIPPED = 12  # differing units of which every pattern of signs is counted
MOST_CELLS = 1_000_000  # of an array of draws: 8 MB
WHOLE = 1e-9  # nearer to a whole number than rounding leads away


class PairedGain(Protocol):
    """The gain of a challenger over a champion in one metric."""

    @property
    def value(self) -> float:
        """The gain, as measured; more is better."""

    @property
    def units(self) -> int:
        """How many units it rests on."""

    def lower_bound(self, error_rate: float) -> float:
        """Below it the true gain lies with at most this probability."""

    def upper_bound(self, error_rate: float) -> float:
        """Above it the true gain lies with at most this probability."""

    def p_value(self) -> float | None:
        """One-sided: how often a gain like this is seen where both are equally good;
        None where no such test exists, and the bound alone decides.
        """

    def loss_p_value(self) -> float | None:
        """The same of a loss like this."""


def count_draws(error_rate: float) -> int:
    """How many random draws resolve an error rate."""
    return math.ceil(DRAWS_PER_ERROR / error_rate)


@dataclass(frozen=True)
class ExampleGains:
    """A mean of gains of single examples.

    Args:
        gains: (N,) how much better the challenger's answer is than the champion's,
            between −1 and 1 where answers are right or wrong.
        unit_of: (N,) the unit of each example, 0 … units − 1.
        finest_error: the smallest error rate that will be asked about: it sets the
            number of draws.
        seed: of the draws.
    """

    gains: Floats
    unit_of: Units
    finest_error: float
    seed: int = 0

    @property
    def value(self) -> float:
        return float(self.gains.mean())

    @property
    def units(self) -> int:
        return len(self.sums)

    @cached_property
    def sums(self) -> Floats:
        """The gain of each unit (U,), summed over its examples."""
        summed = np.bincount(self.unit_of, weights=self.gains)
        return summed.astype(np.float64)

    @cached_property
    def sizes(self) -> Floats:
        """How many examples each unit (U,) has."""
        counts = np.bincount(self.unit_of)
        return counts.astype(np.float64)

    @property
    def differing_units(self) -> int:
        """Units in which the two models are not equally good."""
        is_different = np.abs(self.sums) > WHOLE
        return int(is_different.sum())

    @property
    def disagreement(self) -> float:
        """ψ: the mean squared gain, of right and wrong the share of examples that one
        of both got right.
        """
        squared = self.gains**2
        return float(np.mean(squared))

    @property
    def design_effect(self) -> float:
        """D: how many times as many examples are needed as if each were a unit."""
        total = float((self.gains**2).sum())
        if total:
            return float((self.sums**2).sum()) / total
        return 1.0

    @cached_property
    def resampled(self) -> Floats:
        """The mean gain of each resample of the units, sorted."""
        draws = count_draws(self.finest_error)
        generator = np.random.default_rng(self.seed)
        return np.sort(resample_means(self.sums, self.sizes, draws, generator))

    def lower_bound(self, error_rate: float) -> float:
        bound = float(np.quantile(self.resampled, error_rate))
        return min(self.value, bound)

    def upper_bound(self, error_rate: float) -> float:
        bound = float(np.quantile(self.resampled, 1 - error_rate))
        return max(self.value, bound)

    def p_value(self) -> float:
        return sign_flip_p_value(self.sums, self.finest_error, self.seed)

    def loss_p_value(self) -> float:
        losses = -self.sums
        return sign_flip_p_value(losses, self.finest_error, self.seed)


def resample_means(
    sums: Floats, sizes: Floats, draws: int, generator: np.random.Generator
) -> Floats:
    """The mean gain of resamples (draws,) of whole units with replacement.

    Units of the same sum and size are told apart by nobody, so what is drawn is how
    many of each kind a resample has.

    Args:
        sums, sizes: (U,) gain and number of examples of each unit.
    """
    pairs = np.stack([sums, sizes], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    shares = counts / counts.sum()
    at_once = max(1, MOST_CELLS // len(kinds))
    parts = []
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        drawn = generator.multinomial(len(sums), shares, size=count)
        drawn_sums = drawn @ kinds[:, 0]
        drawn_sizes = drawn @ kinds[:, 1]
        parts.append(drawn_sums / drawn_sizes)
    return np.concatenate(parts)


def sign_flip_p_value(sums: Floats, finest_error: float, seed: int = 0) -> float:
    """How often random signs of the units' gains (U,) sum to at least what was
    observed.

    Whole numbers are counted exactly, whatever their number; others exactly up to
    `MOST_FLIPPED`, and beyond by `count_draws` random patterns, the observed one among
    them (Phipson and Smyth 2010, "Permutation p-values should never be zero").
    """
    differing = np.abs(sums[np.abs(sums) > WHOLE])
    observed = float(sums.sum())
    if not len(differing):
        return 1.0
    whole = np.rint(differing)
    if np.abs(differing - whole).max() < WHOLE:
        return _share_of_whole_sums(whole.astype(np.int64), round(observed))
    if len(differing) <= MOST_FLIPPED:
        return _share_of_all_flips(differing, observed)
    return _share_of_drawn_flips(differing, observed, count_draws(finest_error), seed)


def _share_of_whole_sums(sizes: NDArray[np.int64], observed: int) -> float:
    """The share of sign patterns of whole numbers (U,) whose sum reaches `observed`."""
    if sizes.min() == sizes.max():
        from scipy.stats import binom

        gained = (observed // int(sizes[0]) + len(sizes)) // 2
        return float(binom.sf(gained - 1, len(sizes), 0.5))
    probabilities = signed_sum_probabilities(sizes)
    total = int(sizes.sum())
    # −total … −1, 0 … total.
    reached = [probabilities[total + 1 :], probabilities[: total + 1]]
    share = float(np.concatenate(reached)[observed + total :].sum())
    least: float = 0.5 ** len(sizes)  # the observed pattern; below lie rounding errors
    return min(max(share, least), 1.0)


def _share_of_all_flips(sizes: Floats, observed: float) -> float:
    signs = itertools.product((-1.0, 1.0), repeat=len(sizes))
    patterns = np.array(list(signs))
    reaches = patterns @ sizes >= observed - WHOLE
    return float(reaches.mean())


def _share_of_drawn_flips(
    sizes: Floats, observed: float, draws: int, seed: int
) -> float:
    generator = np.random.default_rng(seed)
    at_once = max(1, MOST_CELLS // len(sizes))
    reached = 0
    for start in range(0, draws, at_once):
        shape = (min(at_once, draws - start), len(sizes))
        bits = generator.integers(0, 2, size=shape, dtype=np.int8)
        signs = bits * 2 - 1
        reaches = signs @ sizes >= observed - WHOLE
        reached += int(reaches.sum())
    return (1 + reached) / (1 + draws)


@dataclass(frozen=True)
class RankedGain:
    """The gain in a metric that is no mean over examples, such as mean average
    precision: by the bootstrap alone.

    Args:
        difference: the metric's gain for weights (N, R) of the examples, (R,).
        unit_of: (N,) the unit of each example, 0 … units − 1.
        finest_error: the smallest error rate that will be asked about.
        seed: of the draws.
    """

    difference: Callable[[Floats], Floats]
    unit_of: Units
    finest_error: float
    seed: int = 0

    @cached_property
    def value(self) -> float:
        once = np.ones((len(self.unit_of), 1))
        differences = self.difference(once)
        return float(differences[0])

    @property
    def units(self) -> int:
        last = int(self.unit_of.max(initial=-1))
        return last + 1

    @cached_property
    def resampled(self) -> Floats:
        """The gain in each resample in which it is defined, sorted."""
        generator = np.random.default_rng(self.seed)
        draws = count_draws(self.finest_error)
        at_once = max(1, MOST_CELLS // len(self.unit_of))
        shares = np.full(self.units, 1 / self.units)
        parts = []
        for start in range(0, draws, at_once):
            count = min(at_once, draws - start)
            drawn = generator.multinomial(self.units, shares, size=count)
            weights = drawn.T[self.unit_of].astype(np.float64)
            parts.append(self.difference(weights))
        samples = np.concatenate(parts)
        return np.sort(samples[np.isfinite(samples)])

    def lower_bound(self, error_rate: float) -> float:
        if not len(self.resampled):
            return -math.inf
        bound = float(np.quantile(self.resampled, error_rate))
        return min(self.value, bound)

    def upper_bound(self, error_rate: float) -> float:
        if not len(self.resampled):
            return math.inf
        bound = float(np.quantile(self.resampled, 1 - error_rate))
        return max(self.value, bound)

    def p_value(self) -> None:
        return None

    def loss_p_value(self) -> None:
        return None
