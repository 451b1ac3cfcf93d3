"""Metrics of a classifier from its probabilities, each with a bootstrap interval.

One set of formulas serves the value (every example weighs 1) and all resamples (every
example weighs as often as it was drawn), so an interval belongs to exactly its value.
The values equal scikit-learn's, where it has them. Which metrics there are is said in
`pipeline/metric_registry.py`; here is what computes them.

| metric | is |
|---|---|
| accuracy | share of examples whose most probable class is the right one |
| balanced_accuracy | mean recall over the classes that occur |
| macro_f1 | mean F1 over the classes that occur or were predicted |
| log_loss | mean −ln of the right class's probability, 0 taken as the smallest positive float32 |
| top_k_accuracy | share of examples whose right class is among the k most probable; k < classes, from 3 classes on |
| auroc | area under the ROC curve; with more than two classes the mean of one class against the rest |
| calibration_error | root mean squared gap between confidence and accuracy over at most 15 bins of equal mass, debiased (Kumar, Liang and Ma 2019, "Verified Uncertainty Calibration", section 4) |
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import metric_registry
from pipeline.errors import TrainingError
from pipeline.evaluation.bootstrap import (
    BootstrapSettings,
    Floats,
    Units,
    Weights,
    draw_resamples,
    exact_interval,
    percentile_interval,
    weighted_mean,
)
from pipeline.evaluation.judge import ClassGoodness
from pipeline.metric_registry import Metric
from pipeline.records import MetricEstimate

BINS = 15
UNITS_A_BIN = 10  # fewer say nothing of the accuracy within a bin
SMALLEST = float(np.finfo(np.float32).tiny)  # what a probability of 0 counts as
# Past so many cells, the interval of a costly metric rests on fewer resamples.
COSTLY_CELLS, COSTLY_RESAMPLES = 200_000_000, 100


@dataclass(frozen=True)
class GapSums:
    """How far confidence and accuracy lie apart, summed by bin and unit: sparse (bins,
    units) each.

    Args:
        first: (units,) the first example of each unit.
        sizes: how many examples there are.
        gaps: the sum of 1 or 0 for right or wrong, less the confidence.
        squared_sizes, squared_gaps: the squares of these sums.
    """

    first: NDArray[np.intp]
    sizes: Any
    gaps: Any
    squared_sizes: Any
    squared_gaps: Any


@dataclass(frozen=True)
class Predictions:
    """What a model answered for N examples.

    Args:
        probabilities: (N, C), rows summing to 1.
        targets: (N,) index of the right class.
        units: (N,) what is resampled together.
        top_k: how many of the most probable classes count as an answer for top-k
            accuracy.
    """

    probabilities: Floats
    targets: NDArray[np.intp]
    units: Units
    top_k: int = 3

    def subset(self, rows: NDArray[np.bool_]) -> Predictions:
        """Those of some rows (N,); the units are counted anew."""
        if rows.all():
            return self
        _, units = np.unique(self.units[rows], return_inverse=True)
        return Predictions(
            self.probabilities[rows],
            self.targets[rows],
            units.astype(np.intp),
            self.top_k,
        )

    def estimate_metrics(
        self, settings: BootstrapSettings
    ) -> dict[str, MetricEstimate]:
        """Every metric that is defined on these examples, with its interval over
        resamples of the units.
        """
        return estimate_metrics(self, settings, wanted_k=self.top_k)

    @cached_property
    def predicted(self) -> NDArray[np.intp]:
        """The most probable class (N,)."""
        codes: NDArray[np.intp] = self.probabilities.argmax(axis=1)
        return codes

    @cached_property
    def confidence(self) -> Floats:
        """The most probable class's probability (N,)."""
        largest: Floats = self.probabilities.max(axis=1)
        return largest

    @cached_property
    def target_probability(self) -> Floats:
        """The right class's probability (N,)."""
        rows = np.arange(len(self.targets))
        return self.probabilities[rows, self.targets]

    @cached_property
    def target_rank(self) -> NDArray[np.intp]:
        """How many classes were thought more probable than the right one (N,); among
        equals the first comes first.
        """
        target_probability = self.target_probability[:, None]
        comes_before = np.arange(self.classes) < self.targets[:, None]
        is_tied = self.probabilities == target_probability
        is_ahead = (self.probabilities > target_probability) | (is_tied & comes_before)
        ranks: NDArray[np.intp] = is_ahead.sum(axis=1)
        return ranks

    @cached_property
    def bins(self) -> NDArray[np.intp]:
        """The bin of equal mass that each confidence lies in (N,), each open below and
        closed above.
        """
        affordable = len(np.unique(self.units)) // UNITS_A_BIN
        count = min(max(affordable, 1), BINS)
        shares = np.arange(1, count) / count
        edges = np.quantile(self.confidence, shares, method="inverted_cdf")
        return np.searchsorted(edges, self.confidence, side="left")

    @cached_property
    def gap_sums(self) -> GapSums:
        _, first, units = np.unique(self.units, return_index=True, return_inverse=True)
        once = np.ones(len(units))
        gap = self.correct - self.confidence
        sizes = _sum_by_cell(self.bins, units, once)
        gaps = _sum_by_cell(self.bins, units, gap)
        return GapSums(first, sizes, gaps, sizes * sizes, gaps * gaps)

    @property
    def goodness(self) -> NDArray[np.bool_]:
        """Whether each answer is right (N,)."""
        return self.correct

    @property
    def constant_goodness(self) -> NDArray[np.bool_]:
        """Whether the class that most of the examples (N,) have is the right one."""
        commonest = np.bincount(self.targets).argmax()
        return np.equal(self.targets, commonest)

    def class_goodness(self, code: int) -> ClassGoodness:
        """Whether the examples of a class are given it."""
        return ClassGoodness(
            np.equal(self.targets, code), self.correct.astype(np.float64)
        )

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the right class was the most probable one (N,)."""
        return np.equal(self.target_rank, 0)

    @property
    def classes(self) -> int:
        return int(self.probabilities.shape[1])


class ClassTallies(NamedTuple):
    """Weighted counts by class and column of weights, (C, R) each.

    Args:
        hits: right answers.
        targets: examples of the class.
        predicted: answers naming the class.
    """

    hits: Floats
    targets: Floats
    predicted: Floats


@dataclass(frozen=True)
class WeightedPredictions:
    """Predictions with R columns of weights (N, R): what a metric's function is given,
    so that it computes one value a column, (R,).
    """

    predictions: Predictions
    weights: Weights

    def mean(self, values: NDArray[Any]) -> Floats:
        """The weighted mean of one value an example (N,), as (R,)."""
        return weighted_mean(values.astype(np.float64), self.weights)

    @cached_property
    def tallies(self) -> ClassTallies:
        return tally_classes(self.predictions, self.weights)


# Of WeightedPredictions, and of k for top-k accuracy.
MetricFunction = Callable[..., Floats]


def check_probabilities(
    probabilities: Floats, candidate: str, paths: list[str]
) -> None:
    """Refuses probabilities (N, C) that are none.

    Raises:
        TrainingError: a row has NaN or infinity, a negative value, or does not sum to
            1; names the examples.
    """
    sums = probabilities.sum(axis=1)
    sums_to_one = np.isfinite(sums) & (np.abs(sums - 1) < 1e-3)
    is_valid = sums_to_one & (probabilities >= 0).all(axis=1)
    invalid = np.flatnonzero(~is_valid)
    if not len(invalid):
        return
    raise TrainingError(
        f"candidate '{candidate}'",
        found=f"answers for {len(invalid)} test examples that are no probabilities",
        expected="finite probabilities that sum to 1",
        hint="train it again: thaw run --force finetune; a lower learning rate or precision fp32 may help",
        details=[paths[row] for row in invalid],
    )


# --- all metrics ----------------------------------------------------------------------


def compute_metrics(
    predictions: Predictions,
    weights: Weights,
    wanted_k: int,
    *,
    with_costly: bool = True,
) -> dict[str, Floats]:
    """Every metric for each column of weights (N, R), as (R,); NaN where a column
    leaves a metric undefined, and for the costly ones where they are left out.
    """
    weighted = WeightedPredictions(predictions, weights)
    values = {}
    for metric in metric_registry.measured_metrics(predictions.classes, wanted_k):
        if metric.is_costly and not with_costly:
            values[metric.name] = np.full(weights.shape[1], np.nan)
        else:
            values[metric.name] = compute_metric(metric, weighted)
    return values


def compute_metric(metric: Metric, weighted: WeightedPredictions) -> Floats:
    """One metric for each column of weights, (R,)."""
    module, _, name = metric.function.partition(":")
    function: MetricFunction = getattr(importlib.import_module(module), name)
    if metric.k is not None:
        return function(weighted, metric.k)
    return function(weighted)


def estimate_metrics(
    predictions: Predictions, settings: BootstrapSettings, *, wanted_k: int
) -> dict[str, MetricEstimate]:
    """Every metric that is defined on these examples, with its interval over resamples
    of the units.
    """
    once = np.ones((len(predictions.targets), 1))
    values = compute_metrics(predictions, once, wanted_k)
    costly_resamples = max(
        COSTLY_RESAMPLES, COSTLY_CELLS // predictions.probabilities.size
    )
    parts = []
    for done, weights in draw_resamples(predictions.units, settings):
        with_costly = done < costly_resamples
        parts.append(
            compute_metrics(predictions, weights, wanted_k, with_costly=with_costly)
        )
    units = len(np.unique(predictions.units))
    estimates = {}
    for metric in metric_registry.measured_metrics(predictions.classes, wanted_k):
        value = float(values[metric.name][0])
        if not np.isfinite(value):
            continue
        if metric.counts_examples and value in (0.0, 1.0):
            estimates[metric.name] = exact_interval(value, units, settings.confidence)
        else:
            samples = np.concatenate([part[metric.name] for part in parts])
            estimates[metric.name] = percentile_interval(
                value, samples, settings.confidence
            )
    return estimates


# --- the metrics ----------------------------------------------------------------------


def accuracy(weighted: WeightedPredictions) -> Floats:
    return weighted.mean(weighted.predictions.correct)


def balanced_accuracy(weighted: WeightedPredictions) -> Floats:
    tallies = weighted.tallies
    recalls = _divide(tallies.hits, tallies.targets)
    return _mean_over_classes(recalls)


def macro_f1(weighted: WeightedPredictions) -> Floats:
    tallies = weighted.tallies
    scores = _divide(2 * tallies.hits, tallies.targets + tallies.predicted)
    return _mean_over_classes(scores)


def log_loss(weighted: WeightedPredictions) -> Floats:
    probabilities = weighted.predictions.target_probability.clip(SMALLEST)
    return weighted.mean(-np.log(probabilities))


def top_k_accuracy(weighted: WeightedPredictions, k: int) -> Floats:
    is_among_first = weighted.predictions.target_rank < k
    return weighted.mean(is_among_first)


def calibration_error(weighted: WeightedPredictions) -> Floats:
    squared = squared_calibration_error(weighted)
    error: Floats = np.sqrt(np.maximum(squared, 0))
    return error


def squared_calibration_error(weighted: WeightedPredictions) -> Floats:
    """The squared calibration error of each resample (R,), without bias: of a perfectly
    calibrated model it is below 0 about as often as above. NaN where no bin holds two
    units.

    The square of a bin's gap is estimated by the mean product of the gaps of two
    examples of different units. Chance makes the square of the mean gap too large; it
    cannot make a product of independent gaps so. For single examples this is Kumar,
    Liang and Ma's estimate, which subtracts the variance instead.
    """
    sums = weighted.predictions.gap_sums
    drawn = weighted.weights[sums.first]
    squared_drawn = drawn**2
    examples = sums.sizes @ drawn
    pairs = examples**2 - sums.squared_sizes @ squared_drawn
    products = (sums.gaps @ drawn) ** 2 - sums.squared_gaps @ squared_drawn
    squared = _divide(products, pairs)
    is_defined = np.isfinite(squared)
    bin_weights = np.where(is_defined, examples, 0)
    weighted_squares = np.where(is_defined, squared, 0) * bin_weights
    return _divide(weighted_squares.sum(axis=0), bin_weights.sum(axis=0))


def auroc(weighted: WeightedPredictions) -> Floats:
    """Mann and Whitney's statistic on the weights, ties counting half; one class
    against the rest, averaged.
    """
    predictions = weighted.predictions
    # Sums run along rows: several times as fast.
    draws = np.ascontiguousarray(weighted.weights.T)
    if predictions.classes == 2:
        return _area_under_roc(
            predictions.probabilities[:, 1], predictions.targets == 1, draws
        )
    areas = []
    for code in range(predictions.classes):
        areas.append(
            _area_under_roc(
                predictions.probabilities[:, code], predictions.targets == code, draws
            )
        )
    return _mean_over_classes(np.stack(areas))


def _area_under_roc(
    scores: Floats, is_positive: NDArray[np.bool_], draws: Floats
) -> Floats:
    """The area (R,) for scores (N,) and draws (R, N)."""
    negatives = np.flatnonzero(~is_positive)
    positive_scores = scores[is_positive]
    order = negatives[np.argsort(scores[~is_positive], kind="stable")]
    negative_scores = scores[order]
    below = np.zeros((len(draws), len(order) + 1))
    np.cumsum(draws.take(order, axis=1), axis=1, out=below[:, 1:])
    lower = np.searchsorted(negative_scores, positive_scores, side="left")
    lower_or_tied = np.searchsorted(negative_scores, positive_scores, side="right")
    won = (below.take(lower, axis=1) + below.take(lower_or_tied, axis=1)) / 2
    drawn = draws[:, is_positive]
    total_won = np.einsum("rp,rp->r", drawn, won)
    all_pairs = drawn.sum(axis=1) * below[:, -1]
    return _divide(total_won, all_pairs)


# --- arithmetic -----------------------------------------------------------------------


def tally_classes(predictions: Predictions, weights: Weights) -> ClassTallies:
    """Counts by class for each column of weights (N, R)."""
    targets = predictions.targets
    predicted = predictions.predicted
    classes = predictions.classes
    once = np.ones(len(targets))
    hits = _class_matrix(targets, classes, predictions.correct) @ weights
    of_target = _class_matrix(targets, classes, once) @ weights
    of_answer = _class_matrix(predicted, classes, once) @ weights
    return ClassTallies(hits, of_target, of_answer)


def _class_matrix(codes: NDArray[np.intp], count: int, values: NDArray[Any]) -> Any:
    """The sparse (count, N) matrix with each example's value in the row of its code."""
    from scipy.sparse import csr_array

    cells = (codes, np.arange(len(codes)))
    return csr_array((values.astype(np.float64), cells), shape=(count, len(codes)))


def _sum_by_cell(
    rows: NDArray[np.intp], columns: NDArray[np.intp], values: NDArray[Any]
) -> Any:
    """The sparse matrix of the sums of the values with the same row and column."""
    from scipy.sparse import coo_array

    return coo_array((values.astype(np.float64), (rows, columns))).tocsr()


def _divide(part: Floats, whole: Floats) -> Floats:
    """Quotients, NaN where there is nothing to divide by."""
    undefined = np.full_like(whole, np.nan)
    return np.divide(part, whole, out=undefined, where=whole > 0)


def _mean_over_classes(values: Floats) -> Floats:
    """The mean over classes (C, R) that are defined; NaN where none is."""
    is_defined = np.isfinite(values)
    total = np.where(is_defined, values, 0).sum(axis=0)
    count = is_defined.sum(axis=0).astype(np.float64)
    return _divide(total, count)


def find_bin(confidence: Floats, bins: int = BINS) -> NDArray[np.intp]:
    """The bin of each confidence: equal widths over (0, 1], each open below and closed
    above.
    """
    places = np.ceil(confidence * bins)
    numbers = places.clip(1, bins).astype(np.intp)
    return numbers - 1
