"""Which answered box is which object: the matching of COCO's evaluation, kept for every
picture.

As in COCOeval (Lin et al. 2014 and its published code): within a picture and class,
answers are taken by falling score, and each takes the object that it overlaps most, if
that is free and the overlap reaches the threshold. An ignored object takes any number
of answers, which then count neither way. For the range of areas, objects outside it are
ignored, and so are unmatched answers outside it. Of a picture and class, the best 100
answers count.

Since matches do not depend on other pictures, any example weights are applied
afterwards.
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
LIMITS = np.minimum(THRESHOLDS, 1 - 1e-10)  # as COCOeval compares with
# Of one class in a picture; COCO counts no more. Where a picture has more objects than
# that, all answers count: recall could not come to 1 otherwise.
MOST_ANSWERS = 100
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
    truths: Sequence[PictureBoxes],
    answers: Sequence[Floats],
    label: int,
    area: tuple[float, float],
) -> ClassMatches:
    """The matches of one class.

    Args:
        truths: of N pictures.
        answers: of each picture (K, 6): left, top, right, bottom, score, class.
        area: of the objects that count.
    """
    matches = []
    for truth, answer in zip(truths, answers, strict=True):
        matches.append(_match_picture(truth, answer, label, area))
    counts = [len(match.scores) for match in matches]
    pictures = np.repeat(np.arange(len(matches)), counts)
    places = np.concatenate([np.arange(count) for count in [0, *counts]])
    scores = np.concatenate([np.empty(0), *(match.scores for match in matches)])
    width = len(THRESHOLDS)
    hits = np.concatenate(
        [np.empty((width, 0), np.bool_), *(match.hits for match in matches)], axis=1
    )
    ignored = np.concatenate(
        [np.empty((width, 0), np.bool_), *(match.ignored for match in matches)], axis=1
    )
    order = np.argsort(-scores, kind="stable")
    objects = np.array([match.objects for match in matches], np.int64)
    return ClassMatches(
        pictures[order],
        scores[order],
        places[order].astype(np.int64),
        hits[:, order],
        ignored[:, order],
        objects,
    )


def _match_picture(
    truth: PictureBoxes, answer: Floats, label: int, area: tuple[float, float]
) -> _PictureMatch:
    of_class = truth.labels == label
    chosen = answer[answer[:, CLASS] == label]
    chosen = chosen[np.argsort(-chosen[:, SCORE], kind="stable")]
    if np.count_nonzero(of_class) <= MOST_ANSWERS:
        chosen = chosen[:MOST_ANSWERS]
    objects = truth.boxes[of_class].astype(np.float64)
    crowds = truth.ignored[of_class]
    passed_over = crowds | _lies_outside(objects, area)
    hits = np.zeros((len(THRESHOLDS), len(chosen)), np.bool_)
    ignored = np.zeros_like(hits)
    if len(objects) and len(chosen):
        overlaps = intersection_over_union(chosen[:, :4], objects, crowds)
        object_of = _assign(overlaps, crowds, passed_over)
        is_matched = object_of >= 0
        ignored = is_matched & passed_over[object_of]
        hits = is_matched & ~ignored
    ignored = ignored | (~hits & _lies_outside(chosen[:, :4], area))
    return _PictureMatch(chosen[:, SCORE], hits, ignored, int((~passed_over).sum()))


def _lies_outside(boxes: Floats, area: tuple[float, float]) -> Flags:
    """Whether the area of each box (K, 4) is outside a range, whose ends belong to it."""
    areas = _areas(boxes)
    low, high = area
    return (areas < low) | (areas > high)


def _assign(overlaps: Floats, crowds: Flags, passed_over: Flags) -> NDArray[np.int64]:
    """The object (T, D) that each answer takes at each threshold; −1: none.

    Args:
        overlaps: (D, G), the best answer first.
        crowds: (G,) objects that take any number of answers.
        passed_over: (G,) objects that do not count.
    """
    taken = np.full((len(LIMITS), len(overlaps)), -1, np.int64)
    answers, objects = _list_candidates(overlaps, passed_over)
    # Few pairs of an answer and an object overlap by half: plain loops over these are
    # several times as fast as arrays.
    pairs = list(
        zip(
            answers.tolist(),
            objects.tolist(),
            overlaps[answers, objects].tolist(),
            strict=True,
        )
    )
    endless = set(np.flatnonzero(crowds).tolist())
    for place, limit in enumerate(LIMITS.tolist()):
        taken_objects: set[int] = set()
        served = -1
        for number, candidate, overlap in pairs:
            if number == served or overlap < limit or candidate in taken_objects:
                continue
            served = number
            taken[place, number] = candidate
            if candidate not in endless:
                taken_objects.add(candidate)
    return taken


def _list_candidates(
    overlaps: Floats, passed_over: Flags
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The answers (P,) and objects (P,) that overlap enough for some threshold, in the
    order in which they are tried.

    An answer tries objects that count before those that do not, by falling overlap, and
    of several that overlap as much the last one, as COCOeval does.
    """
    answers, objects = np.nonzero(overlaps >= LIMITS[0])
    order = np.lexsort(
        (-objects, -overlaps[answers, objects], passed_over[objects], answers)
    )
    return answers[order], objects[order]


def intersection_over_union(boxes: Floats, objects: Floats, crowds: Flags) -> Floats:
    """(D, G) of boxes (D, 4) with objects (G, 4); with a crowd, the share of the box
    that lies in it.
    """
    top_left = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    shared_sides = np.clip(bottom_right - top_left, 0, None)
    shared = shared_sides.prod(axis=2)
    own = _areas(boxes)[:, None]
    of_objects = _areas(objects)[None, :]
    union = own + of_objects - shared
    whole = np.where(crowds[None, :], own, union)
    shares: Floats = shared / np.maximum(whole, 1e-12)
    return shares


def _areas(boxes: Floats) -> Floats:
    sides = boxes[:, 2:] - boxes[:, :2]
    sides = np.clip(sides, 0, None)
    areas: Floats = sides.prod(axis=1)
    return areas


def list_answers(answers: NDArray[np.floating[Any]]) -> Iterator[Floats]:
    """The boxes (K, 6) that each of the answers (N, detections, 6) holds, without
    unused places.
    """
    for answer in answers:
        is_filled = answer[:, SCORE] >= 0
        yield answer[is_filled].astype(np.float64)
