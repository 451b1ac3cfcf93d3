"""Bootstrap intervals by weights: a resample is how often each example was drawn, so
that every metric becomes a weighted sum and all resamples are computed in one matrix
product.

What is resampled is the *unit* that the split step found: an example, or all examples
joined by groups that the data name and by being near-duplicates. Several views of one
part share its difficulty; resampling them one by one would count them as independent
evidence and make the interval too narrow (Cameron, Gelbach and Miller 2008,
"Bootstrap-based improvements for inference with clustered errors", resample the
clusters).

A statistic is a function of weights (N, R) that gives one value a column, (R,).
Whatever is one has an interval by `estimate_statistic`: the accuracy of a slice, the
recall of a class, the difference of two models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.records import MetricEstimate

Floats = NDArray[np.float64]
Weights = NDArray[np.float64]  # (examples, resamples): how often each example was drawn
Units = NDArray[np.intp]  # (examples,): the unit of each example, 0 … units − 1
Statistic = Callable[[Weights], Floats]

# Of the weights held at once: 8 MB, about what a processor's cache holds.
MOST_CELLS = 1_000_000


class BootstrapSettings(NamedTuple):
    """How intervals are made.

    Args:
        resamples: how many resamples are drawn.
        confidence: how often an interval is to hold the truth: 0.95.
        seed: of the draws.
    """

    resamples: int
    confidence: float
    seed: int


def number_units(column: pa.ChunkedArray) -> Units:
    """The manifest's column `unit` as numbers, in the order in which the units come."""
    encoded = column.combine_chunks().dictionary_encode()
    numbers = encoded.indices.to_numpy(zero_copy_only=False)
    return np.asarray(numbers, dtype=np.intp)


def draw_resamples(
    units: Units, settings: BootstrapSettings
) -> Iterator[tuple[int, Weights]]:
    """Resamples of the units with replacement, some at a time: how many came before,
    and the weights (N, some).
    """
    generator = np.random.default_rng(settings.seed)
    total = int(units.max()) + 1
    step = max(1, MOST_CELLS // max(len(units), 1))
    for start in range(0, settings.resamples, step):
        size = min(step, settings.resamples - start)
        drawn = generator.integers(0, total, size=(size, total))
        offsets = np.arange(size)[:, None] * total
        cells = (drawn + offsets).ravel()
        counts = np.bincount(cells, minlength=size * total)
        by_resample = counts.reshape(size, total)
        by_unit = by_resample.astype(np.float64).T
        weights = by_unit[units]
        yield start, np.ascontiguousarray(weights)


def weighted_mean(values: Floats, weights: Weights) -> Floats:
    """The mean of values (N,) for each column of weights (N, R), as (R,)."""
    means: Floats = (values @ weights) / weights.sum(axis=0)
    return means


def estimate_statistic(
    statistic: Statistic, units: Units, settings: BootstrapSettings
) -> MetricEstimate:
    """A statistic of all examples, each counted once, with its interval over resamples
    of the units (N,).
    """
    once = np.ones((len(units), 1))
    value = float(statistic(once)[0])
    samples = []
    for _, weights in draw_resamples(units, settings):
        samples.append(statistic(weights))
    return percentile_interval(value, np.concatenate(samples), settings.confidence)


def percentile_interval(
    value: float, samples: Floats, confidence: float
) -> MetricEstimate:
    """The percentile interval (Efron and Tibshirani 1993, chapter 13) of one metric's
    resampled values (R,); resamples in which the metric was not defined are left out.
    """
    usable = samples[np.isfinite(samples)]
    if not len(usable):
        return MetricEstimate(value=value, low=value, high=value)
    tail = (1 - confidence) / 2
    low, high = np.quantile(usable, [tail, 1 - tail])
    return MetricEstimate(
        value=value, low=min(float(low), value), high=max(float(high), value)
    )


def estimate_share(
    hits: NDArray[np.bool_], units: Units, settings: BootstrapSettings
) -> MetricEstimate:
    """The share of hits (N,) with its interval over resamples of the units (N,), in any
    numbering.

    All hits or none resample to themselves, and a percentile interval would claim
    certainty; there the exact one of Clopper and Pearson (1934) is given, on the number
    of units.
    """
    if not len(hits):
        raise ValueError("a share of no examples")
    distinct, codes = np.unique(units, return_inverse=True)
    value = float(hits.mean())
    if value in (0.0, 1.0):
        return exact_interval(value, len(distinct), settings.confidence)
    values = hits.astype(np.float64)
    return estimate_statistic(
        lambda weights: weighted_mean(values, weights), codes, settings
    )


def exact_interval(value: float, trials: int, confidence: float) -> MetricEstimate:
    """Clopper and Pearson's interval of 0 or `trials` hits among `trials`; `value` is 0
    or 1.
    """
    tail = (1 - confidence) / 2
    reach = tail ** (1 / trials)
    if value:
        return MetricEstimate(value=value, low=reach, high=1.0)
    return MetricEstimate(value=value, low=0.0, high=1 - reach)
