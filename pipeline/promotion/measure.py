"""Evidence from judged answers: gains on the whole, in classes and in slices, and flips
both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import metric_registry, task_catalog
from pipeline.evaluation.judge import Judged, subset_units
from pipeline.evaluation.metrics import (
    SMALLEST,
    Predictions,
    WeightedPredictions,
    compute_metric,
)
from pipeline.promotion.decide import FEWEST_PART_UNITS
from pipeline.promotion.evidence import PartGain
from pipeline.promotion.paired_gain import ExampleGains, Floats, PairedGain, RankedGain

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.evaluation.slices import SliceColumn

LOG_LOSS = "log_loss"


class JudgedPair(NamedTuple):
    """Challenger and champion, judged on the same examples (N).

    Args:
        metric: the one that decides.
        goodness_metric: the one by which single examples are told apart.
        finest_error: the smallest error rate that will be asked about.
    """

    challenger: Judged
    champion: Judged
    metric: str
    goodness_metric: str
    finest_error: float

    @property
    def is_per_example(self) -> bool:
        """Whether the metric is a mean over examples."""
        return self.metric in (self.goodness_metric, LOG_LOSS)


def measure_gain(pair: JudgedPair) -> PairedGain:
    """The gain in the metric that decides."""
    units = pair.challenger.units
    if pair.is_per_example:
        return ExampleGains(_gains(pair), units, pair.finest_error)
    compute = _metric_function(pair.metric)

    def difference(weights: Floats) -> Floats:
        gain: Floats = compute(pair.challenger, weights) - compute(
            pair.champion, weights
        )
        if metric_registry.find(pair.metric).higher_is_better:
            return gain
        return -gain

    return RankedGain(difference, units, pair.finest_error)


def measure_constant_gain(judged: Judged, finest_error: float) -> ExampleGains:
    """The gain over the best answer that is the same for every example."""
    goodness = judged.goodness.astype(np.float64)
    gains = goodness - judged.constant_goodness
    return ExampleGains(gains, judged.units, finest_error)


def measure_classes(
    pair: JudgedPair, labels: Sequence[str], compared: frozenset[str]
) -> Iterator[PartGain]:
    """The gain in each class that both know and that enough units have."""
    for code, label in enumerate(labels):
        if label not in compared:
            continue
        own = pair.challenger.class_goodness(code)
        gains = own.goodness - pair.champion.class_goodness(code).goodness
        part = _measure_part(f"class {label}", gains, own.rows, pair)
        if part is not None:
            yield part


def measure_slices(
    pair: JudgedPair, table: pa.Table, columns: Sequence[SliceColumn]
) -> Iterator[PartGain]:
    """The gain in each slice that enough units have."""
    from pipeline.evaluation.slices import slice_rows

    goodness = pair.challenger.goodness.astype(np.float64)
    gains = goodness - pair.champion.goodness
    for column in columns:
        for value, rows in slice_rows(table[column.source]):
            part = _measure_part(f"{column.name} = {value}", gains, rows, pair)
            if part is not None:
                yield part


class Flips(NamedTuple):
    """Shares of the examples that only the champion, or only the challenger gets right
    (Yan et al. 2021, "Positive-congruent training").
    """

    negative: float
    positive: float


def count_flips(pair: JudgedPair) -> Flips | None:
    """None where answers are not right or wrong."""
    ours = pair.challenger.goodness
    theirs = pair.champion.goodness
    if ours.dtype != np.bool_:
        return None
    lost = float((theirs & ~ours).mean())
    won = float((ours & ~theirs).mean())
    return Flips(lost, won)


def measure_recall(judged: Judged, code: int) -> float | None:
    """The mean goodness of a class; None where no example has it."""
    own = judged.class_goodness(code)
    if own.rows.any():
        return float(own.goodness[own.rows].mean())
    return None


def _measure_part(
    name: str, gains: Floats, rows: NDArray[np.bool_], pair: JudgedPair
) -> PartGain | None:
    units = subset_units(pair.challenger.units, rows)
    if len(np.unique(units)) < FEWEST_PART_UNITS:
        return None
    return PartGain(name, ExampleGains(gains[rows], units, pair.finest_error))


def _gains(pair: JudgedPair) -> Floats:
    ours = pair.challenger
    theirs = pair.champion
    if pair.metric != LOG_LOSS:
        gains: Floats = ours.goodness.astype(np.float64) - theirs.goodness
        return gains
    assert isinstance(ours, Predictions)
    assert isinstance(theirs, Predictions)
    our_log = np.log(np.maximum(ours.target_probability, SMALLEST))
    their_log = np.log(np.maximum(theirs.target_probability, SMALLEST))
    return np.asarray(our_log - their_log)


def _metric_function(name: str) -> Callable[[Any, Floats], Floats]:
    """A metric of judged answers (N) by example weights (N, R), (R,)."""
    metric = metric_registry.find(name)
    if metric.targets == "classes":
        return lambda judged, weights: compute_metric(
            metric, WeightedPredictions(judged, weights)
        )
    function: Callable[[Any, Floats], Floats] = task_catalog.load_object(
        metric.function
    )
    return function
