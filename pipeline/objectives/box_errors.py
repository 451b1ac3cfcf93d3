"""What kind of mistakes a detector makes, and what each kind costs.

The kinds and thresholds are those of TIDE (Bolya, Foley, Hays and Hoffman 2020, section
2): an answer that takes no object at an overlap of 0.5 is of the first kind of these
that fits.

| kind | is |
|---|---|
| localization | it overlaps an object of its class by at least 0.1, and none by 0.5 |
| classification | it overlaps an object of another class, by at least 0.5 |
| duplicate | it overlaps an object of its class by at least 0.5, which a surer answer has taken |
| background | it overlaps nothing by more than 0.1 |
| both | else: the class and the place are wrong |
| missed | an object that no answer takes, and that no answer of the first two kinds means |

What a kind costs is the rise in average precision at 0.5 if its mistakes were mended
and nothing else (section 2.3): the class or box set right, unless the object is taken
already; other answers left out; missed objects not asked for. Of several answers of the
kind that mean one object, the surest is set right. The published code (tidecv 1.0.1)
lets answers of the first two kinds compete for an object even where only one kind is
mended, so its costs of these two are a little lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.objectives.box_matching import (
    CLASS,
    SCORE,
    Floats,
    intersection_over_union,
)
from pipeline.objectives.box_metrics import AT_50, BoxJudgement
from pipeline.objectives.box_targets import PictureBoxes

ErrorKind = Literal[
    "localization", "classification", "duplicate", "background", "both", "missed"
]
KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
# Overlaps at which an answer takes an object, and at which it has to do with one.
SAME, NEAR = 0.5, 0.1
NOTHING = -1


class BoxError(NamedTuple):
    """One mistake.

    Args:
        answer: its row among the picture's answers; −1 for a missed object.
        truth: the object's row among the picture's objects that it has to do with; −1
            for none.
    """

    picture: int
    kind: ErrorKind
    answer: int
    truth: int


def find_errors(
    truths: Sequence[PictureBoxes], answers: Sequence[Floats], least_score: float = 0.0
) -> list[BoxError]:
    """Every mistake of the answers from a score on.

    Args:
        truths: of N pictures; ignored objects, and answers of their class that lie on
            them, are no mistakes.
        answers: of each picture (K, 6): left, top, right, bottom, score, class.
    """
    errors: list[BoxError] = []
    for picture, (truth, answer) in enumerate(zip(truths, answers, strict=True)):
        errors += _find_in_picture(picture, truth, answer, least_score)
    return errors


def count_errors(errors: Sequence[BoxError]) -> dict[ErrorKind, int]:
    counts = dict.fromkeys(KINDS, 0)
    for error in errors:
        counts[error.kind] += 1
    return counts


def measure_costs(judgement: BoxJudgement) -> dict[ErrorKind, float]:
    """By how much average precision at 0.5 would rise without each kind of mistake,
    over all answers.
    """
    once = np.ones((len(judgement.truths), 1))
    before = judgement.mean_ap(once, (AT_50,))[0]
    errors = find_errors(judgement.truths, judgement.answers)
    costs: dict[ErrorKind, float] = {}
    for kind in KINDS:
        mended = _mend(judgement, [error for error in errors if error.kind == kind])
        after = mended.mean_ap(once, (AT_50,))[0]
        costs[kind] = float(np.nan_to_num(after - before))
    return costs


def _find_in_picture(
    picture: int, truth: PictureBoxes, answer: Floats, least_score: float
) -> list[BoxError]:
    objects = truth.boxes.astype(np.float64)
    overlaps = intersection_over_union(answer[:, :4], objects, truth.ignored)
    same_class = answer[:, CLASS][:, None] == truth.labels[None, :]
    order = np.argsort(-answer[:, SCORE], kind="stable")
    order = order[answer[order, SCORE] >= least_score]
    takers = _assign(order, overlaps, same_class & ~truth.ignored)
    errors: list[BoxError] = []
    meant: set[int] = set()
    taken_objects = set(takers.values())
    for row in order.tolist():
        if (
            row in takers
            or (overlaps[row, truth.ignored & same_class[row]] >= SAME).any()
        ):
            continue
        kind, about = _kind_of(overlaps[row], same_class[row], truth.ignored)
        errors.append(BoxError(picture, kind, row, about))
        if kind in ("localization", "classification"):
            meant.add(about)
    for number in np.flatnonzero(~truth.ignored).tolist():
        if number not in taken_objects and number not in meant:
            errors.append(BoxError(picture, "missed", NOTHING, number))
    return errors


def _assign(
    order: NDArray[np.int64], overlaps: Floats, allowed: NDArray[np.bool_]
) -> dict[int, int]:
    """Answer → the object that it takes: by falling score, the one that it overlaps
    most and that is free.
    """
    takers: dict[int, int] = {}
    free = np.ones(overlaps.shape[1], np.bool_)
    for row in order.tolist():
        usable = allowed[row] & free & (overlaps[row] >= SAME)
        if usable.any():
            best = int(np.where(usable, overlaps[row], -1.0).argmax())
            takers[row] = best
            free[best] = False
    return takers


def _kind_of(
    overlaps: Floats, same_class: NDArray[np.bool_], ignored: NDArray[np.bool_]
) -> tuple[ErrorKind, int]:
    """The kind of a wrong answer, and the object that it has to do with."""
    own, own_object = _largest(overlaps, same_class & ~ignored)
    other, other_object = _largest(overlaps, ~same_class & ~ignored)
    if NEAR <= own < SAME:
        return "localization", own_object
    if other >= SAME:
        return "classification", other_object
    if own >= SAME:
        return "duplicate", own_object
    if max(own, other) <= NEAR:
        return "background", NOTHING
    return "both", other_object


def _largest(overlaps: Floats, chosen: NDArray[np.bool_]) -> tuple[float, int]:
    if not chosen.any():
        return 0.0, NOTHING
    place = int(np.where(chosen, overlaps, -1.0).argmax())
    return float(overlaps[place]), place


def _mend(judgement: BoxJudgement, errors: Sequence[BoxError]) -> BoxJudgement:
    """The answers and objects without some mistakes, all of one kind."""
    truths = list(judgement.truths)
    answers = [answer.copy() for answer in judgement.answers]
    by_picture: dict[int, list[BoxError]] = {}
    for error in errors:
        by_picture.setdefault(error.picture, []).append(error)
    for picture, own in by_picture.items():
        if own[0].kind == "missed":
            truths[picture] = _without_objects(
                truths[picture], [error.truth for error in own]
            )
        else:
            answers[picture] = _mend_answers(truths[picture], answers[picture], own)
    return BoxJudgement(truths, answers, judgement.classes)


def _without_objects(truth: PictureBoxes, objects: Sequence[int]) -> PictureBoxes:
    is_kept = np.ones(len(truth.boxes), np.bool_)
    is_kept[list(objects)] = False
    return PictureBoxes(
        truth.boxes[is_kept],
        truth.labels[is_kept],
        truth.ignored[is_kept],
        truth.width,
        truth.height,
        truth.seed,
    )


def _mend_answers(
    truth: PictureBoxes, answer: Floats, errors: Sequence[BoxError]
) -> Floats:
    """Answers with the class or box set right where the object is free for them, and
    else left out.
    """
    same_class = answer[:, CLASS][:, None] == truth.labels[None, :]
    overlaps = intersection_over_union(
        answer[:, :4], truth.boxes.astype(np.float64), truth.ignored
    )
    order = np.argsort(-answer[:, SCORE], kind="stable")
    taken_objects = set(_assign(order, overlaps, same_class & ~truth.ignored).values())
    is_kept = np.ones(len(answer), np.bool_)
    for error in sorted(errors, key=lambda one: -answer[one.answer, SCORE]):
        is_mended = (
            error.kind in ("localization", "classification")
            and error.truth not in taken_objects
        )
        if not is_mended:
            is_kept[error.answer] = False
            continue
        taken_objects.add(error.truth)
        if error.kind == "localization":
            answer[error.answer, :4] = truth.boxes[error.truth]
        else:
            answer[error.answer, CLASS] = truth.labels[error.truth]
    return answer[is_kept]
