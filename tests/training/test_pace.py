"""The pace: a stage far slower than its plan says so and has the plan measured anew;
others leave it alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from consoles import RecordingConsole
from pipeline.config import FinetuneConfig, PlanConfig
from pipeline.context import SilentConsole
from pipeline.objectives.class_loss import ClassLoss
from pipeline.training import plan, throughput
from pipeline.training.plan import ChosenPlan, MeasuredTrial, PlanSample, TrainingPlan
from pipeline.training.throughput import step_share
from tiny import LABELS, Setting, TinyModel, tiny_task

SHARES = (0.4, 0.3, 0.2, 0.1)


@pytest.fixture(autouse=True)
def every_step_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "LEAST_SECONDS", 0.0)


def setting(folder: Path, seconds: float, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """A training whose plan was remembered as taking so many seconds an example."""
    config = FinetuneConfig(
        batch_size=8,
        patience=0,
        views=3,
        plan=PlanConfig(device="cpu", precision="fp32", threads=1),
    )

    def step(
        model: Any, sample: PlanSample, candidate: TrainingPlan, **other: Any
    ) -> MeasuredTrial:
        return MeasuredTrial(candidate, seconds * len(sample.x), 0.7, 100)

    monkeypatch.setattr(plan, "_step", step)
    monkeypatch.setattr(plan, "_shares", lambda *_: SHARES)
    sample = PlanSample(
        torch.zeros(4, 3, 8, 8), torch.arange(4) % len(LABELS), ClassLoss(0.1, None)
    )
    chosen = plan.choose_plan(
        TinyModel, tiny_task(), sample, config, folder, SilentConsole()
    )  # type: ignore[arg-type]
    assert plans(folder), "the measurement was not remembered"
    return Setting(folder, config=config, plan=chosen, every_seconds=1e9)


def plans(folder: Path) -> list[Path]:
    return list((folder / "plans").glob("*.json"))


def test_a_stage_at_less_than_half_the_planned_speed_says_so_and_the_plan_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, words = setting(tmp_path, 1e-9, monkeypatch), RecordingConsole()
    trained = slow.train(words)
    assert "of the planned speed" in words
    assert not plans(tmp_path)
    assert trained.state.plan == slow.plan, "the running training keeps its own"


def test_a_stage_at_the_planned_speed_leaves_the_plan_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, words = setting(tmp_path, 1e3, monkeypatch), RecordingConsole()
    usual.train(words)
    assert "planned speed" not in words
    assert plans(tmp_path)


@pytest.mark.slow
def test_another_arithmetic_than_the_remembered_is_not_judged_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, words = setting(tmp_path, 1e-9, monkeypatch), RecordingConsole()
    slow.plan = slow.plan.model_copy(update={"threads": 2})
    slow.train(words)
    assert "planned speed" not in words


@pytest.mark.parametrize(
    ("start", "boundary", "expected"),
    [
        (0, 0, 1.0),
        (0, 3, (1.0 + 2 * 0.1) / 3),  # everything forward, the head alone backward
        (3, 3, 0.1),  # the prefix was computed once
        (2, 2, 0.3),
    ],
)
def test_a_stage_is_compared_with_what_its_own_blocks_take(
    start: int, boundary: int, expected: float
) -> None:
    chosen = ChosenPlan(plan=TrainingPlan(), seconds_per_example=1.0, shares=SHARES)
    assert step_share(chosen, start, boundary) == pytest.approx(expected)


def test_without_shares_only_the_whole_network_is_compared() -> None:
    chosen = ChosenPlan(plan=TrainingPlan(), seconds_per_example=1.0)
    assert step_share(chosen, 0, 0) == 1.0
    assert step_share(chosen, 0, 2) is None
