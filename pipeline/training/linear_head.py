"""A linear head solved: multinomial logistic regression on fixed features, by L-BFGS to
convergence.

Bishop 2006, section 4.3.4, is the model; Nocedal and Wright 2006, algorithms 7.5 and
3.5, the solver, as PyTorch has it. The problem is convex, so its solution follows from
the features, the targets and the strength of the regularisation alone: there is no
rate, no order of batches and no seed. Everything is computed in float64 on the CPU.

The features of a network are strongly correlated, which would cost L-BFGS hundreds of
iterations. So they are standardised and turned into their principal components, and
each component is scaled by the square root of the curvature that the objective has
there where all classes are equally likely (the bound of Böhning 1992 has the same
form). Neither changes the solution; a few dozen iterations then do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pipeline.training import sampling

MAX_ITERATIONS = 500
TOLERANCE = 1e-6  # of the largest component of the scaled gradient of the mean loss
STALLED = 1e-15  # a change of the mean loss that is rounding
HISTORY = 20  # updates that L-BFGS remembers
SMALLEST_VARIANCE = 1e-12  # of the largest component's: what is below is rounding
# Of the features' root mean square: what is below is not scaled up any further.
SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True)
class PrincipalComponents:
    """Features standardised and turned into principal components: an affine map.

    Args:
        mean: (D,) of the features.
        deviation: (D,) what each is divided by.
        axes: (D, R) orthonormal columns.
        variances: (R,) of the components.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    axes: torch.Tensor
    variances: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> PrincipalComponents:
        """The components of features (N, D), float64."""
        mean = features.mean(0)
        deviation = features.std(0, unbiased=False)
        floor = SMALLEST_DEVIATION * deviation.square().mean().sqrt()
        deviation = deviation.clamp_min(float(floor) or 1.0)
        standard = (features - mean) / deviation
        rows, columns = standard.shape
        if rows < columns:
            squares, sides = torch.linalg.eigh(standard @ standard.T)
        else:
            squares, sides = torch.linalg.eigh(standard.T @ standard)
        is_kept = squares > SMALLEST_VARIANCE * squares.max()
        squares, sides = squares[is_kept], sides[:, is_kept]
        if rows < columns:
            axes = standard.T @ sides / squares.sqrt()
        else:
            axes = sides
        return cls(mean, deviation, axes, squares / rows)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, D) as components and a column of ones: (N, R + 1)."""
        standard = (features.double() - self.mean) / self.deviation
        components = standard @ self.axes
        ones = torch.ones(len(features), 1, dtype=torch.float64)
        return torch.cat([components, ones], dim=1)

    def fold(self, head: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A head on components (R + 1, C) as one on features: weight (C, D) and bias
        (C,), float32.
        """
        of_components = head[:-1]
        constant = head[-1]
        weight = (self.axes @ of_components).T / self.deviation
        bias = constant - weight @ self.mean
        return weight.float(), bias.float()


