"""The learning rate finder: it suggests a rate that trains, and leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import TrainingError
from pipeline.training import lr_find


class Problem:
    """Two clouds to be told apart by a small network with BatchNorm and dropout."""

    def __init__(self, rates: tuple[float, float] = (0.01, 0.01)) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
        self.optimizer = torch.optim.AdamW(
            [{"params": list(self.network[:2].parameters()), "lr": rates[0]},
             {"params": list(self.network[2:].parameters()), "lr": rates[1]}]
        )  # fmt: skip
        self.targets = torch.arange(64) % 2
        self.x = torch.randn(64, 4) + 2 * self.targets[:, None]
        self.seen: list[list[float]] = []

    def batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(self.x.split(16), self.targets.split(16), strict=True))

    def gradients(self, x: torch.Tensor, targets: torch.Tensor) -> float:
        self.seen.append([group["lr"] for group in self.optimizer.param_groups])
        loss = nn.functional.cross_entropy(self.network(x), targets)
        loss.backward()
        return loss.item()

    def state(self) -> dict[str, bytes]:
        """Every bit there is."""
        found = {name: tensor.numpy().tobytes() for name, tensor in self.network.state_dict().items()}
        for number, parameter in enumerate(self.network.parameters()):
            found[f"grad {number}"] = b"" if parameter.grad is None else parameter.grad.numpy().tobytes()
            for key, value in self.optimizer.state[parameter].items() if parameter in self.optimizer.state else ():
                found[f"{key} {number}"] = value.numpy().tobytes()
        found["modes"] = bytes(module.training for module in self.network.modules())
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        found["groups"] = repr(settings).encode()
        found["random"] = repr(random.getstate()).encode()
        found["numpy"] = repr(np.random.get_state()).encode()
        found["torch"] = torch.get_rng_state().numpy().tobytes()
        return found

    def sweep(self, gradients: Callable[..., float] | None = None, **options: Any) -> lr_find.Sweep:
        return lr_find.find(self.network, self.optimizer, self.batches(), gradients or self.gradients, **options)


def trained(problem: Problem, rate: float, epochs: int = 4) -> float:
    for group in problem.optimizer.param_groups:
        group["lr"] = rate
    for _ in range(epochs):
        for x, targets in problem.batches():
            problem.optimizer.zero_grad()
            last = problem.gradients(x, targets)
            problem.optimizer.step()
    return last


def test_the_suggestion_trains_better_than_far_smaller_and_far_larger_rates() -> None:
    found = Problem().sweep(high=100.0).suggestion
    assert 1e-4 < found < 1
    at, below, above = (trained(Problem(), rate) for rate in (found, found / 100, found * 1000))
    assert at < below
    assert at < above


@pytest.mark.parametrize("before", ["fresh", "in the middle of training", "in eval"])
def test_every_bit_is_as_it_was(before: str) -> None:
    problem = Problem()
    if before == "in the middle of training":
        trained(problem, 0.01, 1)
    if before == "in eval":
        problem.network.eval()
    state, weight = problem.state(), problem.network[0].weight
    pointer = weight.data_ptr()

    def careless(x: torch.Tensor, targets: torch.Tensor) -> float:
        problem.network.train()
        random.random(), np.random.rand(), torch.rand(1)
        return problem.gradients(x, targets)

    problem.sweep(careless)
    assert problem.state() == state
    assert problem.network[0].weight is weight
    assert weight.data_ptr() == pointer


def test_a_sweep_that_fails_leaves_no_trace_either() -> None:
    problem = Problem()
    state = problem.state()

    def failing(x: torch.Tensor, targets: torch.Tensor) -> float:
        if len(problem.seen) == 5:
            raise MemoryError
        return problem.gradients(x, targets)

    with pytest.raises(MemoryError):
        problem.sweep(failing)
    assert len(problem.seen) == 5
    assert problem.state() == state


def test_training_goes_on_as_if_there_had_been_no_sweep() -> None:
    with_sweep, without = Problem(), Problem()
    for problem in (with_sweep, without):
        torch.manual_seed(1)
        trained(problem, 0.01, 1)
        if problem is with_sweep:
            problem.sweep()
        trained(problem, 0.01, 2)
    with_sweep.seen, without.seen = [], []
    assert with_sweep.state() == without.state()


def test_rates_rise_exponentially_and_groups_keep_their_ratio() -> None:
    problem = Problem(rates=(0.001, 0.01))
    sweep = problem.sweep(low=1e-4, high=1e-2, steps=21)
    assert sweep.rates == pytest.approx(np.geomspace(1e-4, 1e-2, 21))
    assert [lower / upper for lower, upper in problem.seen] == pytest.approx([0.1] * 21)
    assert max(upper for _, upper in problem.seen) == pytest.approx(1e-2)


def test_it_stops_where_the_loss_diverges_or_is_not_finite() -> None:
    problem, after = Problem(), []

    def diverging(x: torch.Tensor, targets: torch.Tensor) -> float:
        loss = problem.gradients(x, targets)
        after.append(loss)
        return loss if len(after) < 30 else float("nan")

    assert len(problem.sweep(diverging, low=1e-3).rates) == 29
    assert len(after) == 30

    exploding = [10.0 - n / 10 for n in range(30)] + [1000.0] * 50
    problem = Problem()
    sweep = problem.sweep(lambda x, targets: problem.gradients(x, targets) * 0 + exploding[len(problem.seen) - 1])
    assert len(sweep.rates) < 40


def test_a_loss_that_never_falls_gives_no_suggestion() -> None:
    problem = Problem()
    with pytest.raises(TrainingError, match="never fell"):
        problem.sweep(lambda x, targets: problem.gradients(x, targets) * 0 + len(problem.seen))


def test_the_suggestion_is_the_steepest_point_of_a_known_curve() -> None:
    decades = np.linspace(-5, 0, 101)
    fall = 1 / (1 + np.exp(6 * (decades + 2.5)))  # steepest at 10^-2.5
    rise = np.where(decades > -1, (decades + 1) ** 2 * 3, 0)
    assert lr_find.suggest(10**decades, 1 + fall + rise) == pytest.approx(10**-2.5, rel=0.15)
