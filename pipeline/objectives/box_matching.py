"""Which answered box is which object: the matching of COCO's evaluation, kept for every picture.

As in COCOeval (Lin et al. 2014 and its published code): within a picture and class, answers are taken by falling score, and
each takes the object that it overlaps most, if that is free and the overlap reaches the threshold. An ignored object takes
any number of answers, which then count neither way. For the range of areas, objects outside it are ignored, and so are
unmatched answers outside it.

Since matches do not depend on other pictures, any example weights are applied afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.objectives.box_targets import PictureBoxes

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of intersection over union
RANGES: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}  # of an object's area, in pixels of its picture
SCORE, CLASS = 4, 5  # places in an answer


class ClassMatches(NamedTuple):
    """The answers of one class in all pictures, in one range of areas, best first.

    Args:
        pictures: (D,) the picture of each answer.
        scores: (D,).
        places: (D,) how many better ones of the class its picture has.
        hits: (T, D) whether it is an object, by threshold.
        ignored: (T, D) whether it counts neither way.
        objects: (N,) how many objects each picture has.
    """

    pictures: NDArray[np.int64]
    scores: Floats
    places: NDArray[np.int64]
    hits: Flags
    ignored: Flags
    objects: NDArray[np.int64]


class _PictureMatch(NamedTuple):
    """Of one picture and class."""

    scores: Floats
    hits: Flags
    ignored: Flags
    objects: int


def match_class(
    truths: Sequence[PictureBoxes], answers: Sequence[Floats], label: int, area: tuple[float, float]
) -> ClassMatches:
    """The matches of one class.

    Args:
        truths: of N pictures.
        answers: of each picture (K, 6): left, top, right, bottom, score, class.
        area: of the objects that count.
    """
    found = [_match_picture(truth, answer, label, area) for truth, answer in zip(truths, answers, strict=True)]
    counts = [len(one.scores) for one in found]
    pictures = np.repeat(np.arange(len(found)), counts)
    places = np.concatenate([np.arange(count) for count in [0, *counts]])
    scores = np.concatenate([np.empty(0), *(one.scores for one in found)])
    width = len(THRESHOLDS)
    hits = np.concatenate([np.empty((width, 0), np.bool_), *(one.hits for one in found)], axis=1)
    ignored = np.concatenate([np.empty((width, 0), np.bool_), *(one.ignored for one in found)], axis=1)
    order = np.argsort(-scores, kind="stable")
    objects = np.array([one.objects for one in found], np.int64)
    return ClassMatches(
        pictures[order], scores[order], places[order].astype(np.int64), hits[:, order], ignored[:, order], objects
    )


def _match_picture(truth: PictureBoxes, answer: Floats, label: int, area: tuple[float, float]) -> _PictureMatch:
    chosen = answer[answer[:, CLASS] == label]
    chosen = chosen[np.argsort(-chosen[:, SCORE], kind="stable")]
    of_class = truth.labels == label
    objects = truth.boxes[of_class].astype(np.float64)
    crowds = truth.ignored[of_class]
    low, high = area
    object_areas = _areas(objects)
    passed_over = crowds | (object_areas < low) | (object_areas > high)
    # Objects that count come first: an answer takes an ignored one only where it finds no other.
    order = np.argsort(passed_over, kind="stable")
    objects, crowds, passed_over = objects[order], crowds[order], passed_over[order]
    hits = np.zeros((len(THRESHOLDS), len(chosen)), np.bool_)
    ignored = np.zeros_like(hits)
    if len(objects) and len(chosen):
        overlaps = intersection_over_union(chosen[:, :4], objects, crowds)
        taken = _assign(overlaps, crowds, passed_over)
        is_matched = taken >= 0
        takes_ignored = is_matched & passed_over[taken]
        hits = is_matched & ~takes_ignored
        ignored = takes_ignored
    answer_areas = _areas(chosen[:, :4])
    outside = (answer_areas < low) | (answer_areas > high)
    ignored = ignored | (~hits & outside)
    return _PictureMatch(chosen[:, SCORE], hits, ignored, int((~passed_over).sum()))


def _assign(overlaps: Floats, crowds: Flags, passed_over: Flags) -> NDArray[np.int64]:
    """The object (T, D) that each answer takes at each threshold; −1: none.

    Args:
        overlaps: (D, G).
        crowds: (G,) objects that take any number of answers.
        passed_over: (G,) objects that do not count, after all that do.
    """
    count, objects = overlaps.shape
    taken = np.full((len(THRESHOLDS), count), -1, np.int64)
    is_free = np.ones((len(THRESHOLDS), objects), np.bool_)
    limits = np.minimum(THRESHOLDS, 1 - 1e-10)
    for number in range(count):
        reached = overlaps[number][None, :] >= limits[:, None]
        usable = reached & (is_free | crowds)
        for wanted in (~passed_over, passed_over):
            candidates = np.where(usable & wanted, overlaps[number], -1.0)
            # Of several that overlap as much, the last one: as COCOeval walks through them.
            best = objects - 1 - candidates[:, ::-1].argmax(axis=1)
            finds = (candidates.max(axis=1) >= 0) & (taken[:, number] < 0)
            taken[finds, number] = best[finds]
        rows = np.flatnonzero(taken[:, number] >= 0)
        is_free[rows, taken[rows, number]] = False
    return taken


def intersection_over_union(boxes: Floats, objects: Floats, crowds: Flags) -> Floats:
    """(D, G) of boxes (D, 4) with objects (G, 4); with a crowd, the share of the box that lies in it."""
    top_left = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    shared = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    own = _areas(boxes)[:, None]
    union = own + _areas(objects)[None, :] - shared
    whole = np.where(crowds[None, :], own, union)
    shares: Floats = shared / np.maximum(whole, 1e-12)
    return shares


def _areas(boxes: Floats) -> Floats:
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    areas: Floats = sides.prod(axis=1)
    return areas


def list_answers(answers: NDArray[np.floating[Any]]) -> Iterator[Floats]:
    """The boxes (K, 6) that each of the answers (N, detections, 6) holds, without unused places."""
    for answer in answers:
        yield answer[answer[:, SCORE] >= 0].astype(np.float64)
