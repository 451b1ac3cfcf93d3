"""A stage that trains nothing but a linear head: solved instead of trained; see
`pipeline.training.linear_head`.

The head is solved on the outputs of the frozen blocks for the plain presentation of
each training example and a few augmented ones, which together count as one example;
where that is too large, for the plain one alone. How strongly it is regularised is
chosen by the log loss of examples that it was not fitted to: those of validation where
there are many, else those of train, by cross-validation in which a group of examples
stays in one fold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.config import FinetuneConfig, StageConfig
from pipeline.records import SolvedHead
from pipeline.tensors import single_tensor
from pipeline.training import linear_head, sampling, stages
from pipeline.training.batch_source import load_ahead
from pipeline.training.crash_points import crash_point
from pipeline.training.feature_cache import CHUNK
from pipeline.training.numerics import NonFiniteError
from pipeline.training.plan import autocast, to_input

if TYPE_CHECKING:
    from pipeline.models.network import Block, BlockedNetwork
    from pipeline.objectives.base import TrainingLoss
    from pipeline.objectives.class_loss import ClassLoss
    from pipeline.tensors import Batch
    from pipeline.training.batch_source import (
        BatchSource,
        ExampleSet,
        FinetuneJob,
        StageBatches,
    )
    from pipeline.training.linear_head import HeadProblem, PrincipalComponents
    from pipeline.training.plan import TrainingPlan
    from pipeline.training.stages import StageScope

# From strong regularisation to weak.
STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 1))
DEFAULT_STRENGTH = 10.0**-1.5  # where there is nothing to choose it by
FOLDS = 5
# Of each training example at most, the first plain:
# docs/decisions/0006-heads-are-solved.md.
PRESENTATIONS = 4
ENOUGH_TO_VALIDATE = 1000  # examples of validation from which they choose the strength
TYPICAL_ITERATIONS = 30
MOST_OPERATIONS = 2e13  # some minutes on a CPU
MOST_BYTES = 2e9
MOST_COMPONENTS = 5000  # their computation takes the cube of it


def find_linear_layer(head: Block) -> torch.nn.Linear | None:
    """The one linear layer that a head is, besides dropout; None where it is more."""
    from torch import nn

    others: list[nn.Module] = []
    for module in head.modules():
        is_leaf = not any(module.children())
        if is_leaf and not isinstance(module, nn.Dropout | nn.Identity):
            others.append(module)
    if len(others) != 1 or not isinstance(others[0], nn.Linear):
        return None
    layer = others[0]
    parameters = set(map(id, head.parameters()))
    if parameters == {id(layer.weight), id(layer.bias)}:
        return layer
    return None


def is_solved(job: FinetuneJob, model: BlockedNetwork, stage: StageConfig) -> bool:
    """Whether a stage's head is solved."""
    scope = stages.resolve_scope(model, stage)
    return solver_refusal(job, model, scope) is None


def solver_refusal(
    job: FinetuneJob, model: BlockedNetwork, scope: StageScope
) -> str | None:
    """Why a stage is trained by the optimiser and not solved; "" where it is not a
    head's stage at all, and None where it is solved.
    """
    if job.task.scorer.kind != "classes":
        return ""
    head = model.blocks[-1]
    if scope.trained != (head.name,) or job.config.head_solver == "optimizer":
        return ""
    layer = find_linear_layer(head)
    if layer is None:
        return "the head is not one linear layer with a bias"
    return _too_large(len(job.train), layer, job)


def count_presentations(job: FinetuneJob, head: Block) -> int | None:
    """How many views of each training example a head is solved on; None: the plain one
    alone.
    """
    layer = find_linear_layer(head)
    count = min(PRESENTATIONS, stages.count_frozen_views(job.config))
    if layer is None or count == 1 or _too_large(count * len(job.train), layer, job):
        return None
    return count


