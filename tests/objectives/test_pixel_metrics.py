"""Overlap of masks and agreement of outlines, against references and by any example
weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    jaccard_score,
)

from pipeline.objectives import pixel_metrics
from pipeline.objectives.pixel_boundary import (
    boundary_f1,
    count_boundaries,
    find_outlines,
)
from pipeline.objectives.pixel_confusion import count_confusion
from pipeline.objectives.pixel_metrics import PixelTallies
from pipeline.objectives.pixel_targets import IGNORED
from pipeline.objectives.pixel_validation import compute_metrics
from pipeline.serving.pixel_runs import decode_mask, encode_mask

CLASSES = 4
Mask = np.ndarray[Any, np.dtype[np.uint8]]


def make_masks(seed: int, pictures: int = 12) -> list[tuple[Mask, Mask]]:
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(pictures):
        truth = np.zeros((30, 40), np.uint8)
        for number in range(1, CLASSES):
            top, left = generator.integers(0, 20, 2)
            truth[top : top + 9, left : left + 12] = number
        answer = np.roll(truth, int(generator.integers(-2, 3)), axis=1)
        answer[generator.random(answer.shape) < 0.05] = generator.integers(0, CLASSES)
        truth[generator.random(truth.shape) < 0.1] = IGNORED
        found.append((truth, answer))
    return found


def confusions_of(
    masks: list[tuple[Mask, Mask]],
) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.stack(
        [count_confusion(truth, answer, CLASSES) for truth, answer in masks]
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_values_are_scikit_learns_over_all_counted_pixels(seed: int) -> None:
    masks = make_masks(seed)
    found = compute_metrics(confusions_of(masks))
    truth = np.concatenate([one.ravel() for one, _ in masks])
    answer = np.concatenate([one.ravel() for _, one in masks])
    counted = truth != IGNORED
    truth, answer = truth[counted], answer[counted]
    assert found["mean_iou"] == pytest.approx(
        jaccard_score(truth, answer, average="macro")
    )
    assert found["mean_dice"] == pytest.approx(f1_score(truth, answer, average="macro"))
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(truth, answer))
    assert found["mean_class_accuracy"] == pytest.approx(
        balanced_accuracy_score(truth, answer)
    )


METRICS = (
    pixel_metrics.mean_iou,
    pixel_metrics.mean_dice,
    pixel_metrics.pixel_accuracy,
    pixel_metrics.mean_class_accuracy,
    pixel_metrics.class_iou,
    pixel_metrics.class_dice,
)


@pytest.mark.parametrize("metric", METRICS)
def test_a_picture_of_weight_two_is_that_picture_twice(
    metric: Callable[[PixelTallies], np.ndarray[Any, Any]],
) -> None:
    confusions = confusions_of(make_masks(1, pictures=6))
    weights = np.array([[0, 1, 2, 3, 1, 0], [1, 1, 0, 0, 4, 0]]).T
    weighted = metric(pixel_metrics.tally_pixels(confusions, weights.astype(float)))
    for column in range(2):
        repeated = np.repeat(confusions, weights[:, column], axis=0)
        once = pixel_metrics.tally_pixels(repeated, np.ones((len(repeated), 1)))
        assert weighted[..., column] == pytest.approx(metric(once)[..., 0])


def test_a_picture_is_judged_by_the_classes_that_it_has() -> None:
    masks = make_masks(4)
    masks[0][0][masks[0][0] == 2] = 0
    masks[0][1][masks[0][1] == 2] = 0
    scores = pixel_metrics.picture_iou(confusions_of(masks))
    for score, (truth, answer) in zip(scores, masks, strict=True):
        counted = truth != IGNORED
        assert score == pytest.approx(
            jaccard_score(truth[counted], answer[counted], average="macro")
        )


def test_a_class_that_nobody_has_counts_for_nothing() -> None:
    truth = np.zeros((8, 8), np.uint8)
    truth[:4] = 1
    confusions = confusions_of([(truth, truth)])
    assert compute_metrics(confusions)["mean_iou"] == 1
    assert pixel_metrics.picture_iou(confusions).tolist() == [1.0]


def test_a_picture_that_is_wholly_ignored_is_no_mistake() -> None:
    ignored = np.full((8, 8), IGNORED, np.uint8)
    confusions = confusions_of([(ignored, np.zeros((8, 8), np.uint8))])
    assert confusions.sum() == 0
    assert pixel_metrics.picture_iou(confusions).tolist() == [1.0]


def outline_of(region: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The pixels (P, 2) of a region beside a pixel that is not of it, by brute force."""
    height, width = region.shape
    found = []
    for row, column in np.argwhere(region).tolist():
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            beside = (row + down, column + right)
            is_inside = 0 <= beside[0] < height and 0 <= beside[1] < width
            if is_inside and not region[beside]:
                found.append((row, column))
                break
    return np.array(found, np.int64).reshape(-1, 2)


