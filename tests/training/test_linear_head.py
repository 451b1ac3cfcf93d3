"""A linear head solved: the same minimum as scikit-learn's, whatever the features are
like.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.config import FinetuneConfig
from pipeline.objectives.class_loss import build_loss
from pipeline.training import head_stage, linear_head


def correlated(
    rows: int, columns: int, classes: int, *, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, D) like a network's: positive, correlated, of very different scales;
    and classes (N,).
    """
    draws = np.random.default_rng(seed)
    classes_of = draws.integers(0, classes, rows)
    centres = draws.normal(size=(classes, 8))
    hidden = centres[classes_of] + draws.normal(size=(rows, 8))
    mixed = np.maximum(
        hidden @ draws.normal(size=(8, columns)) + draws.normal(size=(rows, columns)), 0
    )
    scales = 10 ** draws.uniform(-2, 2, columns)
    return torch.from_numpy(mixed * scales), torch.from_numpy(classes_of)


def problem_of(
    features: torch.Tensor, classes: torch.Tensor, count: int, config: FinetuneConfig
) -> tuple[linear_head.PrincipalComponents, linear_head.HeadProblem]:
    components = linear_head.PrincipalComponents.of(features)
    targets = head_stage.target_rows(
        config, classes, count, build_loss(config, classes, count)
    )
    return components, linear_head.HeadProblem(
        components.project(features), components.variances, targets
    )


def solved(
    problem: linear_head.HeadProblem, strength: float
) -> linear_head.HeadSolution:
    start = torch.zeros(
        problem.inputs.shape[1], problem.targets.shape[1], dtype=torch.float64
    )
    return linear_head.solve_problem(problem, strength, start)


@pytest.mark.parametrize(
    ("rows", "columns", "classes"), [(120, 40, 3), (60, 200, 4), (200, 30, 2)]
)
@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_the_minimum_is_that_of_scikit_learn(
    rows: int, columns: int, classes: int, strength: float
) -> None:
    features, labels = correlated(rows, columns, classes)
    components, problem = problem_of(
        features, labels, classes, FinetuneConfig(label_smoothing=0)
    )
    ours = solved(problem, strength)

    standard = ((features - components.mean) / components.deviation).numpy()
    # Of two classes scikit-learn fits one row w: ours are ±w/2, whose penalty is half
    # of its own.
    theirs = LogisticRegression(
        C=strength if classes > 2 else 2 * strength, tol=1e-10, max_iter=20_000
    )
    theirs.fit(standard, labels.numpy())
    coefficients, intercepts = theirs.coef_, theirs.intercept_
    if classes == 2:
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    logits = torch.from_numpy(standard @ coefficients.T + intercepts)
    their_loss = float(torch.nn.functional.cross_entropy(logits, labels))
    their_objective = their_loss + float((coefficients**2).sum()) / (
        2 * strength * rows
    )

    assert ours.gradient <= 2 * linear_head.TOLERANCE
    assert ours.objective == pytest.approx(their_objective, abs=1e-7)
    assert ours.iterations < linear_head.MAX_ITERATIONS


def test_the_gradient_is_that_of_the_loss_training_minimises() -> None:
    """With label smoothing, class weights and balanced sampling, against PyTorch's own
    loss and autograd.
    """
    features, labels = correlated(90, 20, 4)
    labels[labels == 3] = torch.where(
        torch.arange(int((labels == 3).sum())) % 3 == 0, 3, 0
    )
    config = FinetuneConfig(label_smoothing=0.2, class_weights="balanced")
    loss = build_loss(config, labels, 4)
    _, problem = problem_of(features, labels, 4, config)
    head = torch.randn(
        problem.inputs.shape[1],
        4,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    )
    value, gradient = problem.loss(head, 0.0)

    head.requires_grad_(True)
    losses = torch.nn.functional.cross_entropy(
        problem.inputs @ head, labels, label_smoothing=0.2, reduction="none"
    )
    assert loss.weights is not None
    weights = loss.weights.double()[labels]
    expected = losses @ weights / weights.sum()
    expected.backward()
    assert float(value) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert torch.allclose(gradient, head.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "balance", [{"class_weights": "balanced"}, {"sampling": "balanced"}]
)
def test_a_rare_class_does_not_draw_the_examples_of_all_others_to_it(
    balance: dict[str, str],
) -> None:
    """Label smoothing gives each example's other classes a part; that of a rare one
    must not be weighed by its rarity.
    """
    draws = np.random.default_rng(0)
    labels = torch.tensor([0] * 100 + [1] * 100 + [2])
    features = torch.from_numpy(8 * np.eye(3)[labels] + draws.normal(size=(201, 3)))
    config = FinetuneConfig.model_validate({"label_smoothing": 0.1, **balance})
    _, problem = problem_of(features, labels, 3, config)
    predicted = (problem.inputs @ solved(problem, 0.1).head).argmax(1)
    assert (predicted == labels).double().mean() > 0.95


def test_balanced_sampling_weighs_every_class_alike() -> None:
    labels = torch.tensor([0] * 30 + [1] * 6 + [2] * 4)
    config = FinetuneConfig(sampling="balanced", label_smoothing=0)
    rows = head_stage.target_rows(config, labels, 4, build_loss(config, labels, 4))
    assert torch.allclose(
        rows.sum(0), torch.tensor([40 / 3, 40 / 3, 40 / 3, 0], dtype=torch.float64)
    )


