"""A learning rate by trying them: a short sweep from a rate that does nothing to one that destroys.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3 (the range test), with rates rising
exponentially. The suggestion is the rate at which the loss falls fastest per decade: past it, a larger rate still
helps but less; well before the minimum, where training is about to break. Value and slope come from a local linear
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


def find(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[list[Piece], torch.Tensor]],
    gradients: Callable[[list[Piece], torch.Tensor], float],
    *,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
) -> Sweep:
    """Trains at rising rates until the loss diverges, then puts everything back to the bit.

    Weights, buffers, gradients, the optimiser's state and rates, training modes and random states are as they were
    on leaving, whether the sweep ends or fails.

    Args:
        optimizer: its groups keep the ratios of their rates; the largest is swept from `low` to `high`.
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
    losses, slopes = smooth(np.log10(rates), np.array(raw))
    return Sweep(tuple(rates), tuple(losses.tolist()), suggest(np.array(rates), losses, slopes))


def smooth(decades: Curve, losses: Curve) -> tuple[Curve, Curve]:
    """Value (N,) and slope per decade (N,) of a local linear fit with Gaussian weights to losses (N,)."""
    if len(losses) < 3:
        return losses, np.zeros_like(losses)
    away = decades[None, :] - decades[:, None]
    weights = np.exp(-0.5 * (away / BANDWIDTH) ** 2)
    total, first, second = (np.sum(weights * away**power, axis=1) for power in (0, 1, 2))
    mean, moment = weights @ losses, np.sum(weights * away * losses, axis=1)
    determinant = total * second - first**2
    return (second * mean - first * moment) / determinant, (total * moment - first * mean) / determinant


def suggest(rates: Curve, losses: Curve, slopes: Curve) -> float | None:
    """The rate of the steepest fall per decade before the loss is smallest; None where it never falls."""
    end = int(np.argmin(losses)) + 1 if len(losses) else 0
    steepest = int(np.argmin(slopes[:end])) if end else 0
    return float(rates[steepest]) if end > 1 and slopes[steepest] < 0 else None


def _again(batches: Iterable[tuple[list[Piece], torch.Tensor]]) -> Iterator[tuple[list[Piece], torch.Tensor]]:
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
    rates = [float(group.get("peak", group["lr"])) for group in optimizer.param_groups]
    largest = max(rates)
    return [rate / largest if largest else 1.0 for rate in rates]


@contextmanager
def _restored(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Everything a sweep touches, put back in place on leaving: other references to the tensors stay good."""
    import torch

    tensors = [*network.parameters(), *network.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    gradients = [(p, None if p.grad is None else p.grad.clone()) for p in network.parameters()]
    modes = [(module, module.training) for module in network.modules()]
    groups = [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
    optimizer_state = {
        parameter: {key: value.clone() if torch.is_tensor(value) else value for key, value in state.items()}
        for parameter, state in optimizer.state.items()
    }
    others = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
        for group, settings in zip(optimizer.param_groups, groups, strict=True):
            group.update(settings)
        optimizer.state.clear()
        optimizer.state.update(optimizer_state)
        random.setstate(others[0])
        np.random.set_state(others[1])
