"""Overlap of masks and agreement of outlines, against references and by any example weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, jaccard_score

from pipeline.objectives import pixel_metrics
from pipeline.objectives.pixel_boundary import boundary_f1, count_boundaries, find_outline
from pipeline.objectives.pixel_confusion import count_confusion
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


def confusions_of(masks: list[tuple[Mask, Mask]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.stack([count_confusion(truth, answer, CLASSES) for truth, answer in masks])


@pytest.mark.parametrize("seed", range(3))
def test_the_values_are_scikit_learns_over_all_counted_pixels(seed: int) -> None:
    masks = make_masks(seed)
    found = compute_metrics(confusions_of(masks))
    truth = np.concatenate([one.ravel() for one, _ in masks])
    answer = np.concatenate([one.ravel() for _, one in masks])
    counted = truth != IGNORED
    truth, answer = truth[counted], answer[counted]
    assert found["mean_iou"] == pytest.approx(jaccard_score(truth, answer, average="macro"))
    assert found["mean_dice"] == pytest.approx(f1_score(truth, answer, average="macro"))
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(truth, answer))
    assert found["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(truth, answer))


def test_a_picture_of_weight_two_is_that_picture_twice() -> None:
    confusions = confusions_of(make_masks(1, pictures=6))
    weights = np.array([0, 1, 2, 3, 1, 0])
    repeated = np.repeat(confusions, weights, axis=0)
    weighted = pixel_metrics.tally_pixels(confusions, weights[:, None].astype(float))
    once = pixel_metrics.tally_pixels(repeated, np.ones((len(repeated), 1)))
    assert pixel_metrics.mean_iou(weighted) == pytest.approx(pixel_metrics.mean_iou(once))


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


def near(line: np.ndarray[Any, Any], other: np.ndarray[Any, Any], reach: float) -> int:
    """How many pixels of one line lie within reach of another, by brute force."""
    own, theirs = np.argwhere(line), np.argwhere(other)
    if not len(theirs):
        return 0
    distances = np.sqrt(((own[:, None] - theirs[None]) ** 2).sum(axis=2))
    return int((distances.min(axis=1) <= reach).sum())


def test_outlines_are_compared_as_brute_force_does() -> None:
    for truth, answer in make_masks(2, pictures=4):
        truth[truth == IGNORED] = 0
        counts = count_boundaries(truth, answer, CLASSES)
        reach = max(1, round(0.0075 * np.hypot(*truth.shape)))
        for number in range(CLASSES):
            truth_line, answer_line = find_outline(truth == number), find_outline(answer == number)
            assert counts.answer_near[number] == near(answer_line, truth_line, reach)
            assert counts.truth_near[number] == near(truth_line, answer_line, reach)


def test_outlines_that_agree_are_perfect_and_a_far_one_is_worth_nothing() -> None:
    truth = np.zeros((60, 60), np.uint8)
    truth[10:20, 10:20] = 1
    same = np.stack([count_boundaries(truth, truth, 2)])
    assert boundary_f1(same, np.ones((1, 1)))[0] == 1
    far = np.roll(truth, 30, axis=1)
    assert boundary_f1(np.stack([count_boundaries(truth, far, 2)]), np.ones((1, 1)))[0] == 0


@pytest.mark.parametrize("seed", range(4))
def test_runs_give_the_mask_back(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = ("ground", "a", "b")
    mask = generator.integers(0, 3, (7, 11)).astype(np.uint8)
    if seed == 0:
        mask[:] = 0
    if seed == 1:
        mask[:] = 2
    regions = encode_mask(mask, labels)
    assert (decode_mask(regions, labels, 11, 7) == mask).all()
    assert all(region["label"] != "ground" for region in regions)
    for region in regions:
        assert sum(region["runs"][1::2]) == region["pixels"] == int((mask == labels.index(region["label"])).sum())
