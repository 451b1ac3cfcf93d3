"""BatchNorm statistics that move are those of the weights they are saved with, however
small the momentum.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import update_bn

from pipeline.config import StageConfig
from pipeline.objectives.class_loss import ClassLoss
from pipeline.training import batchnorm, gradient_accumulation, stages
from pipeline.training.batch_source import BatchSource, Piece
from tiny import PLAN, STAGES, Setting, TinyModel

EVERYTHING = StageConfig(
    name="all", train=("all",), epochs=2, lr=1e-2, batchnorm="train"
)


def statistics(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: value.clone()
        for name, value in model.stock.state_dict().items()
        if "running" in name
    }


def inputs(setting: Setting, model: Any) -> list[torch.Tensor]:
    job = setting.job()
    feed = BatchSource(job, job.train, None, 0)
    return [
        feed.batch(cut, None)
        for cut in batchnorm.sample_batches(job.train.keys, job.config.seed)
    ]


def test_the_estimate_is_that_of_pytorch(tmp_path: Path) -> None:
    model = TinyModel()
    scope = stages.resolve_scope(model, EVERYTHING)
    stages.apply_scope(model, scope)
    batches = inputs(Setting(tmp_path), model)
    expected = copy.deepcopy(model)
    for module in expected.stock.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    update_bn(batches, torch.nn.Sequential(*expected.stock.values()))
    batchnorm.estimate_statistics(model, scope, batches, PLAN)
    for name, value in statistics(expected).items():
        assert torch.allclose(statistics(model)[name], value, rtol=1e-5, atol=1e-6), (
            name
        )
    assert not stages.wrong_modes(model, scope)
    assert {
        m.momentum for m in model.stock.modules() if isinstance(m, torch.nn.BatchNorm2d)
    } == {0.1}


def test_statistics_of_frozen_blocks_stay(tmp_path: Path) -> None:
    model = TinyModel()
    scope = stages.resolve_scope(
        model, STAGES[1].model_copy(update={"batchnorm": "train"})
    )
    stages.apply_scope(model, scope)
    before = statistics(model)
    batchnorm.estimate_statistics(model, scope, inputs(Setting(tmp_path), model), PLAN)
    after = statistics(model)
    moved = {
        name.split(".")[0]
        for name in before
        if not torch.equal(before[name], after[name])
    }
    assert moved == {"top"}


@pytest.mark.parametrize("momentum", [0.1, 0.01, 1e-6])
def test_the_saved_statistics_are_those_of_the_saved_weights(
    momentum: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a small momentum half of the running statistics would be their initial
    values after a short training.
    """
    monkeypatch.setattr(
        "tiny.nn.BatchNorm2d",
        lambda count: torch.nn.modules.batchnorm.BatchNorm2d(count, momentum=momentum),
    )
    setting = Setting(tmp_path, stages=(EVERYTHING,))
    model = setting.train().model
    saved = statistics(model)
    batchnorm.estimate_statistics(
        model, stages.resolve_scope(model, EVERYTHING), inputs(setting, model), PLAN
    )
    for name, value in statistics(model).items():
        assert torch.allclose(saved[name], value, rtol=1e-5, atol=1e-7), name


def test_want_of_memory_moves_no_statistics_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = TinyModel()
    stages.apply_scope(model, stages.resolve_scope(model, EVERYTHING))
    before = {name: value.clone() for name, value in model.stock.state_dict().items()}
    original = ClassLoss.__call__
    pieces: list[int] = []

    def hungry(
        self: ClassLoss, network: Any, x: torch.Tensor, start: int, targets: Any
    ) -> torch.Tensor:
        pieces.append(len(x))
        loss = original(self, network, x, start, targets)
        if len(pieces) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    monkeypatch.setattr(ClassLoss, "__call__", hungry)
    plan = PLAN.model_copy(update={"batch_size": 4})
    with pytest.raises(gradient_accumulation.OutOfMemory):
        gradient_accumulation.accumulate(
            model,
            ClassLoss(0.0, None),
            plan,
            0,
            [Piece(np.arange(8), torch.rand(8, 3, 8, 8))],
            torch.arange(8) % 3,
        )
    assert len(pieces) == 2, "memory ran out in the first piece"
    for name, value in model.stock.state_dict().items():
        assert torch.equal(value, before[name]), name
