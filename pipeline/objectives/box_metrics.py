"""How good answered boxes are: average precision and its kin, by any example weights.

Values equal COCO's (Lin et al. 2014; `pycocotools`) where every picture weighs 1:
precision is made falling, read at 101 values of recall and averaged. A class without an
object, in the data or in a resample, has no value and is left out of the mean. Of a
class of which a picture has more than 100 objects, COCO counts 100 answers; here all of
them count.

| metric | is |
|---|---|
| mean_ap | average precision, averaged over the overlaps 0.5, 0.55, … 0.95 and over classes |
| mean_ap_50, mean_ap_75 | the same at the overlap 0.5, 0.75 |
| mean_ap_small, mean_ap_medium, mean_ap_large | mean_ap of the objects of less than 32², up to 96², and more pixels |
| average_recall | recall, averaged over the overlaps and classes |
| f1 | harmonic mean of precision and recall at the overlap 0.5, of the answers from a score on |
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.objectives.box_matching import (
    RANGES,
    THRESHOLDS,
    ClassMatches,
    Floats,
    match_class,
)
from pipeline.objectives.box_targets import PictureBoxes

RECALLS = np.linspace(0, 1, 101)
AT_50, AT_75 = 0, 5  # places among the thresholds
CELLS_AT_ONCE = 150_000  # of answers and resamples: what a processor's cache holds
# Divides 0, where there is nothing to divide by.
TINY = float(np.finfo(np.float64).tiny)
EVERY_THRESHOLD = tuple(range(len(THRESHOLDS)))

Weights = NDArray[np.float64]  # (pictures, resamples)


@dataclass(frozen=True)
class BoxJudgement:
    """Answers held against truths.

    Args:
        truths: of N pictures.
        answers: of each picture (K, 6): left, top, right, bottom, score, class.
        classes: how many there are.
    """

    truths: Sequence[PictureBoxes]
    answers: Sequence[Floats]
    classes: int

    @cached_property
    def _matches(self) -> dict[str, list[ClassMatches]]:
        return {}

    def matches(self, size: str = "all") -> list[ClassMatches]:
        """The matches of each class in one of the `RANGES` of areas; computed once."""
        if size not in self._matches:
            self._matches[size] = [
                match_class(self.truths, self.answers, label, RANGES[size])
                for label in range(self.classes)
            ]
        return self._matches[size]

    def class_ap(
        self, label: int, weights: Weights, thresholds: Sequence[int] = EVERY_THRESHOLD
    ) -> Floats:
        """Average precision (R,) of one class, averaged over thresholds by their
        places; nan without an object.
        """
        matches = self.matches()[label]
        return average_precision(matches, weights, thresholds)

    def mean_ap(
        self,
        weights: Weights,
        thresholds: Sequence[int] = EVERY_THRESHOLD,
        size: str = "all",
    ) -> Floats:
        """Average precision (R,), averaged over thresholds and over the classes that
        have objects.
        """
        values = [
            average_precision(match, weights, thresholds)
            for match in self.matches(size)
        ]
        return mean_of_known(np.array(values))

    def average_recall(
        self, weights: Weights, most: int | None = None, size: str = "all"
    ) -> Floats:
        """Recall (R,) of the best `most` answers of a picture and class, or of all that
        count, averaged over thresholds and classes.
        """
        values = []
        for match in self.matches(size):
            total = match.objects @ weights
            by_answer = match.hits.mean(axis=0)
            if most is not None:
                by_answer = by_answer * (match.places < most)
            matched = _sum_by_picture(match, by_answer, len(self.truths)) @ weights
            values.append(_divide(matched, total))
        return mean_of_known(np.array(values))

    @cached_property
    def best_score(self) -> float:
        """The score from which on answers give the highest F1 at the overlap 0.5."""
        matches = self.matches()
        scores = np.concatenate([match.scores for match in matches])
        hits = np.concatenate([match.hits[AT_50] for match in matches])
        counted = np.concatenate([~match.ignored[AT_50] for match in matches])
        order = np.argsort(-scores, kind="stable")
        order = order[counted[order]]
        if not len(order):
            return 0.5
        objects = sum(int(match.objects.sum()) for match in matches)
        right = np.cumsum(hits[order])
        answered = np.arange(1, len(order) + 1)
        f1 = 2 * right / (answered + objects)
        ordered = scores[order]
        # Answers of one score are taken together.
        is_last = np.append(ordered[1:] != ordered[:-1], True)
        places = np.flatnonzero(is_last)
        best_place = places[int(f1[places].argmax())]
        return float(ordered[best_place])

    def tally(self, score: float) -> Floats:
        """(N, 3) of each picture: right answers, answers that count, and objects, of
        the answers from a score on, at the overlap 0.5.
        """
        tallies = np.zeros((len(self.truths), 3))
        for match in self.matches():
            shown = match.scores >= score
            tallies[:, 0] += _sum_by_picture(
                match, match.hits[AT_50] & shown, len(self.truths)
            )
            tallies[:, 1] += _sum_by_picture(
                match, ~match.ignored[AT_50] & shown, len(self.truths)
            )
            tallies[:, 2] += match.objects
        return tallies

    def f1(self, weights: Weights, score: float) -> Floats:
        """F1 (R,) of the answers from a score on."""
        right, answered, objects = self.tally(score).T @ weights
        shares: Floats = _divide(2 * right, answered + objects)
        return shares

    def goodness(self, score: float) -> Floats:
        """F1 of each picture (N,), of the answers from a score on; 1 where there is
        nothing and nothing is answered.
        """
        right, answered, objects = self.tally(score).T
        sizes = answered + objects
        f1 = 2 * right / np.maximum(sizes, 1)
        scores: Floats = np.where(sizes > 0, f1, 1.0)
        return scores


def average_precision(
    matches: ClassMatches, weights: Weights, thresholds: Sequence[int]
) -> Floats:
    """Average precision (R,) of one class, averaged over thresholds by their places;
    nan without an object.

    Args:
        weights: (N, R) of the pictures.
    """
    resamples = weights.shape[1]
    precision = np.empty(resamples)
    step = max(1, CELLS_AT_ONCE // max(len(matches.scores), 1))
    for start in range(0, resamples, step):
        columns = slice(start, start + step)
        precision[columns] = _average_precision(
            matches, weights[:, columns], thresholds
        )
    return precision


def _average_precision(
    matches: ClassMatches, weights: Weights, thresholds: Sequence[int]
) -> Floats:
    objects = matches.objects @ weights
    own_weights = weights[matches.pictures]
    total = np.zeros(weights.shape[1])
    before: NDArray[np.bool_] | None = None
    answered = own_weights
    for place in thresholds:
        counted = ~matches.ignored[place]
        if before is None or not np.array_equal(counted, before):
            answered = np.cumsum(own_weights * counted[:, None], axis=0)
            before = counted
        hits = np.flatnonzero(matches.hits[place])
        total += _precision_at(own_weights[hits], answered[hits], objects)
    averaged: Floats = total / len(thresholds)
    averaged[objects == 0] = np.nan
    return averaged


def _precision_at(drawn: Floats, answered: Floats, objects: Floats) -> Floats:
    """Average precision (R,) at one threshold. Only at right answers does recall rise,
    and precision with it.

    Args:
        drawn: (H, R) the weight of each right answer; overwritten.
        answered: (H, R) the weighted number of answers up to it; overwritten.
        objects: (R,) the weighted number of objects.
    """
    right = np.cumsum(drawn, axis=0, out=drawn)
    precision = np.divide(right, np.maximum(answered, TINY, out=answered), out=answered)
    from_behind = precision[::-1]
    np.maximum.accumulate(from_behind, axis=0, out=from_behind)
    recall = np.divide(right, np.maximum(objects, TINY), out=right)
    read = _count_read(recall)
    # Each precision as often as values of recall are first reached there.
    sums = np.einsum("hr,hr->r", precision, read) - np.einsum(
        "hr,hr->r", precision[1:], read[:-1]
    )
    mean_precision: Floats = sums / len(RECALLS)
    return mean_precision


def _count_read(recall: Floats) -> Floats:
    """How many of `RECALLS` each recall (H, R) reaches."""
    nearest = np.rint(recall * (len(RECALLS) - 1))
    # As COCO's values of recall are made: some lie a last digit above the hundredth,
    # which then does not reach them.
    is_reached = nearest * RECALLS[1] <= recall
    counts: Floats = np.add(nearest, is_reached, out=nearest)
    return counts


def _sum_by_picture(
    matches: ClassMatches, values: NDArray[np.generic], pictures: int
) -> Floats:
    sums = np.bincount(
        matches.pictures, weights=values.astype(np.float64), minlength=pictures
    )
    return sums.astype(np.float64)


def _divide(values: Floats, by: Floats, otherwise: float = float("nan")) -> Floats:
    """The quotients; where there is nothing to divide by, `otherwise`."""
    shape = np.broadcast(values, by).shape
    quotients: Floats = np.divide(
        values, by, out=np.full(shape, otherwise), where=by > 0
    )
    return quotients


def mean_of_known(values: Floats) -> Floats:
    """The mean (R,) over the classes (C, R) that have a value; nan where none has."""
    with warnings.catch_warnings():
        # A resample in which no class has an object.
        warnings.simplefilter("ignore", RuntimeWarning)
        means: Floats = np.nanmean(values, axis=0)
    return means