def near(own: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any], reach: float) -> int:
    """How many pixels of one line lie within reach of another, by brute force."""
    if not len(theirs):
        return 0
    distances = np.sqrt(((own[:, None] - theirs[None]) ** 2).sum(axis=2))
    return int((distances.min(axis=1) <= reach).sum())


@pytest.mark.parametrize("size", [1, 4])
def test_outlines_are_compared_as_brute_force_does(size: int) -> None:
    """Of pictures whose diagonal makes one pixel near, and of larger ones."""
    for truth, answer in make_masks(2, pictures=2):
        truth[truth == IGNORED] = 0
        truth, answer = (
            np.kron(mask, np.ones((size, size), np.uint8)) for mask in (truth, answer)
        )
        counts = count_boundaries(truth, answer, CLASSES)
        reach = max(1, round(0.0075 * np.hypot(*truth.shape)))
        for number in range(CLASSES):
            truth_line, answer_line = (
                outline_of(truth == number),
                outline_of(answer == number),
            )
            wanted = (
                near(answer_line, truth_line, reach),
                len(answer_line),
                near(truth_line, answer_line, reach),
                len(truth_line),
            )
            assert tuple(values[number] for values in counts) == wanted


def score_outlines(truth: Mask, answer: Mask) -> float:
    return float(
        boundary_f1(np.stack([count_boundaries(truth, answer, 2)]), np.ones((1, 1)))[0]
    )


def draw_square(start: int, stop: int) -> Mask:
    mask = np.zeros((200, 200), np.uint8)
    mask[start:stop, start:stop] = 1
    return mask


def test_an_outline_within_an_ignored_seam_is_right() -> None:
    truth = draw_square(60, 100) * np.uint8(IGNORED)
    truth[63:97, 63:97] = 1
    assert score_outlines(truth, draw_square(61, 99)) == 1
    assert score_outlines(truth, draw_square(62, 98)) == 1
    assert score_outlines(truth, draw_square(0, 0)) == 0
    assert score_outlines(truth, draw_square(100, 140)) < 0.2


def test_what_is_answered_deep_within_an_ignored_region_does_not_count() -> None:
    truth = draw_square(120, 160)
    truth[:100] = IGNORED
    first = draw_square(120, 160)
    second = first.copy()
    second[20:40, 20:80] = 1
    for ours, theirs in zip(
        count_boundaries(truth, first, 2),
        count_boundaries(truth, second, 2),
        strict=True,
    ):
        assert (ours == theirs).all()
    assert score_outlines(truth, second) == 1
    nothing_counts = np.full((200, 200), IGNORED, np.uint8)
    assert np.isnan(score_outlines(nothing_counts, first))


def test_outlines_of_a_picture_of_weight_two_count_twice() -> None:
    counts = np.stack(
        [
            np.stack(count_boundaries(*masks, CLASSES))
            for masks in make_masks(3, pictures=4)
        ]
    )
    weights = np.array([0, 1, 2, 3])
    repeated = np.repeat(counts, weights, axis=0)
    weighted = boundary_f1(counts, weights[:, None].astype(float))
    assert weighted == pytest.approx(boundary_f1(repeated, np.ones((6, 1))))


def test_the_edge_of_the_picture_is_no_outline() -> None:
    assert not find_outlines(np.ones((5, 7), np.uint8)).any()


def test_outlines_that_agree_are_perfect_and_a_far_one_is_worth_nothing() -> None:
    truth = np.zeros((60, 60), np.uint8)
    truth[10:20, 10:20] = 1
    same = np.stack([count_boundaries(truth, truth, 2)])
    assert boundary_f1(same, np.ones((1, 1)))[0] == 1
    far = np.roll(truth, 30, axis=1)
    assert (
        boundary_f1(np.stack([count_boundaries(truth, far, 2)]), np.ones((1, 1)))[0]
        == 0
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 11)])
@pytest.mark.parametrize("present", [(0,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_runs_give_the_mask_back(
    shape: tuple[int, int], present: tuple[int, ...]
) -> None:
    generator = np.random.default_rng(0)
    labels = ("ground", "a", "b")
    mask = generator.choice(present, shape).astype(np.uint8)
    regions = json.loads(json.dumps(encode_mask(mask, labels)))
    height, width = shape
    assert (decode_mask(regions, labels, width, height) == mask).all()
    assert {region["label"] for region in regions} == {
        labels[number] for number in np.unique(mask) if number
    }
    for region in regions:
        assert (
            sum(region["runs"][1::2])
            == region["pixels"]
            == int((mask == labels.index(region["label"])).sum())
        )


def test_runs_number_the_pixels_row_by_row() -> None:
    mask = np.array([[0, 0, 1], [1, 0, 1]], np.uint8)
    assert encode_mask(mask, ("ground", "a")) == [
        {"label": "a", "pixels": 3, "runs": [2, 2, 5, 1]}
    ]