def _too_large(rows: int, layer: torch.nn.Linear, job: FinetuneJob) -> str | None:
    columns = layer.in_features
    classes = layer.out_features
    components = min(rows, columns)
    fits = len(STRENGTHS)
    if len(job.val) < ENOUGH_TO_VALIDATE:
        fits *= FOLDS
    operations = 4.0 * rows * components * classes * TYPICAL_ITERATIONS * fits
    held_bytes = 8.0 * rows * (2 * columns + components + 3 * classes)
    if operations > MOST_OPERATIONS or components > MOST_COMPONENTS:
        limit = f"{MOST_OPERATIONS:.0e}"
        return f"solving it would take {operations:.0e} operations, over {limit}"
    if held_bytes > MOST_BYTES:
        limit = f"{MOST_BYTES / 1e9:.1f}"
        return (
            f"solving it would take {held_bytes / 1e9:.1f} GB of memory, over {limit}"
        )
    return None


def solve_head(
    job: FinetuneJob,
    model: BlockedNetwork,
    batches: StageBatches,
    objective: TrainingLoss,
    plan: TrainingPlan,
    between: Callable[[], None],
) -> SolvedHead:
    """Solves the head and gives the model its weights.

    Args:
        batches: of train in its presentations, and of val.
        between: called now and then; what it raises ends the solving, which left no
            trace.

    Raises:
        NonFiniteError: a feature is NaN or infinite.
    """
    from pipeline.objectives.class_loss import ClassLoss

    layer = find_linear_layer(model.blocks[-1])
    assert layer is not None  # `solver_refusal` was asked
    assert isinstance(objective, ClassLoss)
    problem, components = _head_problem(
        job, model, batches.train, objective, plan, between
    )

    def interrupted() -> None:
        crash_point("solving")
        between()

    validation_features = partial(
        _features, job, model, batches.val, plan, None, between
    )
    strength, chosen_by = _choose(
        job, problem, components, validation_features, interrupted
    )
    stronger = [value for value in STRENGTHS if value < strength]
    *_, solution = linear_head.solve_path(problem, [*stronger, strength], interrupted)
    weight, bias = components.fold(solution.head)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    decay = 1.0 / (solution.strength * problem.total)
    penalty = 0.5 * decay * float(solution.head[:-1].square().sum())
    return SolvedHead(
        strength=strength,
        chosen_by=chosen_by,
        objective=solution.objective,
        loss=solution.objective - penalty,
        gradient=solution.gradient,
        iterations=solution.iterations,
    )


def _head_problem(
    job: FinetuneJob,
    model: BlockedNetwork,
    source: BatchSource,
    objective: ClassLoss,
    plan: TrainingPlan,
    between: Callable[[], None],
) -> tuple[HeadProblem, PrincipalComponents]:
    """What is minimised over the head, and the components of the features that it is
    minimised on.
    """
    count = count_presentations(job, model.blocks[-1])
    views = [None] if count is None else list(range(count))
    parts = [_features(job, model, source, plan, view, between) for view in views]
    features = torch.cat(parts)
    _refuse_not_finite(features, job.train)
    components = linear_head.PrincipalComponents.of(features)
    classes = job.train.class_indices
    rows = target_rows(job.config, classes, len(job.labels), objective)
    targets = (rows / len(views)).repeat(len(views), 1)
    inputs = components.project(features)
    return linear_head.HeadProblem(inputs, components.variances, targets), components


def _refuse_not_finite(features: torch.Tensor, examples: ExampleSet) -> None:
    """Checks features (V · N, D) of N examples."""
    rows = (~features.isfinite().all(1)).nonzero()[:, 0].tolist()
    broken = sorted({row % len(examples) for row in rows})
    if broken:
        raise NonFiniteError(
            "features of the head",
            found=f"{len(broken)} examples with NaN or infinity",
            expected="finite numbers",
            hint="look at these examples, or set finetune.plan.precision: fp32",
            details=[examples.ids[position] for position in broken],
        )