def test_a_head_on_components_is_the_same_on_features() -> None:
    features, labels = correlated(50, 30, 3)
    components, problem = problem_of(features, labels, 3, FinetuneConfig())
    head = solved(problem, 0.1).head
    weight, bias = components.fold(head)
    assert weight.dtype == bias.dtype == torch.float32
    expected = problem.inputs @ head
    assert torch.allclose(features @ weight.double().T + bias, expected, atol=1e-4)


def test_a_start_changes_the_time_and_not_the_solution() -> None:
    features, labels = correlated(80, 40, 3)
    _, problem = problem_of(features, labels, 3, FinetuneConfig())
    cold = solved(problem, 1.0)
    *_, warm = linear_head.solve_path(problem, [1e-4, 1e-2, 1.0], lambda: None)
    assert warm.objective == pytest.approx(cold.objective, abs=1e-9)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_rounding_at_most(threads: int) -> None:
    features, labels = correlated(300, 100, 5)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        components, problem = problem_of(features, labels, 5, FinetuneConfig())
        weight, _ = components.fold(solved(problem, 0.1).head)
        again, _ = components.fold(solved(problem, 0.1).head)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(weight, again)
    reference, problem = problem_of(features, labels, 5, FinetuneConfig())
    expected, _ = reference.fold(solved(problem, 0.1).head)
    scale = expected.abs().max(0).values
    assert float(((weight - expected) / scale).abs().max()) < 1e-3


def test_constant_features_and_nearly_constant_ones_do_no_harm() -> None:
    features, labels = correlated(60, 20, 3)
    features[:, 3] = 7.0
    features[:, 4] = 7.0
    features[5, 4] = 7.0 + 1e-9
    components, problem = problem_of(features, labels, 3, FinetuneConfig())
    weight, bias = components.fold(solved(problem, 1.0).head)
    assert torch.isfinite(weight).all()
    assert torch.isfinite(bias).all()
    assert float(weight[:, 3:5].abs().max()) < 1


def test_folds_keep_units_whole_and_spread_the_classes() -> None:
    classes = [number % 3 for number in range(120) for _ in range(2)]
    units = [f"part-{number}" for number in range(120) for _ in range(2)]
    folds = linear_head.assign_folds(units, classes, 5).tolist()
    assert all(
        len({folds[2 * number], folds[2 * number + 1]}) == 1 for number in range(120)
    )
    counts = [
        [
            sum(f == fold and c == label for f, c in zip(folds, classes, strict=True))
            for label in range(3)
        ]
        for fold in range(5)
    ]
    assert {count for row in counts for count in row} == {16}
    shuffled = np.random.default_rng(0).permutation(240).tolist()
    other = linear_head.assign_folds(
        [units[turn] for turn in shuffled], [classes[turn] for turn in shuffled], 5
    )
    assert other.tolist() == [folds[turn] for turn in shuffled]


def test_cross_validation_judges_no_class_that_it_had_not_shown() -> None:
    classes, folds = torch.tensor([0, 0, 1, 1, 2, 0]), torch.tensor([0, 1, 0, 0, 1, 1])
    assert linear_head.can_be_judged(classes, folds).tolist() == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]


def test_the_strongest_regularisation_within_one_standard_error_is_chosen() -> None:
    best = [1.0, 0.5, 1.3, 0.7]
    worse_by_chance = [1.3, 0.3, 1.4, 0.6]
    surely_worse = [1.1, 0.6, 1.4, 0.8]
    losses = torch.tensor(
        [[9.0] * 4, surely_worse, worse_by_chance, best, [2.0] * 4]
    ).double()
    assert (
        linear_head.choose_strength(
            [0.1, 0.2, 0.3, 0.4, 0.5], losses, torch.ones(4).double()
        )
        == 0.3
    )


def test_few_examples_of_uneven_classes_are_not_all_given_to_the_commonest() -> None:
    draws = np.random.default_rng(3)
    centres = draws.normal(size=(2, 200)) * 4 / 200**0.5
    labels, tested = torch.tensor([0] * 12 + [1] * 4), torch.arange(300) % 2
    features, others = (
        torch.from_numpy(centres[of] + draws.normal(size=(len(of), 200)))
        for of in (labels, tested)
    )
    components, problem = problem_of(features, labels, 2, FinetuneConfig())
    folds = linear_head.assign_folds(
        [str(turn) for turn in range(16)], labels.tolist(), 5
    )
    strengths = head_stage.STRENGTHS
    losses = linear_head.cross_validate(problem, labels, folds, strengths, lambda: None)
    head = solved(
        problem, linear_head.choose_strength(strengths, losses, torch.ones(16).double())
    ).head
    right = (components.project(others) @ head).argmax(1) == tested
    assert right.double().mean() > 0.6


@pytest.mark.parametrize(
    "counts", [(1, 20, 20), (2, 1, 1), (0, 15, 15), (30, 0, 0), (400,) * 2, (1,) * 40]
)
def test_classes_of_any_size_are_solved(counts: tuple[int, ...]) -> None:
    """A class with one example is missing in one of the folds; one without any is never
    answered.
    """
    labels = torch.tensor(
        [label for label, count in enumerate(counts) for _ in range(count)]
    )
    features = torch.randn(
        len(labels), 12, generator=torch.Generator().manual_seed(0)
    ).double()
    features[:, 0] += labels
    _, problem = problem_of(features, labels, len(counts), FinetuneConfig())
    folds = linear_head.assign_folds(
        [str(turn) for turn in range(len(labels))], labels.tolist(), 3
    )
    losses = linear_head.cross_validate(
        problem, labels, folds, [1e-3, 1e-1], lambda: None
    )
    assert torch.isfinite(losses).all()
    assert solved(problem, 0.1).gradient <= 1e-5
