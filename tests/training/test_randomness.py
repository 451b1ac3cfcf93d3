"""The same weights with any number of workers, any listing order, cached or not,
interrupted or not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import FinetuneConfig, PlanConfig, StageConfig
from pipeline.tasks.base import RandomDraw
from pipeline.training.determinism import set_random_state
from tiny import PLAN, STAGES, Setting, TinyTask, tiny_task, weights_hash

DEFAULT = Setting(Path()).config


def trained(folder: Path, **changed: Any) -> str:
    return weights_hash(Setting(folder, every_seconds=1e9, **changed).train())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(tmp_path_factory.mktemp("reference"))


def test_the_number_of_workers_changes_nothing(tmp_path: Path, reference: str) -> None:
    config = DEFAULT.model_copy(update={"plan": PlanConfig(workers=2)})
    assert trained(tmp_path, config=config) == reference


def test_the_order_of_listing_changes_nothing(tmp_path: Path, reference: str) -> None:
    assert trained(tmp_path, listing=5) == reference


def test_saving_at_every_step_changes_nothing(tmp_path: Path, reference: str) -> None:
    assert weights_hash(Setting(tmp_path).train()) == reference


def test_a_wordy_process_changes_nothing_and_gets_its_own_randomness_back(
    tmp_path: Path, reference: str
) -> None:
    torch.manual_seed(99)
    torch.rand(7)
    state = torch.random.get_rng_state()
    assert trained(tmp_path) == reference
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_seed_is_another_training(tmp_path: Path, reference: str) -> None:
    assert trained(tmp_path, config=DEFAULT.model_copy(update={"seed": 1})) != reference


@pytest.mark.parametrize("fuse", [False, True])
def test_a_cached_prefix_gives_the_same_bits_at_one_batch_size(
    tmp_path: Path, fuse: bool
) -> None:
    """Batches as large as the cache's chunks, so that the prefix's matrix products are
    the same ones.
    """
    # 32 of them train.
    config, count = DEFAULT.model_copy(update={"batch_size": 32}), 43
    stages = (StageConfig(name="head", train=("head",), epochs=4, lr=1e-2),)
    plan = PLAN.model_copy(update={"batch_size": 32, "fuse": fuse})
    cached = plan.model_copy(
        update={"feature_cache": True, "feature_cache_always": True}
    )
    one = trained(
        tmp_path / "one", config=config, stages=stages, plan=plan, count=count
    )
    other = trained(
        tmp_path / "other", config=config, stages=stages, plan=cached, count=count
    )
    assert any((tmp_path / "other" / "features").iterdir())
    assert one == other


def test_a_cached_prefix_changes_little_at_any_batch_size(tmp_path: Path) -> None:
    cached = PLAN.model_copy(
        update={"feature_cache": True, "feature_cache_always": True}
    )
    one = Setting(tmp_path / "one", every_seconds=1e9).train()
    other = Setting(tmp_path / "other", every_seconds=1e9, plan=cached).train()
    assert torch.allclose(one.answers, other.answers, atol=1e-5)


def test_a_fused_prefix_changes_little_and_leaves_the_network_as_it_was(
    tmp_path: Path,
) -> None:
    plain = PLAN.model_copy(update={"fuse": False})
    one = Setting(tmp_path / "one", every_seconds=1e9, stages=STAGES[:2]).train()
    other = Setting(
        tmp_path / "other", every_seconds=1e9, stages=STAGES[:2], plan=plain
    ).train()
    assert torch.allclose(one.answers, other.answers, atol=1e-5)
    assert not torch.equal(one.answers, other.answers), "nothing was fused"
    assert [r.freeze_digest for r in one.state.results] == [
        r.freeze_digest for r in other.state.results
    ]


def test_balanced_sampling_and_class_weights_count_too(tmp_path: Path) -> None:
    config = FinetuneConfig(
        batch_size=8, patience=0, views=3, sampling="balanced", class_weights="balanced"
    )
    stages = STAGES[1:2]
    assert trained(tmp_path / "a", config=config, stages=stages) == trained(
        tmp_path / "b", config=config, stages=stages, listing=3
    )


def test_every_example_shows_the_view_its_epoch_gives_it(tmp_path: Path) -> None:
    seen: list[RandomDraw] = []

    class Watched(TinyTask):
        def prepare(
            self, decoded: Any, spec: Any, task: Any, draws: Any
        ) -> torch.Tensor:
            seen.extend(draws or ())
            return super().prepare(decoded, spec, task, draws)

    setting = Setting(tmp_path, stages=STAGES[:2], every_seconds=1e9)
    job = replace(setting.job(), task=tiny_task(Watched()))
    setting.job = lambda console=None: job  # type: ignore[method-assign]
    setting.train()
    keys = dict(zip(job.train.ids, job.train.keys.tolist(), strict=True))
    count = len(job.train)
    for epoch in range(4):  # counted over the stages
        shown = seen[epoch * count : (epoch + 1) * count]
        assert sorted(draw.id for draw in shown) == sorted(job.train.ids)
        assert all(draw.view == (epoch + keys[draw.id] % 3) % 3 for draw in shown)


def test_seeding_a_step_leaves_nothing_behind_for_a_gpu_that_is_not_used() -> None:
    """PyTorch notes a call and its stack for later wherever CUDA has not been used: a
    leak if done every step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = torch.rand(3)
        noted = len(torch.cuda._queued_calls)
        set_random_state(7, "cpu")
        assert torch.equal(torch.rand(3), expected)
        assert len(torch.cuda._queued_calls) == noted