def target_rows(
    config: FinetuneConfig, classes: torch.Tensor, count: int, objective: ClassLoss
) -> torch.Tensor:
    """How much each example counts towards each class (N, C): what the optimiser would
    minimise on average over an epoch, with label smoothing, class weights and balanced
    sampling. The sum is N.
    """
    smoothing = objective.smoothing
    one_hot = torch.nn.functional.one_hot(classes, count).double()
    rows = one_hot * (1 - smoothing) + smoothing / count
    if objective.weights is not None:
        class_weights = objective.weights.double()
        rows = rows * class_weights[classes, None]
    sampling_weights = _sampling_weights(config, classes, count)
    rows = rows * sampling_weights[classes, None]
    return rows * (len(classes) / rows.sum())


def _sampling_weights(
    config: FinetuneConfig, classes: torch.Tensor, count: int
) -> torch.Tensor:
    """How often an epoch shows an example of each class, on average: (C,)."""
    if config.sampling != "balanced":
        return torch.ones(count, dtype=torch.float64)
    counts = torch.bincount(classes, minlength=count).double()
    present = int((counts > 0).sum())
    return len(classes) / (present * counts.clamp_min(1))


def _features(
    job: FinetuneJob,
    model: BlockedNetwork,
    source: BatchSource,
    plan: TrainingPlan,
    view: int | None,
    between: Callable[[], None],
) -> torch.Tensor:
    """The head's inputs (N, D), float64, for one view of each example in the order of
    the ids; computed in the chunks of the feature cache, so that they are the same with
    it and without.
    """
    chunks = sampling.same_shape_batches(source.examples.shapes, CHUNK)
    work: list[Callable[[], Batch]] = []
    for chunk in chunks:
        if view is None:
            views = None
        else:
            views = np.full(len(chunk), view, np.int64)
        work.append(partial(source.batch, chunk, views))
    loaded = load_ahead(work, job.config.plan.workers)
    outputs = []
    model.stock.eval()
    for x in loaded:
        between()
        with torch.inference_mode(), autocast(plan):
            output = model.run(to_input(x, plan), source.start, len(model.blocks) - 1)
        # A head may begin with that.
        outputs.append(single_tensor(output).flatten(1).cpu().double())
        job.console.progress("features of the head", len(outputs), len(chunks))
    order = np.argsort(np.concatenate(chunks))
    return torch.cat(outputs)[torch.from_numpy(order)]


def _choose(
    job: FinetuneJob,
    problem: HeadProblem,
    components: PrincipalComponents,
    validation_features: Callable[[], torch.Tensor],
    between: Callable[[], None],
) -> tuple[float, str]:
    """The strength, and what chose it.

    Args:
        validation_features: computes those of validation.
    """
    if len(job.val) >= ENOUGH_TO_VALIDATE:
        inputs = components.project(validation_features())
        heads = linear_head.solve_path(problem, STRENGTHS, between)
        losses = [
            linear_head.log_losses(inputs, job.val.class_indices, solution.head)
            for solution in heads
        ]
        weights = _example_weights(problem, job.train, job.val.class_indices)
        return linear_head.choose_strength(
            STRENGTHS, torch.stack(losses), weights
        ), "validation"
    count = min(FOLDS, len(set(job.train.units)))
    if count < 2:
        return DEFAULT_STRENGTH, "default"
    classes = job.train.class_indices
    folds = linear_head.assign_folds(job.train.units, classes.tolist(), count)
    judged = linear_head.can_be_judged(classes, folds)
    if not judged.any():
        return DEFAULT_STRENGTH, "default"
    table = linear_head.cross_validate(problem, classes, folds, STRENGTHS, between)
    weights = _example_weights(problem, job.train, classes) * judged
    return linear_head.choose_strength(STRENGTHS, table, weights), "cross-validation"


def _example_weights(
    problem: HeadProblem, train: ExampleSet, classes: torch.Tensor
) -> torch.Tensor:
    """How much examples of these classes (M,) count in the objective: as much as those
    of train do, on average.
    """
    count = problem.targets.shape[1]
    weights = problem.targets[: len(train)].sum(1)
    totals = torch.zeros(count, dtype=torch.float64).index_add(
        0, train.class_indices, weights
    )
    counts = torch.bincount(train.class_indices, minlength=count).clamp_min(1)
    means = totals / counts
    return means[classes]