@dataclass(frozen=True)
class HeadProblem:
    """What is minimised over a head θ on components, the bias last (R + 1, C):

        −Σᵢ Σ꜀ targetsᵢ꜀ · log softmax(inputs · θ)ᵢ꜀ / total  +  ‖θ without its bias‖² /
        (2 · strength · total)

    With `strength` as scikit-learn's `C` this is what its LogisticRegression minimises,
    divided by the total weight.

    Args:
        inputs: (N, R + 1) float64 components, the last column ones.
        variances: (R,) of the components.
        targets: (N, C) float64: how much an example counts towards a class; a row sums
            to the example's weight, and a row of zeros leaves the example out.
    """

    inputs: torch.Tensor
    variances: torch.Tensor
    targets: torch.Tensor

    @property
    def total(self) -> float:
        return float(self.targets.sum())

    def loss(
        self, head: torch.Tensor, decay: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The value at a head (R + 1, C), and its gradient there (R + 1, C)."""
        total = self.targets.sum()
        log_probabilities = (self.inputs @ head).log_softmax(1)
        penalised = head.clone()
        penalised[-1] = 0.0
        data_term = -(self.targets * log_probabilities).sum() / total
        value = data_term + 0.5 * decay * penalised.square().sum()
        example_weights = self.targets.sum(1, keepdim=True)
        errors = example_weights * log_probabilities.exp() - self.targets
        gradient = self.inputs.T @ errors / total + decay * penalised
        return value, gradient

    def curvature(self, decay: float) -> torch.Tensor:
        """About the second derivative along each row of a head where all classes are
        equally likely: (R + 1, 1).
        """
        classes = self.targets.shape[1]
        share = (classes - 1) / classes**2
        weights = share * self.variances + decay
        bias = torch.tensor([share], dtype=torch.float64)
        rows = torch.cat([weights, bias])
        return rows[:, None].clamp_min(1e-12)


class HeadSolution(NamedTuple):
    """A minimum.

    Args:
        head: (R + 1, C) float64.
        objective: the value there.
        gradient: the largest component of the scaled gradient there.
    """

    head: torch.Tensor
    strength: float
    objective: float
    gradient: float
    iterations: int


def solve_problem(
    problem: HeadProblem,
    strength: float,
    start: torch.Tensor,
    between: Callable[[], None] = lambda: None,
) -> HeadSolution:
    """The head that minimises a problem at one strength.

    Args:
        start: (R + 1, C) where to begin; the time depends on it, the solution only
            within the tolerance.
        between: called before each evaluation; what it raises ends the solving.
    """
    decay = 1.0 / (strength * problem.total)
    scale = problem.curvature(decay).sqrt()
    scaled = start * scale
    optimizer = torch.optim.LBFGS(
        [scaled],
        lr=1.0,
        max_iter=MAX_ITERATIONS,
        max_eval=2 * MAX_ITERATIONS,
        tolerance_grad=TOLERANCE,
        tolerance_change=STALLED,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> torch.Tensor:
        between()
        value, gradient = problem.loss(scaled / scale, decay)
        scaled.grad = gradient / scale
        return value

    optimizer.step(evaluate)  # type: ignore[no-untyped-call]
    head = scaled / scale
    value, gradient = problem.loss(head, decay)
    steepest = float((gradient / scale).abs().max())
    return HeadSolution(
        head, strength, float(value), steepest, int(optimizer.state[scaled]["n_iter"])
    )


def solve_path(
    problem: HeadProblem, strengths: Sequence[float], between: Callable[[], None]
) -> Iterator[HeadSolution]:
    """The solutions from the strongest regularisation to the weakest, each found from
    the one before.
    """
    head = torch.zeros(
        problem.inputs.shape[1], problem.targets.shape[1], dtype=torch.float64
    )
    for strength in strengths:
        solution = solve_problem(problem, strength, head, between)
        yield solution
        head = solution.head


def cross_validate(
    problem: HeadProblem,
    classes: torch.Tensor,
    folds: torch.Tensor,
    strengths: Sequence[float],
    between: Callable[[], None],
) -> torch.Tensor:
    """Log losses (strengths, N) of the examples, each under the head that was solved
    without its fold.

    Args:
        problem: its first N rows are what each example is judged by; further N are
            other presentations of them.
        classes: (N,) the examples' classes.
        folds: (N,) the examples' folds.
    """
    judged = problem.inputs[: len(classes)]
    presentations = len(problem.inputs) // len(classes)
    losses = torch.zeros(len(strengths), len(classes), dtype=torch.float64)
    for fold in sorted(set(folds.tolist())):
        held_out = folds == fold
        left_out = held_out.repeat(presentations)[:, None]
        others = torch.where(left_out, 0.0, problem.targets)
        fitted = HeadProblem(problem.inputs, problem.variances, others)
        for turn, solution in enumerate(solve_path(fitted, strengths, between)):
            losses[turn, held_out] = log_losses(
                judged[held_out], classes[held_out], solution.head
            )
    return losses


def can_be_judged(classes: torch.Tensor, folds: torch.Tensor) -> torch.Tensor:
    """Which examples cross-validation can judge (N,): those whose class other folds
    have too. Any head that was solved without their class is wrong about them, and the
    less so the less it says at all.

    Args:
        classes: (N,) the examples' classes.
        folds: (N,) the examples' folds.
    """
    class_count = int(classes.max()) + 1
    fold_count = int(folds.max()) + 1
    counts = torch.zeros(class_count, fold_count, dtype=torch.int64)
    counts.index_put_((classes, folds), torch.ones_like(classes), accumulate=True)
    in_own_fold = counts[classes, folds]
    in_all_folds = counts.sum(1)[classes]
    return in_own_fold < in_all_folds


def log_losses(
    inputs: torch.Tensor, classes: torch.Tensor, head: torch.Tensor
) -> torch.Tensor:
    """The log loss of each example (N,)."""
    log_probabilities = (inputs @ head).log_softmax(1)
    own_class = classes[:, None]
    of_own_class = log_probabilities.gather(1, own_class)
    return -of_own_class[:, 0]


def choose_strength(
    strengths: Sequence[float], losses: torch.Tensor, example_weights: torch.Tensor
) -> float:
    """The strongest regularisation whose held-out log loss is within one standard error
    of the lowest (Hastie, Tibshirani and Friedman 2009, section 7.10.1).

    The error is that of the difference, example by example. That of the losses
    themselves is far larger, since some examples are hard under any strength: of few
    examples it would allow a head that answers the commonest class only.

    Args:
        strengths: (S,) rising, so that the regularisation falls.
        losses: (S, N) held-out log losses.
        example_weights: (N,) how much each example counts.
    """
    shares = example_weights / example_weights.sum()
    best = int((losses @ shares).argmin())
    excess = losses - losses[best]
    means = excess @ shares
    squared = (excess - means[:, None]).square()
    variances = squared @ shares.square()
    is_close = means <= variances.sqrt()
    strongest = int(is_close.nonzero()[0])
    return strengths[strongest]


def assign_folds(
    units: Sequence[str], classes: Sequence[int], count: int
) -> torch.Tensor:
    """A fold for each example (N,): units stay whole, and each class is spread as
    evenly as they allow.

    Units are taken in the order of their hashes, so that neither their names' order nor
    the examples' matters.
    """
    members: dict[str, list[int]] = {}
    for position, unit in enumerate(units):
        members.setdefault(unit, []).append(position)
    numbers = max(classes) + 1
    fold_counts = [[0] * count for _ in range(numbers)]
    sizes = [0] * count
    folds = torch.zeros(len(units), dtype=torch.int64)
    for unit in sorted(
        members, key=lambda name: (sampling.derive_seed("fold", name), name)
    ):
        positions = members[unit]
        label = classes[positions[0]]
        fold = min(
            range(count),
            key=lambda number: (fold_counts[label][number], sizes[number], number),
        )
        for position in positions:
            fold_counts[classes[position]][fold] += 1
            sizes[fold] += 1
            folds[position] = fold
    return folds
