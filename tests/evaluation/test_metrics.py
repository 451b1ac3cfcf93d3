"""The metrics equal scikit-learn's, and their intervals cover what they should."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sk

from pipeline import metric_registry
from pipeline.errors import TrainingError
from pipeline.evaluation.bootstrap import (
    BootstrapSettings,
    draw_resamples,
    estimate_share,
    exact_interval,
    number_units,
)
from pipeline.evaluation.metrics import (
    Predictions,
    WeightedPredictions,
    check_probabilities,
    compute_metrics,
    estimate_metrics,
    squared_calibration_error,
)

SETTINGS = BootstrapSettings(resamples=200, confidence=0.95, seed=0)


def answers(
    examples: int,
    classes: int,
    *,
    seed: int = 0,
    skill: float = 1.0,
    ties: bool = False,
) -> Predictions:
    dice = np.random.default_rng(seed)
    targets = dice.integers(0, classes, examples)
    logits = dice.normal(0, 1, (examples, classes))
    logits[np.arange(examples), targets] += skill
    powers = np.exp(np.round(logits) if ties else logits)
    return Predictions(
        powers / powers.sum(axis=1, keepdims=True), targets, np.arange(examples)
    )


def once(made: Predictions, k: int = 3) -> dict[str, float]:
    return {
        name: value[0]
        for name, value in compute_metrics(
            made, np.ones((len(made.targets), 1)), k
        ).items()
    }


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("ties", [False, True])
def test_values_equal_scikit_learns(classes: int, ties: bool) -> None:
    made = answers(300, classes, ties=ties)
    p, t, found = made.probabilities, made.targets, once(made)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(t, made.predicted))
    assert found["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(t, made.predicted)
    )
    assert found["macro_f1"] == pytest.approx(
        sk.f1_score(t, made.predicted, average="macro")
    )
    assert found["log_loss"] == pytest.approx(sk.log_loss(t, p))
    area = (
        sk.roc_auc_score(t, p[:, 1])
        if classes == 2
        else sk.roc_auc_score(t, p, multi_class="ovr")
    )
    assert found["auroc"] == pytest.approx(area)
    if classes == 2:
        assert not any(name.startswith("top_") for name in found)
    elif not ties:
        k = min(3, classes - 1)
        assert found[f"top_{k}_accuracy"] == pytest.approx(
            sk.top_k_accuracy_score(t, p, k=k)
        )


def calibrated(
    examples: int, copies: int, overconfidence: float, dice: np.random.Generator
) -> Predictions:
    """Answers that are right as often as they say, but for a share of the right ones
    that is spoilt; each answer and its outcome stand there `copies` times, as one unit.
    """
    powers = np.exp(dice.normal(0, 1.5, (examples, 3)))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    targets = (
        (dice.random((examples, 1)) > probabilities.cumsum(axis=1))
        .sum(axis=1)
        .clip(max=2)
    )
    spoilt = (dice.random(examples) < overconfidence) & (
        targets == probabilities.argmax(axis=1)
    )
    targets = np.where(spoilt, (targets + 1) % 3, targets)
    units = np.arange(examples)
    return Predictions(
        *(
            np.repeat(values, copies, axis=0)
            for values in (probabilities, targets, units)
        )
    )


def test_calibration_error_is_the_root_of_the_mean_product_of_gaps_of_two_units() -> (
    None
):
    made = calibrated(60, 2, 0.5, np.random.default_rng(0))
    gaps, expected = made.correct - made.confidence, 0.0
    assert len(np.unique(made.bins)) == 6
    for number in np.unique(made.bins):
        within = np.flatnonzero(made.bins == number)
        products = [
            gaps[i] * gaps[j]
            for i in within
            for j in within
            if made.units[i] != made.units[j]
        ]
        expected += len(within) / 120 * np.mean(products)
    assert squared_calibration_error(WeightedPredictions(made, np.ones((120, 1))))[
        0
    ] == pytest.approx(expected)
    assert once(made)["calibration_error"] == pytest.approx(expected**0.5)


@pytest.mark.parametrize("copies", [1, 5])
def test_calibration_error_of_a_perfectly_calibrated_model_is_unbiased(
    copies: int,
) -> None:
    dice = np.random.default_rng(copies)
    found = []
    for _ in range(400):
        made = calibrated(120, copies, 0, dice)
        found.append(
            squared_calibration_error(
                WeightedPredictions(made, np.ones((120 * copies, 1)))
            )[0]
        )
    standard_error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found)) < 3 * standard_error
    assert 0.4 < np.mean(np.array(found) < 0) < 0.65


@pytest.mark.parametrize(
    ("overconfidence", "copies"), [(0, 1), (0, 5), (0.2, 1), (0.2, 3)]
)
def test_interval_of_the_calibration_error_covers_the_truth(
    overconfidence: float, copies: int
) -> None:
    dice = np.random.default_rng(8)
    covered = starts_at_its_value = 0
    for trial in range(60):
        made = calibrated(150, copies, overconfidence, dice)
        found = estimate_metrics(made, BootstrapSettings(100, 0.95, trial), wanted_k=1)[
            "calibration_error"
        ]
        truth = overconfidence * np.mean(made.confidence**2) ** 0.5
        covered += found.low <= truth <= found.high
        starts_at_its_value += found.low == found.value > 0
    assert covered >= 0.9 * 60
    assert not starts_at_its_value


def test_without_two_units_there_is_no_calibration_error() -> None:
    made = calibrated(1, 30, 0, np.random.default_rng(0))
    assert "calibration_error" not in estimate_metrics(made, SETTINGS, wanted_k=3)


def test_a_weight_counts_as_so_many_copies() -> None:
    made = answers(60, 3)
    counts = np.random.default_rng(1).integers(0, 4, 60)
    rows = np.repeat(np.arange(60), counts)
    copied = Predictions(made.probabilities[rows], made.targets[rows], rows)
    weighted = {
        name: value[0]
        for name, value in compute_metrics(
            made, counts[:, None].astype(float), 2
        ).items()
    }
    expected = once(copied, 2)
    # Its bins are those of the answers that were given, not of the ones that were
    # drawn.
    del weighted["calibration_error"], expected["calibration_error"]
    assert weighted == pytest.approx(expected)


def test_every_metric_is_a_function_of_weights() -> None:
    """Two columns of weights give two values; twice the weight on everything changes
    nothing.
    """
    made = answers(120, 5)
    weights = np.stack([np.ones(120), np.full(120, 2.0)], axis=1)
    values = compute_metrics(made, weights, 3)
    assert list(values) == [
        metric.name for metric in metric_registry.measured_metrics(5, 3)
    ]
    for name, value in values.items():
        assert value.shape == (2,), name
        assert value[0] == pytest.approx(value[1]), name


def test_a_class_absent_from_the_test_split_is_left_out_of_the_averages() -> None:
    made = answers(200, 4)
    kept = made.targets != 3
    made = Predictions(
        made.probabilities[kept], made.targets[kept], np.arange(kept.sum())
    )
    found = once(made)
    recalls = sk.recall_score(
        made.targets, made.predicted, labels=[0, 1, 2], average=None
    )
    assert found["balanced_accuracy"] == pytest.approx(recalls.mean())
    areas = [
        sk.roc_auc_score(made.targets == c, made.probabilities[:, c]) for c in range(3)
    ]
    assert found["auroc"] == pytest.approx(np.mean(areas))


def test_one_class_alone_has_no_auroc_and_no_nan() -> None:
    made = answers(40, 3)
    made = Predictions(made.probabilities, np.zeros(40, dtype=np.intp), np.arange(40))
    found = estimate_metrics(made, SETTINGS, wanted_k=3)
    assert "auroc" not in found
    assert all(np.isfinite([e.value, e.low, e.high]).all() for e in found.values())


def test_intervals_contain_their_value_and_repeat() -> None:
    first, second = (
        estimate_metrics(answers(150, 4), SETTINGS, wanted_k=3) for _ in range(2)
    )
    assert first == second
    assert all(one.low <= one.value <= one.high for one in first.values())


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    dice, covered = np.random.default_rng(5), 0
    for trial in range(150):
        hits = dice.random(80) < 0.8
        found = estimate_share(hits, np.arange(80), BootstrapSettings(300, 0.9, trial))
        covered += found.low <= 0.8 <= found.high
    assert 0.82 <= covered / 150 <= 0.96


def test_grouped_examples_widen_the_interval() -> None:
    """Ten views of one part that share their fate are one piece of evidence, not ten."""
    dice = np.random.default_rng(3)
    hits = np.repeat(dice.random(40) < 0.7, 10)
    alone = estimate_share(hits, np.arange(400), BootstrapSettings(500, 0.95, 0))
    together = estimate_share(
        hits, np.repeat(np.arange(40), 10), BootstrapSettings(500, 0.95, 0)
    )
    assert (together.high - together.low) > 2 * (alone.high - alone.low)


def test_without_a_mistake_the_interval_is_the_exact_one() -> None:
    found = estimate_share(
        np.ones(30, dtype=bool), np.arange(30), BootstrapSettings(100, 0.95, 0)
    )
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 30))
    assert exact_interval(0.0, 30, 0.95).high == pytest.approx(1 - found.low)
    made = answers(30, 3, skill=50)
    assert estimate_metrics(made, SETTINGS, wanted_k=3)[
        "accuracy"
    ].low == pytest.approx(found.low)


def test_resamples_draw_whole_units() -> None:
    units = number_units(pa.chunked_array([["a", "b"], ["a", "c", "b"]]))
    assert units.tolist() == [0, 1, 0, 2, 1]
    for _, weights in draw_resamples(units, BootstrapSettings(50, 0.95, 0)):
        assert (weights[0] == weights[2]).all()
        assert (weights[[0, 1, 3]].sum(axis=0) == 3).all()


@pytest.mark.parametrize("bad", [np.nan, -0.5, 0.9])
def test_answers_that_are_no_probabilities_are_refused_by_name(bad: float) -> None:
    made = answers(5, 3)
    made.probabilities[2, 0] = bad
    with pytest.raises(TrainingError, match="candidate 'gradual'") as refused:
        check_probabilities(
            made.probabilities, "gradual", [f"{n}.png" for n in range(5)]
        )
    assert refused.value.details == ("2.png",)
