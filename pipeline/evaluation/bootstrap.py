"""Bootstrap intervals by weights: a resample is how often each example was drawn, so that every metric becomes a
weighted sum and all resamples are computed in one matrix product.

What is resampled is the *unit* that the split step found: an example, or all examples joined by groups that the data
name and by being near-duplicates. Several views of one part share its difficulty; resampling them one by one would
count them as independent evidence and make the interval too narrow (Cameron, Gelbach and Miller 2008, "Bootstrap-based improvements for inference with clustered
errors", resample the clusters).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.records import MetricEstimate

Floats = NDArray[np.float64]
WeightsContent = NDArray[np.float64]  # (examples, resamples): how often each example was drawn
Units = NDArray[np.intp]  # (examples,): the unit of each example, 0 … units − 1

CELLS = 1_000_000  # of the weights held at once: 8 MB, about what a processor's cache holds


def units_of(column: pa.ChunkedArray) -> Units:
    """The manifest's column `unit` as numbers, in the order in which the units come."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.intp)


def resamples(units: Units, count: int, seed: int) -> Iterator[tuple[int, WeightsContent]]:
    """`count` resamples of the units with replacement, some at a time: how many came before, and the weights
    (examples, some)."""
    generator = np.random.default_rng(seed)
    total = int(units.max()) + 1
    step = max(1, CELLS // max(len(units), 1))
    for start in range(0, count, step):
        size = min(step, count - start)
        drawn = generator.integers(0, total, size=(size, total))
        offsets = np.arange(size)[:, None] * total
        counts = np.bincount((drawn + offsets).ravel(), minlength=size * total).reshape(size, total)
        yield start, np.ascontiguousarray(counts.astype(np.float64).T[units])


def interval(value: float, samples: Floats, confidence: float) -> MetricEstimate:
    """The percentile interval (Efron and Tibshirani 1993, chapter 13) of one metric's resampled values (resamples,);
    resamples in which the metric was not defined are left out."""
    usable = samples[np.isfinite(samples)]
    if not len(usable):
        return MetricEstimate(value=value, low=value, high=value)
    tail = (1 - confidence) / 2
    low, high = np.quantile(usable, [tail, 1 - tail])
    return MetricEstimate(value=value, low=min(float(low), value), high=max(float(high), value))


def proportion(hits: NDArray[np.bool_], units: Units, *, count: int, confidence: float, seed: int) -> MetricEstimate:
    """The share of hits (examples,) with its interval.

    All hits or none resample to themselves, and a percentile interval would claim certainty; there the exact one of
    Clopper and Pearson (1934) is given, on the number of units.
    """
    if not len(hits):
        raise ValueError("a share of no examples")
    value = float(hits.mean())
    if value in (0.0, 1.0):
        return exact(value, len(np.unique(units)), confidence)
    _, codes = np.unique(units, return_inverse=True)
    samples = [
        (hits.astype(np.float64) @ weights) / weights.sum(axis=0) for _, weights in resamples(codes, count, seed)
    ]
    return interval(value, np.concatenate(samples), confidence)


def exact(value: float, trials: int, confidence: float) -> MetricEstimate:
    """Clopper and Pearson's interval of 0 or `trials` hits among `trials`; `value` is 0 or 1."""
    reach = ((1 - confidence) / 2) ** (1 / trials)
    return (
        MetricEstimate(value=value, low=reach, high=1.0)
        if value
        else MetricEstimate(value=value, low=0.0, high=1 - reach)
    )
