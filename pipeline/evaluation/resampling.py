"""Metrics that are functions of judged answers and example weights: their intervals,
and paired comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from pipeline import metric_registry, task_catalog
from pipeline.evaluation.bootstrap import (
    BootstrapSettings,
    Floats,
    Units,
    Weights,
    draw_resamples,
    percentile_interval,
)
from pipeline.evaluation.compare import judge_difference
from pipeline.metric_registry import TargetKind
from pipeline.records import Comparison, MetricEstimate

# Of judged answers (N) and weights (N, R), to (R,).
MetricFunction = Callable[[Any, Weights], Floats]


class Resampled(Protocol):
    """Judged answers to N examples."""

    @property
    def units(self) -> Units: ...


def estimate_metrics(
    kind: TargetKind, judged: Resampled, settings: BootstrapSettings
) -> dict[str, MetricEstimate]:
    """Every metric of a kind of targets that is defined on these examples, with its
    interval over resamples of the units.
    """
    functions = {
        metric.name: _load(metric.name) for metric in metric_registry.metrics_of(kind)
    }
    once = np.ones((len(judged.units), 1))
    values = {
        name: float(function(judged, once)[0]) for name, function in functions.items()
    }
    known = [name for name, value in values.items() if np.isfinite(value)]
    samples: dict[str, list[Floats]] = {name: [] for name in known}
    for _, weights in draw_resamples(judged.units, settings):
        for name in known:
            samples[name].append(functions[name](judged, weights))
    estimates = {}
    for name in known:
        estimates[name] = percentile_interval(
            values[name], np.concatenate(samples[name]), settings.confidence
        )
    return estimates


def compare(
    metric: str,
    name: str,
    ours: Resampled,
    theirs: Resampled,
    settings: BootstrapSettings,
) -> Comparison:
    """The paired difference of two candidates in a metric, by the bootstrap alone.

    Args:
        name: of the other candidate.
    """
    function = _load(metric)
    once = np.ones((len(ours.units), 1))
    value = float((function(ours, once) - function(theirs, once))[0])
    samples = []
    for _, weights in draw_resamples(ours.units, settings):
        samples.append(function(ours, weights) - function(theirs, weights))
    differences = np.concatenate(samples)
    difference = percentile_interval(value, differences, settings.confidence)
    p_value = bootstrap_p_value(differences)
    verdict = judge_difference(difference, p_value, settings.confidence)
    return Comparison(
        other=name,
        metric=metric,
        difference=difference,
        p_value=p_value,
        verdict=verdict,
        test="bootstrap",
    )


def _load(metric: str) -> MetricFunction:
    function: MetricFunction = task_catalog.load_object(
        metric_registry.find(metric).function
    )
    return function


def bootstrap_p_value(samples: Floats) -> float:
    """Two-sided: twice the share of the resampled differences (R,) on the rarer side of
    0, one resample added.
    """
    known = samples[np.isfinite(samples)]
    not_above = int((known <= 0).sum())
    not_below = int((known >= 0).sum())
    rarer = min(not_above, not_below)
    return min(1.0, 2 * (rarer + 1) / (len(known) + 1))
