"""A learning rate by trying them: a short sweep from a rate that does nothing to one that destroys.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3 (the range test), with rates rising
exponentially. The suggestion is the rate at which the smoothed loss falls fastest per decade: past it, a larger rate
still helps but less; well before the minimum, where training is about to break.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TrainingError

if TYPE_CHECKING:
    import torch

LOW, HIGH = 1e-6, 1.0
STEPS = 80
DIVERGED = 4.0  # times the smallest smoothed loss
SMOOTHING = 0.9  # of the exponential mean over steps


class Sweep(NamedTuple):
    """What a sweep saw.

    Args:
        rates: tried, in rising order.
        losses: smoothed loss after each.
        suggestion: the rate to train at.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    gradients: Callable[[torch.Tensor, torch.Tensor], float],
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

    Raises:
        TrainingError: the loss never fell, so that no rate can be suggested.
    """
    shares = _shares(optimizer)
    raw: list[float] = []
    rates: list[float] = []
    with _restored(network, optimizer):
        for step, (x, targets) in zip(range(steps), _again(batches), strict=False):
            rate = low * (high / low) ** (step / max(1, steps - 1))
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share
            optimizer.zero_grad(set_to_none=True)
            loss = gradients(x, targets)
            if not math.isfinite(loss):
                break
            optimizer.step()
            raw.append(loss)
            rates.append(rate)
            smoothed = smooth(np.array(raw))
            if smoothed[-1] > DIVERGED * smoothed.min():
                break
    losses = smooth(np.array(raw))
    return Sweep(tuple(rates), tuple(losses.tolist()), suggest(np.array(rates), losses))


def smooth(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The exponential mean of losses (N,), corrected for its start (Kingma and Ba 2015, section 3)."""
    mean, smoothed = 0.0, []
    for count, loss in enumerate(losses.tolist(), start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**count))
    return np.array(smoothed)


def suggest(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> float:
    """The rate of the steepest fall of the loss per decade, before the loss is smallest.

    Raises:
        TrainingError: there is no fall.
    """
    end = int(np.argmin(losses)) + 1 if len(losses) else 0
    if end >= 3:
        slopes = np.gradient(losses[:end], np.log10(rates[:end]))
        steepest = int(np.argmin(slopes))
        if slopes[steepest] < 0:
            return float(rates[steepest])
    raise TrainingError(
        "learning rate sweep", found="a loss that never fell", expected="rates at which the network learns",
        mend="set the stage's lr yourself; look at the labels and at the backbone's mean and std",
        details=[f"{rate:.2e}: {loss:.4f}" for rate, loss in zip(rates[::8], losses[::8], strict=True)],
    )  # fmt: skip


def _again(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
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
    moments = {
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
        optimizer.state.update(moments)
        random.setstate(others[0])
        np.random.set_state(others[1])
