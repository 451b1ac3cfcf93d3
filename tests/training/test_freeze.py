"""The freeze proof: each classic leak is let in on purpose and must be caught, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import StageConfig
from pipeline.errors import TrainingError
from pipeline.training import fingerprint, freeze, optimizers, stages
from pipeline.training.stages import StageScope
from tiny import STAGES, Setting, TinyModel, TinyTask, tiny_task

HEAD = (STAGES[0],)


def frozen_model(train: str = "head") -> tuple[Any, StageScope]:
    model = TinyModel()
    scope = stages.resolve_scope(model, StageConfig(name="s", train=(train,), epochs=1))  # type: ignore[arg-type]
    stages.apply_scope(model, scope)  # type: ignore[arg-type]
    return model, scope


def test_an_honest_stage_passes_and_its_digest_names_what_was_frozen(
    tmp_path: Path,
) -> None:
    results = Setting(tmp_path).train().state.results
    assert [result.frozen for result in results] == [
        ("low", "mid", "top"),
        ("low", "mid"),
        (),
    ]
    assert len({result.freeze_digest for result in results}) == 3


def test_frozen_parameters_have_no_gradient_and_no_group() -> None:
    model, scope = frozen_model("last:1")
    groups = optimizers.parameter_groups(model, {"top": 0.1, "head": 0.1}, 0.01)
    assert {name.partition(".")[0] for group in groups for name in group["names"]} == {
        "top",
        "head",
    }
    assert not any(
        p.requires_grad for block in model.blocks[:2] for p in block.parameters()
    )
    assert scope.boundary == 2


def test_statistics_moving_in_a_frozen_block_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "set_modes", lambda model, scope: model.stock.train())
    monkeypatch.setattr(freeze, "check_modes", lambda *_: None)
    with pytest.raises(TrainingError, match="frozen tensors changed") as fault:
        Setting(tmp_path, stages=HEAD).train()
    assert "low.1.running_mean" in fault.value.details
    assert "low.1.num_batches_tracked" in fault.value.details


def test_train_called_behind_the_stages_back_is_caught(tmp_path: Path) -> None:
    """Even in a block without BatchNorm, where dropout would leave no trace."""
    models: list[TinyModel] = []

    class Meddling(TinyTask):
        def prepare(self, *arguments: Any) -> torch.Tensor:
            models[-1].stock["mid"].train()
            return super().prepare(*arguments)

    setting = Setting(tmp_path, stages=HEAD)
    job = setting.job()

    def build(pretrained: bool) -> TinyModel:
        models.append(TinyModel())
        return models[-1]

    meddled = replace(job, task=tiny_task(Meddling()), build=build)
    setting.job = lambda console=None: meddled  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="behind the stage's back") as fault:
        setting.train()
    assert fault.value.details == ("mid",)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    ],
    ids=["weight decay", "momentum"],
)
def test_an_optimiser_that_reaches_frozen_parameters_is_caught(
    optimizer: Callable[..., Any],
) -> None:
    model = TinyModel()
    reaching = optimizer(list(model.stock.parameters()))
    for parameter in model.stock.parameters():
        parameter.grad = torch.ones_like(parameter)
    reaching.step()  # an earlier stage, in which everything trained
    scope = stages.resolve_scope(model, HEAD[0])  # type: ignore[arg-type]
    proof = freeze.checksums(model, scope)  # type: ignore[arg-type]
    for parameter in model.stock.parameters():
        parameter.grad = torch.zeros_like(parameter)
    reaching.step()
    with pytest.raises(TrainingError) as fault:
        freeze.verify_frozen(proof, model, scope, "head")  # type: ignore[arg-type]
    assert "top.0.weight" in fault.value.details
    assert not any("head" in name or "running" in name for name in fault.value.details)


def test_two_frozen_tensors_that_change_places_are_caught() -> None:
    model, scope = frozen_model()
    low, mid = model.stock["low"][1], model.stock["mid"][1]
    with torch.no_grad():
        low.bias.fill_(1)
        mid.bias.fill_(2)
        proof = freeze.checksums(model, scope)
        low.bias.fill_(2)
        mid.bias.fill_(1)
    with pytest.raises(TrainingError) as fault:
        freeze.verify_frozen(proof, model, scope, "head")
    assert set(fault.value.details) == {"low.1.bias", "mid.1.bias"}


def test_weights_tied_across_the_boundary_are_refused() -> None:
    model = TinyModel()
    model.stock["top"][1].weight = model.stock["head"][1].bias = torch.nn.Parameter(
        torch.zeros(3)
    )
    with pytest.raises(TrainingError, match="tied weights") as fault:
        stages.resolve_scope(model, HEAD[0])  # type: ignore[arg-type]
    assert fault.value.details == ("head.1.bias is top.1.weight",)


def test_two_views_of_one_memory_are_tied_too() -> None:
    model = TinyModel()
    shared = torch.zeros(11)
    model.stock["top"][1].weight.data, model.stock["head"][1].bias.data = (
        shared[:8],
        shared[8:],
    )
    with pytest.raises(TrainingError, match="tied weights"):
        stages.resolve_scope(model, HEAD[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [0, 3, 4096 * 8 + 5, 70_000, 99_999])
def test_a_fingerprint_tells_of_a_single_bit(place: int) -> None:
    data = torch.randint(0, 256, (100_000,), dtype=torch.uint8).numpy()
    before = fingerprint.fingerprint(data)
    data[place] ^= 0x80
    assert fingerprint.fingerprint(data) != before
    data[place] ^= 0x80
    assert fingerprint.fingerprint(data) == before


def test_a_fingerprint_tells_of_two_flipped_signs() -> None:
    data = torch.randn(100_000)
    before = fingerprint.fingerprint(fingerprint.raw_bytes(data))
    data[1], data[3] = -data[1], -data[3]
    assert fingerprint.fingerprint(fingerprint.raw_bytes(data)) != before


def test_a_fingerprint_sees_logical_order_type_and_shape() -> None:
    x = torch.randn(4, 3, 5, 5)
    named = {
        "plain": x,
        "laid out otherwise": x.to(memory_format=torch.channels_last),
        "reshaped": x.reshape(12, 25),
    }
    marks = fingerprint.of_tensors(named)
    assert marks["plain"] == marks["laid out otherwise"] != marks["reshaped"]
