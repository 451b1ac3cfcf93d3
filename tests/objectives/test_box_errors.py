"""A detector's mistakes by kind, and what each costs."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.objectives.box_errors import (
    BoxError,
    count_errors,
    find_errors,
    measure_costs,
)
from pipeline.objectives.box_metrics import AT_50, BoxJudgement
from pipeline.objectives.box_targets import PictureBoxes

CAT, DOG = 0, 1
OBJECTS = ((0, 0, 10, 10, CAT), (50, 50, 70, 70, DOG))
RIGHT = ((0, 0, 10, 10, 0.9, CAT), (50, 50, 70, 70, 0.8, DOG))


def truth(
    *objects: tuple[float, ...], ignored: tuple[bool, ...] | None = None
) -> PictureBoxes:
    values = np.array(objects, np.float32).reshape(-1, 5)
    flags = np.array(
        ignored if ignored is not None else [False] * len(values), np.bool_
    )
    return PictureBoxes(values[:, :4], values[:, 4].astype(np.int64), flags, 100, 100)


def answer(
    *boxes: tuple[float, ...],
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array(boxes, np.float64).reshape(-1, 6)


def kinds(*boxes: tuple[float, ...]) -> dict[str, int]:
    counts = count_errors(find_errors([truth(*OBJECTS)], [answer(*boxes)]))
    return {kind: count for kind, count in counts.items() if count}


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ((6, 0, 16, 10, 0.5, CAT), "localization"),
        ((50, 50, 70, 70, 0.5, CAT), "classification"),
        ((0, 0, 10, 9, 0.5, CAT), "duplicate"),
        ((80, 0, 90, 10, 0.5, CAT), "background"),
        ((60, 50, 84, 70, 0.5, CAT), "both"),
    ],
)
def test_each_mistake_has_its_kind(wrong: tuple[float, ...], kind: str) -> None:
    assert kinds(*RIGHT) == {}
    assert kinds(*RIGHT, wrong) == {kind: 1}


def test_an_object_that_no_answer_means_is_missed() -> None:
    assert kinds(RIGHT[0]) == {"missed": 1}
    assert kinds(RIGHT[0], (50, 50, 70, 70, 0.5, CAT)) == {"classification": 1}
    assert kinds(RIGHT[0], (62, 50, 82, 70, 0.5, DOG)) == {"localization": 1}


def test_what_lies_on_an_ignored_object_is_no_mistake() -> None:
    crowd = truth((0, 0, 50, 50, CAT), ignored=(True,))
    assert find_errors([crowd], [answer((0, 0, 20, 20, 0.9, CAT))]) == []
    (error,) = find_errors([crowd], [answer((0, 0, 20, 20, 0.9, DOG))])
    assert error.kind == "background"


def test_a_mistake_says_where_it_is() -> None:
    wrong = answer(RIGHT[0], (80, 0, 90, 10, 0.95, CAT), (50, 50, 70, 70, 0.5, CAT))
    errors = find_errors([truth(), truth(*OBJECTS)], [answer(), wrong])
    assert errors == [
        BoxError(1, "background", 1, -1),
        BoxError(1, "classification", 2, 1),
    ]


def test_answers_below_the_score_do_not_count() -> None:
    found = find_errors(
        [truth(*OBJECTS)], [answer(*RIGHT, (80, 0, 90, 10, 0.1, CAT))], least_score=0.5
    )
    assert found == []


def test_only_the_kind_that_there_is_costs_anything() -> None:
    swapped = answer((0, 0, 10, 10, 0.9, DOG), (50, 50, 70, 70, 0.8, DOG))
    costs = measure_costs(BoxJudgement([truth(*OBJECTS)], [swapped], 2))
    assert costs["classification"] > 0.4
    assert max(
        cost for kind, cost in costs.items() if kind not in ("classification",)
    ) == pytest.approx(0, abs=1e-9)


def mean_ap(*boxes: tuple[float, ...]) -> float:
    judgement = BoxJudgement([truth(*OBJECTS)], [answer(*boxes)], 2)
    return float(judgement.mean_ap(np.ones((1, 1)), (AT_50,))[0])


def costs_of(*boxes: tuple[float, ...]) -> dict[str, float]:
    return dict(
        measure_costs(BoxJudgement([truth(*OBJECTS)], [answer(*boxes)], 2)).items()
    )


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ((0, 0, 10, 9, 0.85, CAT), "duplicate"),
        ((80, 0, 90, 10, 0.85, DOG), "background"),
        ((62, 60, 82, 80, 0.85, CAT), "both"),
        ((6, 0, 16, 10, 0.95, CAT), "localization"),
        ((0, 0, 10, 10, 0.85, DOG), "classification"),
    ],
)
def test_answers_about_what_is_found_already_are_left_out(
    wrong: tuple[float, ...], kind: str
) -> None:
    costs = costs_of(*RIGHT, wrong)
    assert costs[kind] == pytest.approx(mean_ap(*RIGHT) - mean_ap(*RIGHT, wrong))
    assert sum(costs.values()) == pytest.approx(costs[kind])


def test_of_two_answers_that_mean_an_object_the_surest_is_set_right() -> None:
    sure, unsure = (62, 50, 82, 70, 0.6, DOG), (60, 50, 81, 70, 0.4, DOG)
    costs = costs_of(RIGHT[0], sure, unsure)
    mended = mean_ap(RIGHT[0], (50, 50, 70, 70, 0.6, DOG))
    assert costs["localization"] == pytest.approx(
        mended - mean_ap(RIGHT[0], sure, unsure)
    )


def test_each_kind_is_mended_alone() -> None:
    misplaced, misnamed = (62, 50, 82, 70, 0.4, DOG), (50, 50, 70, 70, 0.95, CAT)
    before = mean_ap(RIGHT[0], misplaced, misnamed)
    costs = costs_of(RIGHT[0], misplaced, misnamed)
    assert costs["localization"] == pytest.approx(
        mean_ap(RIGHT[0], (50, 50, 70, 70, 0.4, DOG), misnamed) - before
    )
    assert costs["classification"] == pytest.approx(
        mean_ap(RIGHT[0], misplaced, (50, 50, 70, 70, 0.95, DOG)) - before
    )
    assert costs["missed"] == 0


def test_mending_every_kind_in_turn_never_lowers_the_precision() -> None:
    generator = np.random.default_rng(0)
    truths, answers = [], []
    for _ in range(20):
        corners = generator.uniform(0, 80, (5, 2))
        boxes = np.concatenate(
            [corners, corners + generator.uniform(8, 30, (5, 2))], axis=1
        )
        labels = generator.integers(0, 2, (5, 1))
        truths.append(truth(*np.concatenate([boxes, labels], axis=1).tolist()))
        moved = boxes + generator.normal(0, 4, boxes.shape)
        named = np.where(generator.random((5, 1)) < 0.2, 1 - labels, labels)
        answers.append(np.concatenate([moved, generator.random((5, 1)), named], axis=1))
    costs = measure_costs(BoxJudgement(truths, answers, 2))
    assert all(cost >= -1e-9 for cost in costs.values())
    assert max(costs.values()) > 0.02
