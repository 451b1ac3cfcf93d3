"""Average precision and its kin equal COCO's own evaluation, and take any example
weights.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from pipeline.objectives import box_metrics
from pipeline.objectives.box_matching import CLASS, SCORE
from pipeline.objectives.box_metrics import AT_50, AT_75, BoxJudgement
from pipeline.objectives.box_targets import PictureBoxes

CLASSES = 4
Answers = list[np.ndarray[Any, Any]]


def make_pictures(seed: int, pictures: int = 40) -> tuple[list[PictureBoxes], Answers]:
    """Truths with crowds, empty pictures and an absent class; answers that are near,
    wrong, tied and many.
    """
    generator = np.random.default_rng(seed)
    truths: list[PictureBoxes] = []
    answers: Answers = []
    for number in range(pictures):
        count = 0 if number % 7 == 0 else int(generator.integers(1, 20))
        corners = generator.uniform(0, 400, (count, 2))
        sides = generator.uniform(4, 160, (count, 2))
        boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
        labels = generator.integers(0, CLASSES - 1, count)
        ignored = generator.random(count) < 0.15
        truths.append(PictureBoxes(boxes, labels, ignored, 640, 480))
        near = boxes + generator.normal(0, 5, boxes.shape)
        wrong_corners = generator.uniform(0, 400, (6, 2))
        wrong = np.concatenate(
            [wrong_corners, wrong_corners + generator.uniform(10, 90, (6, 2))], axis=1
        )
        every = np.concatenate([near, wrong])
        every = every[(every[:, 2] > every[:, 0]) & (every[:, 3] > every[:, 1])]
        named = np.concatenate([labels, generator.integers(0, CLASSES, 6)])[
            : len(every)
        ]
        scores = np.round(generator.random(len(every)), 1)
        answers.append(
            np.concatenate([every, scores[:, None], named[:, None]], axis=1).astype(
                np.float64
            )
        )
    return truths, answers


def ask_coco(truths: list[PictureBoxes], answers: Answers) -> np.ndarray[Any, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (truth, answer) in enumerate(
        zip(truths, answers, strict=True), start=1
    ):
        for box, label, ignored in zip(
            truth.boxes.astype(float), truth.labels, truth.ignored, strict=True
        ):
            width, height = box[2] - box[0], box[3] - box[1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [box[0], box[1], width, height],
                    "area": width * height,
                    "iscrowd": int(ignored),
                }
            )
        for one in answer:
            corners = [one[0], one[1], one[2] - one[0], one[3] - one[1]]
            results.append(
                {
                    "image_id": number,
                    "category_id": int(one[CLASS]) + 1,
                    "bbox": corners,
                    "score": one[SCORE],
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO()
        truth_set.dataset = {
            "images": [{"id": number} for number in range(1, len(truths) + 1)],
            "categories": [{"id": number} for number in range(1, CLASSES + 1)],
            "annotations": annotations,
        }
        truth_set.createIndex()
        evaluation = COCOeval(truth_set, truth_set.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats: np.ndarray[Any, Any] = evaluation.stats
    return stats


def add_many_answers(truths: list[PictureBoxes], answers: Answers) -> None:
    """A picture with 300 answers of one class, more than COCO counts."""
    generator = np.random.default_rng(len(truths))
    corners = generator.uniform(0, 400, (30, 2))
    boxes = np.concatenate([corners, corners + 40], axis=1).astype(np.float32)
    truths.append(
        PictureBoxes(boxes, np.zeros(30, np.int64), np.zeros(30, np.bool_), 640, 480)
    )
    near = np.repeat(boxes, 10, axis=0) + generator.normal(0, 3, (300, 4))
    scores = generator.random((300, 1))
    answers.append(np.concatenate([near, scores, np.zeros((300, 1))], axis=1))


def put_on_grid(truths: list[PictureBoxes], answers: Answers) -> None:
    """Corners at multiples of 16 pixels: boxes that are equal, overlap equally much, or
    lie at the bounds of area.
    """
    for number, truth in enumerate(truths):
        corners = np.round(truth.boxes / 16) * 16
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 16)
        truths[number] = PictureBoxes(
            corners, truth.labels, truth.ignored, truth.width, truth.height
        )
        boxes = np.round(answers[number][:, :4] / 16) * 16
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 16)
        answers[number][:, :4] = boxes


@pytest.mark.parametrize("on_grid", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_values_are_cocos(seed: int, on_grid: bool) -> None:
    truths, answers = make_pictures(seed)
    add_many_answers(truths, answers)
    if on_grid:
        put_on_grid(truths, answers)
    judged = BoxJudgement(truths, answers, CLASSES)
    once = np.ones((len(truths), 1))
    ours = [
        judged.mean_ap(once),
        judged.mean_ap(once, (AT_50,)),
        judged.mean_ap(once, (AT_75,)),
        judged.mean_ap(once, size="small"),
        judged.mean_ap(once, size="medium"),
        judged.mean_ap(once, size="large"),
        judged.average_recall(once, most=1),
        judged.average_recall(once, most=10),
        judged.average_recall(once),
        judged.average_recall(once, size="small"),
        judged.average_recall(once, size="medium"),
        judged.average_recall(once, size="large"),
    ]
    theirs = ask_coco(truths, answers)
    assert np.concatenate(ours) == pytest.approx(theirs, abs=1e-9)


def test_a_picture_of_weight_two_is_that_picture_twice() -> None:
    truths, answers = make_pictures(0, pictures=12)
    for number, answer in enumerate(answers):  # no ties, within which the order is free
        answer[:, SCORE] += 1e-4 * number + 1e-6 * np.arange(len(answer))
    weights = np.array([0, 1, 2, 1, 3, 0, 1, 1, 2, 1, 1, 4])
    repeated = np.repeat(np.arange(12), weights)
    twice = BoxJudgement(
        [truths[row] for row in repeated], [answers[row] for row in repeated], CLASSES
    )
    weighted = BoxJudgement(truths, answers, CLASSES)
    column = weights[:, None].astype(float)
    once = np.ones((len(repeated), 1))
    assert weighted.mean_ap(column) == pytest.approx(twice.mean_ap(once))
    assert weighted.average_recall(column) == pytest.approx(twice.average_recall(once))
    assert weighted.f1(column, 0.5) == pytest.approx(twice.f1(once, 0.5))


def test_any_weights_may_be_scaled() -> None:
    truths, answers = make_pictures(4)
    judged = BoxJudgement(truths, answers, CLASSES)
    weights = np.random.default_rng(0).integers(0, 4, (len(truths), 3)).astype(float)
    assert judged.mean_ap(weights * 0.25) == pytest.approx(judged.mean_ap(weights))
    assert judged.average_recall(weights * 0.25) == pytest.approx(
        judged.average_recall(weights)
    )


def test_a_class_without_objects_in_a_resample_is_left_out_of_the_mean() -> None:
    truths, answers = make_pictures(5)
    for truth in truths[5:]:
        truth.labels[truth.labels == 0] = 1
    weights = np.ones((len(truths), 2))
    weights[:5, 1] = 0
    judged = BoxJudgement(truths, answers, CLASSES)
    assert np.isfinite(judged.class_ap(0, weights)).tolist() == [True, False]
    others = np.mean([judged.class_ap(label, weights[:, 1:]) for label in (1, 2)])
    assert judged.mean_ap(weights)[1] == pytest.approx(others)


def test_many_resamples_are_computed_block_by_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truths, answers = make_pictures(6)
    judged = BoxJudgement(truths, answers, CLASSES)
    weights = (
        np.random.default_rng(0).multinomial(40, np.ones(40) / 40, 50).T.astype(float)
    )
    at_once = judged.mean_ap(weights)
    monkeypatch.setattr(box_metrics, "CELLS_AT_ONCE", 1000)
    assert (judged.mean_ap(weights) == at_once).all()


def test_each_column_of_weights_stands_for_itself() -> None:
    truths, answers = make_pictures(1, pictures=15)
    judged = BoxJudgement(truths, answers, CLASSES)
    weights = (
        np.random.default_rng(0).multinomial(15, np.ones(15) / 15, 6).T.astype(float)
    )
    together = judged.mean_ap(weights)
    alone = [judged.mean_ap(weights[:, [column]])[0] for column in range(6)]
    assert together == pytest.approx(alone)


def test_answers_that_are_the_objects_are_perfect_and_none_are_worth_nothing() -> None:
    truths, _ = make_pictures(2)
    perfect = []
    for truth in truths:
        kept = truth.trained
        columns = [kept.boxes, np.ones((len(kept.boxes), 1)), kept.labels[:, None]]
        perfect.append(np.concatenate(columns, axis=1).astype(np.float64))
    once = np.ones((len(truths), 1))
    best = BoxJudgement(truths, perfect, CLASSES)
    assert best.mean_ap(once)[0] == pytest.approx(1.0)
    assert (best.goodness(0.5) == 1).all()
    nothing = BoxJudgement(truths, [np.empty((0, 6))] * len(truths), CLASSES)
    assert nothing.mean_ap(once)[0] == 0
    assert nothing.f1(once, 0.5)[0] == 0


def test_a_picture_of_more_objects_than_coco_counts_answers_can_be_found_whole() -> (
    None
):
    corners = np.stack(np.meshgrid(np.arange(15), np.arange(10)), axis=-1) * 30.0
    lefts = corners.reshape(-1, 2)
    boxes = np.concatenate([lefts, lefts + 20], axis=1).astype(np.float32)
    count = len(boxes)
    crowded = PictureBoxes(
        boxes, np.zeros(count, np.int64), np.zeros(count, np.bool_), 450, 300
    )
    rest = np.tile([0.9, 0.0], (count, 1))
    answer = np.concatenate([boxes, rest], axis=1).astype(np.float64)
    judged = BoxJudgement([crowded], [answer], 1)
    once = np.ones((1, 1))
    assert judged.average_recall(once) == pytest.approx(1.0)
    assert judged.mean_ap(once) == pytest.approx(1.0)


def test_without_any_object_there_is_no_value() -> None:
    empty = PictureBoxes(
        np.empty((0, 4), np.float32),
        np.empty(0, np.int64),
        np.empty(0, np.bool_),
        width=10,
        height=10,
    )
    judged = BoxJudgement([empty], [np.array([[0, 0, 5, 5, 0.9, 0.0]])], 1)
    assert np.isnan(judged.mean_ap(np.ones((1, 1)))[0])
    assert judged.goodness(0.5).tolist() == [0.0]
    assert judged.goodness(0.95).tolist() == [1.0]


def test_the_best_score_is_where_f1_is_highest() -> None:
    truths, answers = make_pictures(3)
    judged = BoxJudgement(truths, answers, CLASSES)
    once = np.ones((len(truths), 1))
    best = judged.f1(once, judged.best_score)[0]
    assert all(
        judged.f1(once, score)[0] <= best + 1e-12 for score in np.linspace(0, 1, 21)
    )
