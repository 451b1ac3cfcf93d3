"""A learning-rate range test: a short sweep from 1e-6 to 1.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3 (the
range test), with rates rising exponentially. The suggestion is the rate at which the
loss falls fastest per decade: past it, a larger rate still helps but less; well before
the minimum, where training is about to break. Value and slope come from a local linear
fit (Cleveland 1979), since the losses of single batches are noisy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from pipeline.objectives.base import Targets
    from pipeline.training.batch_source import Piece

Curve = NDArray[np.float64]

LOW, HIGH = 1e-6, 1.0
STEPS = 60
FALLBACK = 1e-3  # where a sweep suggests nothing
SPLIT = "sweep"  # what a sweep's points are called among the curves
DIVERGED = 4.0  # times the smallest loss so far, for the last few batches on average
BANDWIDTH = 0.4  # of the local fit, in decades of the rate


class Sweep(NamedTuple):
    """What a sweep saw.

    Args:
        rates: tried, in rising order.
        losses: mean loss of the batch at each, smoothed.
        suggestion: the rate to train at; None where the loss never fell.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float | None


def sweep_rates(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[list[Piece], Targets]],
    gradients: Callable[[list[Piece], Targets], float],
    *,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
) -> Sweep:
    """Trains at rising rates until the loss diverges, then puts everything back to the
    bit.

    Weights, buffers, gradients, the optimiser's state and rates, training modes and
    random states are as they were on leaving, whether the sweep ends or fails.

    Args:
        optimizer: its groups keep the ratios of their rates; the largest is swept from
            `low` to `high`.
        batches: at least one; gone through again where there are fewer than `steps`.
        gradients: computes a batch's gradients and returns its mean loss.
    """
    shares = _shares(optimizer)
    raw: list[float] = []
    rates: list[float] = []
    with _restored(network, optimizer):
        for step, (pieces, targets) in zip(range(steps), _again(batches), strict=False):
            rate = low * (high / low) ** (step / max(1, steps - 1))
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share
            optimizer.zero_grad(set_to_none=True)
            loss = gradients(pieces, targets)
            if not math.isfinite(loss):
                break
            optimizer.step()
            raw.append(loss)
            rates.append(rate)
            if np.mean(raw[-3:]) > DIVERGED * min(raw):
                break
    losses, slopes = smooth_losses(np.log10(rates), np.array(raw))
    return Sweep(
        tuple(rates),
        tuple(losses.tolist()),
        suggest_rate(np.array(rates), losses, slopes),
    )


def smooth_losses(decades: Curve, losses: Curve) -> tuple[Curve, Curve]:
    """Value (N,) and slope per decade (N,) of a local linear fit with Gaussian weights
    to losses (N,).
    """
    if len(losses) < 3:
        return losses, np.zeros_like(losses)
    distances = decades[None, :] - decades[:, None]
    weights = np.exp(-0.5 * (distances / BANDWIDTH) ** 2)
    total = np.sum(weights * distances**0, axis=1)
    first = np.sum(weights * distances**1, axis=1)
    second = np.sum(weights * distances**2, axis=1)
    mean = weights @ losses
    moment = np.sum(weights * distances * losses, axis=1)
    determinant = total * second - first**2
    values = (second * mean - first * moment) / determinant
    slopes = (total * moment - first * mean) / determinant
    return values, slopes


def suggest_rate(rates: Curve, losses: Curve, slopes: Curve) -> float | None:
    """The rate of the steepest fall per decade before the loss is smallest; None where
    it never falls.
    """
    if not len(losses):
        return None
    end = int(np.argmin(losses)) + 1
    steepest = int(np.argmin(slopes[:end]))
    if end == 1 or slopes[steepest] >= 0:
        return None
    return float(rates[steepest])


def _again(
    batches: Iterable[tuple[list[Piece], Targets]],
) -> Iterator[tuple[list[Piece], Targets]]:
    """The batches over and over, without keeping them."""
    while True:
        none = True
        for batch in batches:
            none = False
            yield batch
        if none:
            return


def _shares(optimizer: torch.optim.Optimizer) -> list[float]:
    """Each group's rate as a share of the largest; all 1 where none is set."""
    rates = []
    for group in optimizer.param_groups:
        rates.append(float(group.get("peak", group["lr"])))
    largest = max(rates)
    if not largest:
        return [1.0 for _ in rates]
    return [rate / largest for rate in rates]


@contextmanager
def _restored(
    network: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[None]:
    """Everything a sweep touches, put back in place on leaving: other references to the
    tensors stay good.
    """
    import torch

    python_state = random.getstate()
    numpy_state = np.random.get_state()
    put_network_back = _snapshot_network(network)
    put_optimizer_back = _snapshot_optimizer(optimizer)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        put_network_back()
        put_optimizer_back()
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _snapshot_network(network: torch.nn.Module) -> Callable[[], None]:
    """Copies values, gradients and modes; what is returned puts them back."""
    import torch

    tensors = [*network.parameters(), *network.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    modes = [(module, module.training) for module in network.modules()]
    gradients: list[tuple[torch.nn.Parameter, torch.Tensor | None]] = []
    for parameter in network.parameters():
        gradient = None if parameter.grad is None else parameter.grad.clone()
        gradients.append((parameter, gradient))

    def put_back() -> None:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode

    return put_back


def _snapshot_optimizer(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Copies the groups' settings and the state; what is returned puts them back."""
    settings: list[dict[str, object]] = []
    for group in optimizer.param_groups:
        settings.append({key: value for key, value in group.items() if key != "params"})
    state = {
        parameter: _copy_state(entry) for parameter, entry in optimizer.state.items()
    }

    def put_back() -> None:
        for group, values in zip(optimizer.param_groups, settings, strict=True):
            group.update(values)
        optimizer.state.clear()
        optimizer.state.update(state)

    return put_back


def _copy_state(state: dict[str, object]) -> dict[str, object]:
    import torch

    copies: dict[str, object] = {}
    for key, value in state.items():
        copies[key] = value.clone() if isinstance(value, torch.Tensor) else value
    return copies
