"""Metrics of a classifier from its probabilities, each with a bootstrap interval.

One set of formulas serves the value (every example weighs 1) and all resamples (every example weighs as often as it
was drawn), so an interval belongs to exactly its value. The values equal scikit-learn's, where it has them.

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

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TrainingError
from pipeline.evaluation.bootstrap import Floats, Units, WeightsContent, exact, interval, resamples
from pipeline.records import MetricEstimate

BINS = 15
UNITS_A_BIN = 10  # fewer say nothing of the accuracy within a bin
SMALLEST = float(np.finfo(np.float32).tiny)  # what a probability of 0 counts as
LOWER_IS_BETTER = frozenset({"log_loss", "calibration_error"})
SHARES = ("accuracy", "top_")  # metrics that are a share of the examples
AUROC_CLASSES = 100  # with more, one class against the rest says little and costs much
AREA_CELLS, AREA_RESAMPLES = 200_000_000, 100  # past so many cells, auroc's interval rests on fewer resamples


@dataclass(frozen=True)
class GapSums:
    """How far confidence and accuracy lie apart, summed by bin and unit: sparse (bins, units) each.

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
    """

    probabilities: Floats
    targets: NDArray[np.intp]
    units: Units

    def of(self, rows: NDArray[np.bool_]) -> Predictions:
        """Those of some rows (N,); the units are counted anew."""
        if rows.all():
            return self
        _, units = np.unique(self.units[rows], return_inverse=True)
        return Predictions(self.probabilities[rows], self.targets[rows], units.astype(np.intp))

    @cached_property
    def predicted(self) -> NDArray[np.intp]:
        found: NDArray[np.intp] = self.probabilities.argmax(axis=1)
        return found

    @cached_property
    def confidence(self) -> Floats:
        found: Floats = self.probabilities.max(axis=1)
        return found

    @cached_property
    def right(self) -> Floats:
        """The right class's probability (N,)."""
        return self.probabilities[np.arange(len(self.targets)), self.targets]

    @cached_property
    def rank(self) -> NDArray[np.intp]:
        """How many classes were thought more probable than the right one (N,); among equals the first comes first."""
        right = self.right[:, None]
        before = np.arange(self.classes) < self.targets[:, None]
        ahead = (self.probabilities > right) | ((self.probabilities == right) & before)
        found: NDArray[np.intp] = ahead.sum(axis=1)
        return found

    @cached_property
    def bins(self) -> NDArray[np.intp]:
        """The bin of equal mass that each confidence lies in (N,), each open below and closed above."""
        wanted = len(np.unique(self.units)) // UNITS_A_BIN
        count = min(max(wanted, 1), BINS)
        shares = np.arange(1, count) / count
        edges = np.quantile(self.confidence, shares, method="inverted_cdf")
        return np.searchsorted(edges, self.confidence, side="left")

    @cached_property
    def gap_sums(self) -> GapSums:
        _, first, units = np.unique(self.units, return_index=True, return_inverse=True)
        sizes = _sums(self.bins, units, np.ones(len(units)))
        gaps = _sums(self.bins, units, self.correct - self.confidence)
        return GapSums(first, sizes, gaps, sizes * sizes, gaps * gaps)

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.equal(self.rank, 0)

    @property
    def classes(self) -> int:
        return int(self.probabilities.shape[1])


def check(probabilities: Floats, candidate: str, ids: list[str]) -> None:
    """Refuses probabilities that are none.

    Raises:
        TrainingError: a row has NaN or infinity, a negative value, or does not sum to 1; names the examples.
    """
    sums = probabilities.sum(axis=1)
    bad = ~(np.isfinite(sums) & (np.abs(sums - 1) < 1e-3) & (probabilities >= 0).all(axis=1))
    if bad.any():
        raise TrainingError(
            f"candidate '{candidate}'", found=f"answers for {int(bad.sum())} test examples that are no probabilities",
            expected="finite probabilities that sum to 1",
            hint="train it again: thaw run --force finetune; a lower learning rate or precision fp32 may help",
            details=[ids[row] for row in np.flatnonzero(bad)],
        )  # fmt: skip


def top_k(classes: int, wanted: int) -> int | None:
    """The k of top-k: at most classes − 1, at which every answer but the last is right; None where k would be 1."""
    k = min(wanted, classes - 1)
    return k if k > 1 else None


def names(wanted_k: int, classes: int | None = None) -> tuple[str, ...]:
    """The metrics that predictions of so many classes have; of any number of classes, where it is None."""
    known = ["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error"]
    largest = wanted_k if classes is None else top_k(classes, wanted_k)
    smallest = 2 if classes is None else largest
    if largest is not None and smallest is not None:
        known += [f"top_{k}_accuracy" for k in range(smallest, largest + 1)]
    if classes is None or classes <= AUROC_CLASSES:
        known.append("auroc")
    return tuple(known)


