"""The learning rate finder: it suggests a rate that trains, and leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from consoles import RecordingConsole
from pipeline.training import lr_find
from pipeline.training.recipe_trainer import TrainedRecipe


class HeadProblem:
    """Two clouds to be told apart by a small network with BatchNorm and dropout."""

    def __init__(self, rates: tuple[float, float] = (0.01, 0.01)) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Linear(4, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(16, 2),
        )
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.network[:2].parameters()), "lr": rates[0]},
                {"params": list(self.network[2:].parameters()), "lr": rates[1]},
            ]
        )
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
        found = {
            name: tensor.numpy().tobytes()
            for name, tensor in self.network.state_dict().items()
        }
        for number, parameter in enumerate(self.network.parameters()):
            found[f"grad {number}"] = (
                b"" if parameter.grad is None else parameter.grad.numpy().tobytes()
            )
            for key, value in (
                self.optimizer.state[parameter].items()
                if parameter in self.optimizer.state
                else ()
            ):
                found[f"{key} {number}"] = value.numpy().tobytes()
        found["modes"] = bytes(module.training for module in self.network.modules())
        settings = [
            {k: v for k, v in group.items() if k != "params"}
            for group in self.optimizer.param_groups
        ]
        found["groups"] = repr(settings).encode()
        found["random"] = repr(random.getstate()).encode()
        found["numpy"] = repr(np.random.get_state()).encode()
        found["torch"] = torch.get_rng_state().numpy().tobytes()
        return found

    def sweep(
        self, gradients: Callable[..., float] | None = None, **options: Any
    ) -> lr_find.Sweep:
        return lr_find.sweep_rates(
            self.network,
            self.optimizer,
            self.batches(),
            gradients or self.gradients,
            **options,
        )


def trained(problem: HeadProblem, rate: float, epochs: int = 4) -> float:
    for group in problem.optimizer.param_groups:
        group["lr"] = rate
    for _ in range(epochs):
        for x, targets in problem.batches():
            problem.optimizer.zero_grad()
            last = problem.gradients(x, targets)
            problem.optimizer.step()
    return last


def test_the_suggestion_trains_better_than_far_smaller_and_far_larger_rates() -> None:
    found = HeadProblem().sweep(high=100.0).suggestion
    assert found is not None
    assert 1e-4 < found < 1
    at, below, above = (
        trained(HeadProblem(), rate) for rate in (found, found / 100, found * 1000)
    )
    assert at < below
    assert at < above


@pytest.mark.parametrize("before", ["fresh", "in the middle of training", "in eval"])
def test_every_bit_is_as_it_was(before: str) -> None:
    problem = HeadProblem()
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
    problem = HeadProblem()
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
    with_sweep, without = HeadProblem(), HeadProblem()
    for problem in (with_sweep, without):
        torch.manual_seed(1)
        trained(problem, 0.01, 1)
        if problem is with_sweep:
            problem.sweep()
        trained(problem, 0.01, 2)
    with_sweep.seen, without.seen = [], []
    assert with_sweep.state() == without.state()


def test_rates_rise_exponentially_and_groups_keep_their_ratio() -> None:
    problem = HeadProblem(rates=(0.001, 0.01))
    sweep = problem.sweep(low=1e-4, high=1e-2, steps=21)
    assert sweep.rates == pytest.approx(np.geomspace(1e-4, 1e-2, 21))
    assert [lower / upper for lower, upper in problem.seen] == pytest.approx([0.1] * 21)
    assert max(upper for _, upper in problem.seen) == pytest.approx(1e-2)


def test_it_stops_where_the_loss_diverges_or_is_not_finite() -> None:
    problem, after = HeadProblem(), []

    def diverging(x: torch.Tensor, targets: torch.Tensor) -> float:
        loss = problem.gradients(x, targets)
        after.append(loss)
        return loss if len(after) < 30 else float("nan")

    assert len(problem.sweep(diverging, low=1e-3).rates) == 29
    assert len(after) == 30

    exploding = [10.0 - n / 10 for n in range(30)] + [1000.0] * 50
    problem = HeadProblem()
    sweep = problem.sweep(
        lambda x, targets: (
            problem.gradients(x, targets) * 0 + exploding[len(problem.seen) - 1]
        )
    )
    assert len(sweep.rates) < 40


def test_a_loss_that_never_falls_gives_no_suggestion() -> None:
    problem = HeadProblem()
    sweep = problem.sweep(
        lambda x, targets: (
            problem.gradients(x, targets) * 0 + 1 + len(problem.seen) / 99
        )
    )
    assert len(sweep.rates) == lr_find.STEPS
    assert sweep.suggestion is None
    assert problem.sweep(lambda x, targets: float("nan")) == ((), (), None)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_suggestion_is_the_steepest_point_of_a_known_curve(noise: float) -> None:
    decades = np.linspace(-6, 0, 60)
    fall = 1 / (1 + np.exp(4 * (decades + 2.5)))  # steepest at 10^-2.5
    rise = np.where(decades > -1, (decades + 1) ** 2 * 3, 0)
    raw = 1 + fall + rise + noise * np.random.default_rng(0).standard_normal(60)
    found = lr_find.suggest_rate(10**decades, *lr_find.smooth_losses(decades, raw))
    assert found is not None
    assert abs(np.log10(found) + 2.5) < 0.3


def test_smoothing_keeps_a_straight_line() -> None:
    decades = np.linspace(-6, 0, 60)
    values, slopes = lr_find.smooth_losses(decades, 3 - 0.5 * decades)
    np.testing.assert_allclose(values, 3 - 0.5 * decades)
    np.testing.assert_allclose(slopes, -0.5)


# --- in a stage -----------------------------------------------------------------------
STAGES = tuple(
    stage.model_copy(update={"train": ("all",), "batchnorm": "train"})
    for stage in tiny.STAGES[:2]
)


def _training(folder: Path, lr: float | str) -> tuple[TrainedRecipe, RecordingConsole]:
    stages = tuple(stage.model_copy(update={"lr": lr}) for stage in STAGES)
    words = RecordingConsole()
    setting = tiny.Setting(folder, stages=stages, every_seconds=1e9)
    return setting.train(words), words


@pytest.mark.slow
def test_a_stage_finds_its_rate_and_trains_as_if_it_had_been_given(
    tmp_path: Path,
) -> None:
    auto, words = _training(tmp_path / "auto", "auto")
    assert "by a sweep" in words
    found = [max(result.lr.values()) for result in auto.state.results]
    stages = tuple(
        stage.model_copy(update={"lr": lr})
        for stage, lr in zip(STAGES, found, strict=True)
    )
    given = tiny.Setting(tmp_path / "given", stages=stages).train()
    assert all(
        torch.equal(tensor, given.model.stock.state_dict()[name])
        for name, tensor in auto.model.stock.state_dict().items()
    )


@pytest.mark.slow
def test_the_sweep_is_kept_with_the_curves_and_where_no_rate_lowers_the_loss_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lr_find, "suggest_rate", lambda *curves: None)
    auto, words = _training(tmp_path, "auto")
    assert "no rate lowered the loss" in words
    assert max(auto.state.results[0].lr.values()) == lr_find.FALLBACK
    rows = [row for row in auto.state.rows if row.split == lr_find.SPLIT]
    rates = [row.value for row in rows if row.metric == "head/rate"]
    losses = [row.value for row in rows if row.metric == "head/loss"]
    assert len(rates) == len(losses) > 10
    assert rates == sorted(rates)
