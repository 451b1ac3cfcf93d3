"""Optimisers: groups, rates and their course."""

from __future__ import annotations

import pytest
import torch

from pipeline.config import FinetuneConfig, StageConfig
from pipeline.training import optimizers, stages
from tiny import TinyModel


def built(
    train: str, config: FinetuneConfig, lr: float = 0.1, decay: float = 0.5
) -> torch.optim.Optimizer:
    model = TinyModel()
    scope = stages.resolve_scope(model, StageConfig(name="s", train=(train,), epochs=1))  # type: ignore[arg-type]
    stages.apply_scope(model, scope)  # type: ignore[arg-type]
    max_lrs = optimizers.max_lrs(
        [block.name for block in model.blocks], scope, lr, decay
    )
    return optimizers.build_optimizer(
        config, optimizers.parameter_groups(model, max_lrs, config.weight_decay)
    )  # type: ignore[arg-type]


def test_rates_fall_block_by_block_and_norms_and_biases_do_not_decay() -> None:
    groups = {
        g["name"]: g
        for g in built("all", FinetuneConfig(weight_decay=0.3)).param_groups
    }
    assert {name: g["peak"] for name, g in groups.items() if "/" not in name} == {
        "low": 0.0125,
        "mid": 0.025,
        "top": 0.05,
        "head": 0.1,
    }
    assert groups["low"]["names"] == ["low.0.weight"]
    assert groups["low/no-decay"]["names"] == [
        "low.0.bias",
        "low.1.weight",
        "low.1.bias",
    ]
    assert {g["weight_decay"] for name, g in groups.items() if "/" in name} == {0.0}
    assert {g["weight_decay"] for name, g in groups.items() if "/" not in name} == {0.3}


def test_the_rate_rises_then_falls_along_half_a_cosine() -> None:
    course = [optimizers.lr_multiplier(step, 100, 0.1) for step in range(100)]
    assert course[:10] == sorted(course[:10])
    assert course[10] == 1
    assert course[10:] == sorted(course[10:], reverse=True)
    assert course[55] == pytest.approx(0.5)
    assert 0 < course[-1] < 0.001
    assert optimizers.lr_multiplier(0, 1, 0.0) == 1


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_moments_come_back_as_they_were(kind: str) -> None:
    config = FinetuneConfig(optimizer=kind)
    one, other = built("last:1", config), built("last:1", config)
    for group in one.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn_like(parameter)
    one.step()
    optimizers.load_optimizer_state(other, optimizers.optimizer_state(one))
    assert (
        optimizers.optimizer_state(one).keys()
        == optimizers.optimizer_state(other).keys()
        != set()
    )
    assert all(
        torch.equal(value, optimizers.optimizer_state(other)[key])
        for key, value in optimizers.optimizer_state(one).items()
    )
    assert optimizers.group_layout(one) == optimizers.group_layout(other)


def test_the_body_has_a_rate_of_its_own_where_one_is_set() -> None:
    scope = stages.StageScope(
        trained=("a", "b", "head"), frozen=(), boundary=0, batchnorm=False
    )
    found = optimizers.max_lrs(["a", "b", "head"], scope, 1e-3, 0.5, 2e-4)
    assert found == {"a": 1e-4, "b": 2e-4, "head": 1e-3}