def measure(made: Predictions, weights: WeightsContent, wanted_k: int, *, areas: bool = True) -> dict[str, Floats]:
    """Every metric for each column of weights (N, R), as (R,); NaN where a column leaves a metric undefined, and
    for auroc without `areas`."""
    total = weights.sum(axis=0)
    hits, true, given = tallies(made, weights)
    losses = -np.log(made.right.clip(SMALLEST))
    values = {
        "accuracy": (made.correct.astype(np.float64) @ weights) / total,
        "balanced_accuracy": _mean(_ratio(hits, true)),
        "macro_f1": _mean(_ratio(2 * hits, true + given)),
        "log_loss": (losses @ weights) / total,
        "calibration_error": _calibration_error(made, weights),
    }
    if k := top_k(made.classes, wanted_k):
        values[f"top_{k}_accuracy"] = ((made.rank < k).astype(np.float64) @ weights) / total
    if made.classes <= AUROC_CLASSES:
        values["auroc"] = _auroc(made, weights) if areas else np.full(len(total), np.nan)
    return values


def estimates(
    made: Predictions, *, wanted_k: int, count: int, confidence: float, seed: int
) -> dict[str, MetricEstimate]:
    """Every metric that is defined on these examples, with its interval over `count` resamples of the units."""
    once = np.ones((len(made.targets), 1))
    values = {name: float(found[0]) for name, found in measure(made, once, wanted_k).items()}
    budget = max(AREA_RESAMPLES, AREA_CELLS // made.probabilities.size)
    parts: list[dict[str, Floats]] = []
    for done, weights in resamples(made.units, count, seed):
        parts.append(measure(made, weights, wanted_k, areas=done < budget))
    found = {
        name: interval(value, np.concatenate([part[name] for part in parts]), confidence)
        for name, value in values.items()
        if np.isfinite(value)
    }
    trials = len(np.unique(made.units))
    for name, estimate in found.items():
        if name.startswith(SHARES) and estimate.value in (0.0, 1.0):
            found[name] = exact(estimate.value, trials, confidence)
    return found


def tallies(made: Predictions, weights: WeightsContent) -> tuple[Floats, Floats, Floats]:
    """Per class and resample (C, R): right answers, examples of the class, answers naming the class."""
    return (
        _rows(made.targets, made.classes, made.correct) @ weights,
        _rows(made.targets, made.classes, np.ones(len(made.targets))) @ weights,
        _rows(made.predicted, made.classes, np.ones(len(made.targets))) @ weights,
    )


def _rows(codes: NDArray[np.intp], count: int, values: NDArray[Any]) -> Any:
    """The sparse (count, N) matrix with each example's value in the row of its code."""
    from scipy.sparse import csr_array

    return csr_array((values.astype(np.float64), (codes, np.arange(len(codes)))), shape=(count, len(codes)))


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _mean(values: Floats) -> Floats:
    """The mean over classes (C, R) that are defined; NaN where none is."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def bin_of(confidence: Floats, bins: int = BINS) -> NDArray[np.intp]:
    """The bin of each confidence: equal widths over (0, 1], each open below and closed above."""
    return np.ceil(confidence * bins).clip(1, bins).astype(np.intp) - 1


def _calibration_error(made: Predictions, weights: WeightsContent) -> Floats:
    squared = squared_calibration_error(made, weights)
    error: Floats = np.sqrt(np.maximum(squared, 0))
    return error


def squared_calibration_error(made: Predictions, weights: WeightsContent) -> Floats:
    """The squared calibration error of each resample (R,), without bias: of a perfectly calibrated model it is below
    0 about as often as above. NaN where no bin holds two units.

    The square of a bin's gap is estimated by the mean product of the gaps of two examples of different units. Chance
    makes the square of the mean gap too large; it cannot make a product of independent gaps so. For single examples
    this is Kumar, Liang and Ma's estimate, which subtracts the variance instead.
    """
    sums = made.gap_sums
    drawn = weights[sums.first]
    examples = sums.sizes @ drawn
    pairs = examples**2 - sums.squared_sizes @ drawn**2
    products = (sums.gaps @ drawn) ** 2 - sums.squared_gaps @ drawn**2
    squared = _ratio(products, pairs)
    defined = np.isfinite(squared)
    total_weight = np.where(defined, examples, 0)
    return _ratio((np.where(defined, squared, 0) * total_weight).sum(axis=0), total_weight.sum(axis=0))


def _sums(rows: NDArray[np.intp], columns: NDArray[np.intp], values: NDArray[Any]) -> Any:
    """The sparse matrix of the sums of the values with the same row and column."""
    from scipy.sparse import coo_array

    return coo_array((values.astype(np.float64), (rows, columns))).tocsr()


def _auroc(made: Predictions, weights: WeightsContent) -> Floats:
    """Mann and Whitney's statistic on the weights, ties counting half; one class against the rest, averaged."""
    draws = np.ascontiguousarray(weights.T)  # sums run along rows: several times as fast
    if made.classes == 2:
        return _area(made.probabilities[:, 1], made.targets == 1, draws)
    return _mean(np.stack([_area(made.probabilities[:, c], made.targets == c, draws) for c in range(made.classes)]))


def _area(scores: Floats, positive: NDArray[np.bool_], draws: Floats) -> Floats:
    order = np.flatnonzero(~positive)[np.argsort(scores[~positive], kind="stable")]
    below = np.zeros((len(draws), len(order) + 1))
    np.cumsum(draws.take(order, axis=1), axis=1, out=below[:, 1:])
    ahead = np.searchsorted(scores[order], scores[positive], side="left")
    level = np.searchsorted(scores[order], scores[positive], side="right")
    won = (below.take(ahead, axis=1) + below.take(level, axis=1)) / 2
    drawn = draws[:, positive]
    return _ratio(np.einsum("rp,rp->r", drawn, won), drawn.sum(axis=1) * below[:, -1])
