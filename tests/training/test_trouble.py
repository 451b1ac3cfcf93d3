"""Numbers that are none, memory that is not there, examples that cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from consoles import RecordingConsole
from pipeline.errors import TrainingError
from pipeline.objectives.class_loss import ClassLoss
from pipeline.training import gradient_accumulation
from pipeline.training.numerics import NonFiniteError
from tiny import PLAN, STAGES, Setting, TinyStore, TinyTask, tiny_task, weights_hash


def test_a_loss_that_is_nan_names_the_batch_and_keeps_the_last_good_state(
    tmp_path: Path,
) -> None:
    setting = Setting(tmp_path, stages=STAGES[:2])
    job = setting.job()
    poisoned = job.train.ids[3]

    class Poisoned(TinyTask):
        def prepare(
            self, decoded: Any, spec: Any, task: Any, draws: Any
        ) -> torch.Tensor:
            x = super().prepare(decoded, spec, task, draws)
            for turn, draw in enumerate(draws or ()):
                if draw.id == poisoned and draw.view == 2:
                    x[turn] = float("nan")
            return x

    bad = replace(job, task=tiny_task(Poisoned()))
    setting.job = lambda console=None: bad  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="loss of nan") as fault:
        setting.train()
    assert poisoned in fault.value.details
    assert len(fault.value.details) <= 8
    resumed = Setting(tmp_path, stages=STAGES[:2]).train()
    whole = Setting(tmp_path / "other", stages=STAGES[:2], every_seconds=1e9).train()
    assert weights_hash(resumed) == weights_hash(whole)


def test_bf16_that_loses_itself_is_done_again_in_fp32_from_the_stages_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[str] = []
    plain = gradient_accumulation.autocast

    def failing(plan: Any) -> Any:
        plans.append(plan.precision)
        return plain(plan)

    def loss(
        self: ClassLoss, model: Any, x: Any, start: int, targets: Any
    ) -> torch.Tensor:
        found = original(self, model, x, start, targets)
        lost = plans[-1] == "bf16" and plans.count("bf16") > 20
        return found * float("nan") if lost else found

    original = ClassLoss.__call__
    monkeypatch.setattr(gradient_accumulation, "autocast", failing)
    monkeypatch.setattr(ClassLoss, "__call__", loss)
    words = RecordingConsole()
    trained = Setting(
        tmp_path, plan=PLAN.model_copy(update={"precision": "bf16"})
    ).train(words)
    assert "again in fp32" in words
    assert trained.state.plan.precision == "fp32"
    assert len(trained.state.results) == len(STAGES)
    assert sorted({row.epoch for row in trained.state.rows}) == [1, 2, 3, 4, 5, 6]
    assert "fp32 from the beginning" in trained.state.notes[0]


def test_want_of_memory_halves_the_batch_and_adds_the_gradients_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    original = ClassLoss.__call__

    def hungry(
        self: ClassLoss, model: Any, x: torch.Tensor, start: int, targets: Any
    ) -> torch.Tensor:
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, model, x, start, targets)

    config = Setting(tmp_path).config
    stage = STAGES[0].model_copy(update={"train": ("head",)})
    whole = Setting(tmp_path / "whole", stages=(stage,), config=config).train()
    monkeypatch.setattr(ClassLoss, "__call__", hungry)
    words = RecordingConsole()
    pieces = Setting(tmp_path / "pieces", stages=(stage,), config=config).train(words)
    assert max(sizes) > 3, "memory never ran out"
    assert "3 at a time from here" in words
    assert pieces.state.plan.batch_size == 3
    assert pieces.state.steps == whole.state.steps


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    from tiny import TinyModel

    model, x, y = (
        TinyModel(),
        torch.rand(7, 3, 8, 8),
        torch.tensor([0, 1, 2, 0, 1, 1, 0]),
    )
    model.stock.eval()
    objective = ClassLoss(0.1, torch.tensor([0.5, 1.0, 2.0]))
    assert objective.weights is not None
    losses = torch.nn.functional.cross_entropy(
        model.run(x), y, label_smoothing=0.1, reduction="none"
    )
    expected = losses @ objective.weights[y] / objective.weights[y].sum()
    total = sum(
        objective(model, x[cut], 0, y[cut]) / objective.total_weight(y)
        for cut in (slice(0, 3), slice(3, 7))
    )  # type: ignore[arg-type]
    assert torch.allclose(torch.as_tensor(total), expected)


def test_no_memory_for_a_single_example_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starved(*_: Any) -> torch.Tensor:
        raise RuntimeError(
            "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"
        )

    monkeypatch.setattr(ClassLoss, "__call__", starved)
    with pytest.raises(TrainingError, match="no memory for a batch of one"):
        Setting(tmp_path).train()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_example_that_cannot_be_loaded_is_named(
    workers: int, tmp_path: Path
) -> None:
    setting = Setting(tmp_path)
    setting.config = setting.config.model_copy(
        update={"plan": setting.config.plan.model_copy(update={"workers": workers})}
    )
    job = setting.job()
    broken = job.train.ids[5]

    class Broken(TinyStore):
        def batch(self, rows: Any) -> torch.Tensor:
            if broken in [self.ids[row] for row in rows]:
                raise OSError("device gone")
            return super().batch(rows)

    bad = replace(job, store=Broken(setting.count))
    setting.job = lambda console=None: bad  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="device gone") as fault:
        setting.train()
    assert [detail.partition(":")[0] for detail in fault.value.details] == [broken]
