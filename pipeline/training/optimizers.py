"""Optimisers: one group a block and kind of parameter, rates that follow from the step
alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

from pipeline.config import FinetuneConfig

if TYPE_CHECKING:
    import torch

    from pipeline.models.network import BlockedNetwork
    from pipeline.training.stages import StageScope


class ParameterGroup(TypedDict):
    """A group as the optimiser takes it.

    Args:
        names: of the parameters.
        name: of the block, with `/no-decay` where the weights do not decay.
        peak: the highest rate of the stage.
        lr: the rate now.
    """

    params: list[torch.Tensor]
    names: list[str]
    name: str
    peak: float
    lr: float
    weight_decay: float


def max_lrs(
    blocks: list[str],
    scope: StageScope,
    lr: float,
    decay: float,
    body_lr: float | None = None,
) -> dict[str, float]:
    """The peak rate of each trained block: `lr` at the output, times `decay` a block
    going deeper.

    Args:
        body_lr: of the block below the head, where it is another than `lr` times
            `decay`.
    """
    lrs: dict[str, float] = {}
    for depth, name in enumerate(reversed(blocks)):
        if body_lr is None or depth == 0:
            lrs[name] = lr * decay**depth
        else:
            lrs[name] = body_lr * decay ** (depth - 1)
    return {name: lrs[name] for name in scope.trained}


def parameter_groups(
    model: BlockedNetwork, max_lrs: dict[str, float], weight_decay: float
) -> list[ParameterGroup]:
    """Parameter groups `block` and `block/no-decay`: norms and biases, which have one
    dimension, do not decay (He et al. 2019, section 3.1). A parameter tied within
    trained blocks is in the first group that has it.
    """
    seen: set[int] = set()
    groups: list[ParameterGroup] = []
    for block in model.blocks:
        if block.name not in max_lrs:
            continue
        fresh = {}
        for name, p in block.named_parameters():
            if id(p) not in seen and p.requires_grad:
                fresh[name] = p
        seen.update(map(id, fresh.values()))
        for suffix, is_flat, decay in (
            ("", False, weight_decay),
            ("/no-decay", True, 0.0),
        ):
            members = {name: p for name, p in fresh.items() if (p.ndim <= 1) == is_flat}
            if members:
                peak = max_lrs[block.name]
                groups.append(
                    {
                        "params": list(members.values()),
                        "names": list(members),
                        "name": block.name + suffix,
                        "peak": peak,
                        "lr": peak,
                        "weight_decay": decay,
                    }
                )
    return groups


def build_optimizer(
    config: FinetuneConfig, groups: list[ParameterGroup]
) -> torch.optim.Optimizer:
    """The configured optimiser over these groups.

    AdamW: Loshchilov and Hutter 2019. SGD with Nesterov momentum 0.9: Sutskever et al.
    2013.
    """
    import torch

    devices: set[str] = set()
    for group in groups:
        devices.update(parameter.device.type for parameter in group["params"])
    fused = devices <= {"cpu", "cuda"}
    plain = [dict(group) for group in groups]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(plain, lr=0.0, fused=fused)
    return torch.optim.SGD(plain, lr=0.0, momentum=0.9, nesterov=True, fused=fused)


def lr_multiplier(step: int, steps: int, warmup: float) -> float:
    """The share of its peak that a rate has at 0-based `step` of a stage of `steps`: a
    linear rise over the share `warmup` of them, then half a cosine down towards 0
    (Loshchilov and Hutter 2017, equation 5).
    """
    rise = round(steps * warmup)
    if step < rise:
        return (step + 1) / (rise + 1)
    fall = max(1, steps - rise)
    angle = math.pi * (step - rise) / fall
    return 0.5 * (1 + math.cos(angle))


def set_rates(
    optimizer: torch.optim.Optimizer, step: int, steps: int, warmup: float
) -> None:
    """Gives every group its rate for this step."""
    multiplier = lr_multiplier(step, steps, warmup)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * multiplier


def group_layout(optimizer: torch.optim.Optimizer) -> dict[str, list[str]]:
    """Which parameters are in which group: what a resumed optimiser must agree with."""
    layout = {}
    for group in optimizer.param_groups:
        layout[group["name"]] = group["names"]
    return layout


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state by parameter name and kind: `layer.weight:exp_avg`."""
    import torch

    state: dict[str, torch.Tensor] = {}
    for name, parameter in _named(optimizer).items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            if torch.is_tensor(value):
                state[f"{name}:{kind}"] = value
    return state


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]
) -> None:
    """Gives a new optimiser the saved state, in the memory layout of its parameters:
    the same numbers laid out otherwise may take another path through the arithmetic,
    which need not agree to the last bit.
    """
    import torch

    parameters = _named(optimizer)
    for key, value in saved.items():
        name, _, kind = key.rpartition(":")
        parameter = parameters[name]
        same = value.shape == parameter.shape and kind != "step"
        if same:
            like = torch.empty_like(parameter)
        else:
            like = torch.empty_like(value, device=parameter.device)
        optimizer.state[parameter][kind] = like.copy_(value)


def _named(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for group in optimizer.param_groups:
        tensors.update(zip(group["names"], group["params"], strict=True))
    return tensors
