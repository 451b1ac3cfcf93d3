"""A frozen prefix's outputs, kept: the same numbers as without, whoever asks, and never
more work.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import MobileNetV2

from consoles import RecordingConsole
from disks import small_disk, small_files
from pipeline.config import StageConfig
from pipeline.context import SilentConsole
from pipeline.modalities.image.settings import ImageAugmentConfig
from pipeline.models.providers.torchvision import blocks
from pipeline.records import ImageInputSpec
from pipeline.tasks.base import RandomDraw
from pipeline.tasks.image_classification import TASK
from pipeline.tasks.image_classification.codec import ImageCodec
from pipeline.tasks.image_classification.settings import ImageClassificationConfig
from pipeline.training import feature_cache, sampling
from pipeline.training.plan import TrainingPlan, autocast, place_network, to_input
from tiny import CONFIG, Setting, TinyTask, elsewhere, weights_hash
from tiny import PLAN as TINY_PLAN

SPEC = ImageInputSpec(size=32, resize=40)
PLAN = TrainingPlan(threads=1, feature_cache_always=True, torch=torch.__version__)
KEEPING = TINY_PLAN.model_copy(
    update={"feature_cache": True, "feature_cache_always": True}
)
VIEWS = 3
# Expansion, channels, repetitions and stride, as torchvision describes the network.
FEW_BLOCKS = [[1, 16, 1, 1], [2, 8, 3, 2], [2, 12, 4, 2], [2, 16, 3, 1]]
PROBED = 2  # examples looked at before anything is kept


class Store:
    """Noise by id."""

    def __init__(self, count: int) -> None:
        self.ids = tuple(
            hashlib.md5(bytes([number])).hexdigest() for number in range(count)
        )
        self.pixels = torch.from_numpy(
            np.random.default_rng(0).integers(
                0, 256, (count, 40, 40, 3), dtype=np.uint8
            )
        )

    def batch(self, rows: sampling.Rows) -> torch.Tensor:
        return self.pixels[torch.from_numpy(rows)]


class Counting(ImageCodec):
    """Counts the examples it prepares."""

    def __init__(self) -> None:
        super().__init__("image-classification")
        self.prepared = 0

    def prepare(self, decoded: torch.Tensor, *rest: Any) -> torch.Tensor:
        self.prepared += len(decoded)
        return super().prepare(decoded, *rest)


def build_small() -> blocks.TorchvisionNetwork:
    """A stock network with all of its kinds of blocks, narrow and of fewer of them."""
    network = MobileNetV2(num_classes=3, inverted_residual_setting=FEW_BLOCKS)
    return blocks.TorchvisionNetwork("mobilenet_v2", 3, network, {})


@pytest.fixture(scope="module")
def model() -> blocks.TorchvisionNetwork:
    built = build_small()
    # As if it had seen data: statistics that differ from batch to batch must not
    # matter.
    with torch.no_grad():
        for buffer in built.buffers():
            if buffer.is_floating_point():
                buffer.add_(
                    torch.rand(buffer.shape, generator=torch.Generator().manual_seed(0))
                    * 0.1
                )
    return built.eval()


def opened(
    model: blocks.TorchvisionNetwork,
    scratch: Path,
    *,
    boundary: int = -1,
    store: Any = None,
    rows: Any = None,
    task: Any = None,
    views: int | None = VIEWS,
    plan: TrainingPlan = PLAN,
    console: Any = None,
    **other: Any,
) -> feature_cache.FeatureStore | None:
    store = store or Store(64)
    prefix = feature_cache.FrozenPrefix(
        model=model,
        boundary=boundary % len(model.blocks),
        store=store,
        rows=np.arange(len(store.ids)) if rows is None else rows,
        task=TASK if task is None else replace(TASK, codec=task),
        spec=other.pop("spec", SPEC),
        task_config=other.pop("task_config", ImageClassificationConfig()),
        seed=other.pop("seed", 0),
        views=views,
        plan=plan,
    )
    weights = other.pop("key", "weights")
    console = console or SilentConsole()
    return feature_cache.open_features(prefix, weights, scratch, console, **other)


def kept(*arguments: Any, **options: Any) -> feature_cache.FeatureStore:
    found = opened(*arguments, **options)
    assert found is not None
    return found


def shown(store: Store, epoch: int, rows: sampling.Rows) -> sampling.Rows:
    return sampling.views(sampling.keys(store.ids), epoch, VIEWS)[rows]


def computed(
    model: blocks.TorchvisionNetwork,
    store: Store,
    rows: sampling.Rows,
    views: sampling.Rows | None,
    boundary: int,
    plan: TrainingPlan = PLAN,
) -> torch.Tensor:
    """What a stage without the cache would give to its first trained block."""
    draws = (
        None
        if views is None
        else [
            RandomDraw(0, int(v), store.ids[r])
            for r, v in zip(rows, views, strict=True)
        ]
    )
    x = TASK.codec.prepare(store.batch(rows), SPEC, ImageClassificationConfig(), draws)
    with torch.inference_mode(), autocast(plan):
        return model.run(to_input(x, plan), 0, boundary % len(model.blocks))


def epochs(
    store: Store, count: int, size: int
) -> list[tuple[sampling.Rows, sampling.Rows]]:
    """The batches of some epochs and their views."""
    keys, found = sampling.keys(store.ids), []
    for epoch in range(count):
        for rows in sampling.batches(sampling.shuffle(keys, 0, epoch), size):
            found.append((rows, shown(store, epoch, rows)))
    return found


# --- the same numbers -----------------------------------------------------------------
@pytest.mark.parametrize("boundary", [2, 10, -1])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels-last"])
@pytest.mark.parametrize("fuse", [False, True])
def test_equal_to_the_bit_in_fp32_at_one_batch_size(
    model: blocks.TorchvisionNetwork,
    tmp_path: Path,
    boundary: int,
    memory_format: Any,
    fuse: bool,
) -> None:
    plan = PLAN.model_copy(update={"memory_format": memory_format, "fuse": fuse})
    place_network(model, plan)
    store = Store(2 * feature_cache.CHUNK)
    if fuse:
        model.fuse(
            torch.zeros(1, 3, 32, 32), [boundary % len(model.blocks)], activations=True
        )
    cached = kept(model, tmp_path, boundary=boundary, store=store, plan=plan)
    for rows, views in epochs(store, VIEWS + 1, feature_cache.CHUNK):
        assert torch.equal(
            cached.batch(rows, views),
            computed(model, store, rows, views, boundary, plan),
        )
    model.unfuse()
    place_network(model, PLAN)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels-last"])
def test_outputs_come_back_in_the_plans_memory_format(
    model: blocks.TorchvisionNetwork,
    tmp_path: Path,
    memory_format: Any,
    precision: Any,
) -> None:
    plan = PLAN.model_copy(
        update={"memory_format": memory_format, "precision": precision}
    )
    place_network(model, plan)
    store = Store(4)
    rows = np.array([2, 0])
    found = kept(model, tmp_path, boundary=10, store=store, views=None, plan=plan)
    features = found.batch(rows, None)
    place_network(model, PLAN)
    wanted = (
        torch.channels_last
        if memory_format == "channels-last"
        else torch.contiguous_format
    )
    assert isinstance(features, torch.Tensor)
    assert features.shape[2] > 1
    assert features.is_contiguous(memory_format=wanted)


def test_within_a_few_last_bits_at_another_batch_size(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store = Store(45)
    cached = kept(model, tmp_path, store=store)
    for rows, views in epochs(store, 2, 7):
        torch.testing.assert_close(
            cached.batch(rows, views),
            computed(model, store, rows, views, -1),
            rtol=1e-4,
            atol=1e-5,
        )


def test_within_its_precision_in_bf16(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    plan = PLAN.model_copy(update={"precision": "bf16"})
    store = Store(20)
    cached = kept(model, tmp_path, store=store, plan=plan)
    rows, views = epochs(store, 1, 20)[0]
    found = cached.batch(rows, views)
    assert found.dtype == torch.bfloat16
    exact = computed(model, store, rows, views, -1)
    assert (found.float() - exact).norm() / exact.norm() < 0.03
    torch.testing.assert_close(
        found.float(),
        computed(model, store, rows, views, -1, plan).float(),
        rtol=0.05,
        atol=0.02,
    )


def test_the_plain_presentation_has_no_views(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store = Store(feature_cache.CHUNK)
    cached = kept(model, tmp_path, store=store, views=None)
    by_id = np.array(sorted(range(len(store.ids)), key=lambda row: store.ids[row]))
    assert torch.equal(
        cached.batch(by_id, None), computed(model, store, by_id, None, -1)
    )


def test_what_is_kept_does_not_depend_on_who_asks_first(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store = Store(50)
    there, back = (
        kept(model, tmp_path / "a", store=store),
        kept(model, tmp_path / "b", store=store),
    )
    asked = epochs(store, VIEWS, 9)
    forth = [there.batch(rows, views) for rows, views in asked]
    again = [back.batch(rows, views) for rows, views in reversed(asked)]
    assert all(torch.equal(a, b) for a, b in zip(forth, reversed(again), strict=True))


def test_nor_on_the_order_in_which_examples_were_listed(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store = Store(50)
    turned = np.random.default_rng(1).permutation(50)
    there, back = (
        kept(model, tmp_path, store=store),
        kept(model, tmp_path, store=store, rows=turned),
    )
    rows, views = epochs(store, 1, 50)[0]
    assert torch.equal(there.batch(rows, views), back.batch(rows, views))
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_some_of_the_stores_rows_will_do(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store = Store(30)
    some = np.array([20, 3, 7, 11, 29])
    cached = kept(model, tmp_path, store=store, rows=some)
    found = cached.batch(np.array([29, 3]), shown(store, 0, np.array([29, 3])))
    expected = computed(model, store, some, shown(store, 0, some), -1)[[4, 1]]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_prefix_left_in_train_mode_is_computed_in_eval_and_left_as_it_was(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store = Store(8)
    rows, views = epochs(store, 1, 8)[0]
    expected = kept(model, tmp_path / "a", store=store).batch(rows, views)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    try:
        found = kept(model, tmp_path / "b", store=store).batch(rows, views)
        assert all(module.training for module in model.stock.modules())
    finally:
        model.eval()
    assert torch.equal(found, expected)
    assert all(
        torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers()
    )


# --- never more work ------------------------------------------------------------------
def test_only_views_that_are_shown_are_computed_and_only_once(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store, task = Store(40), Counting()
    cached = kept(model, tmp_path, store=store, task=task)
    task.prepared = 0
    for shown_epochs, expected in (
        (1, 40),
        (2, 80),
        (VIEWS, VIEWS * 40),
        (VIEWS + 4, VIEWS * 40),
    ):
        for rows, views in epochs(store, shown_epochs, 8):
            cached.batch(rows, views)
        assert task.prepared == expected


def test_reopened_it_computes_nothing(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store, task = Store(40), Counting()
    rows, views = epochs(store, 1, 40)[0]
    first = kept(model, tmp_path, store=store).batch(rows, views)
    assert torch.equal(
        kept(model, tmp_path, store=store, task=task).batch(rows, views), first
    )
    assert task.prepared == 0


def test_loader_threads_may_ask_at_once(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store, task, found = Store(40), Counting(), {}
    cached = kept(model, tmp_path, store=store, task=task)
    task.prepared = 0
    rows, views = epochs(store, 1, 40)[0]

    def ask(turn: int) -> None:
        found[turn] = cached.batch(rows, views)

    threads = [threading.Thread(target=ask, args=(turn,)) for turn in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert task.prepared == 40
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


CHANGES: dict[str, dict[str, Any]] = {
    "weights": {"key": "others"},
    "boundary": {"boundary": 5},
    "seed": {"seed": 1},
    "number of views": {"views": 2},
    "size": {"spec": SPEC.model_copy(update={"size": 40})},
    "augmentation": {
        "task_config": ImageClassificationConfig(augment=ImageAugmentConfig(hflip=0.3))
    },
    "memory format": {
        "plan": PLAN.model_copy(update={"memory_format": "channels-last"})
    },
    "fused operations": {"plan": PLAN.model_copy(update={"fuse": True})},
    "precision": {"plan": PLAN.model_copy(update={"precision": "bf16"})},
    "examples": {"store": Store(41)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_training_has_its_own(
    model: blocks.TorchvisionNetwork, tmp_path: Path, change: str
) -> None:
    kept(model, tmp_path, store=Store(40))
    kept(model, tmp_path, **{"store": Store(40), **CHANGES[change]})
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_what_another_version_of_the_engine_computed_is_not_believed(
    model: blocks.TorchvisionNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(model, tmp_path)
    monkeypatch.setattr(feature_cache, "ENGINE", feature_cache.ENGINE + 1)
    kept(model, tmp_path)
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_how_much_memory_a_batch_may_take_changes_nothing(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    kept(model, tmp_path)
    kept(model, tmp_path, plan=PLAN.model_copy(update={"batch_size": 4}))
    assert len(list((tmp_path / "features").iterdir())) == 1


# --- a later stage's outputs, kept on the way -----------------------------------------
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_lower_store_is_filled_on_the_way_and_no_number_differs(
    model: blocks.TorchvisionNetwork, tmp_path: Path, precision: Any
) -> None:
    plan = PLAN.model_copy(update={"precision": precision, "fuse": True})
    place_network(model, plan)
    boundaries = [4, 11, len(model.blocks) - 1]
    exact = precision == "fp32"
    store = Store(45)
    asked = epochs(store, 2, 9)

    def read(found: feature_cache.FeatureStore) -> list[torch.Tensor]:
        return [found.batch(rows, views) for rows, views in asked]

    alone: dict[int, list[torch.Tensor]] = {}
    for boundary in boundaries:
        model.fuse(torch.zeros(1, 3, 32, 32), [boundary], activations=exact)
        folder = tmp_path / f"alone-{boundary}"
        alone[boundary] = read(
            kept(model, folder, boundary=boundary, store=store, plan=plan)
        )

    model.fuse(torch.zeros(1, 3, 32, 32), boundaries, activations=exact)
    task = Counting()
    low, middle, high = (
        kept(model, tmp_path, boundary=boundary, store=store, plan=plan, task=task)
        for boundary in boundaries
    )
    high.begin_from(middle)
    middle.begin_from(low)
    task.prepared = 0
    found = [read(one) for one in (high, middle, low)]
    assert task.prepared == 2 * 45, "something was computed a second time"
    for boundary, outputs in zip(reversed(boundaries), found, strict=True):
        for a, b in zip(outputs, alone[boundary], strict=True):
            assert torch.equal(a, b), boundary
    model.unfuse()
    place_network(model, PLAN)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is prepared for a network from here on: the draw of each picture, or None."""
    draws_seen: list[str] = []
    original = TinyTask.prepare

    def noted(
        self: TinyTask, decoded: Any, spec: Any, task: Any, draws: Any
    ) -> torch.Tensor:
        shown = [None] * len(decoded) if draws is None else draws
        draws_seen.extend(str(draw) for draw in shown)
        return original(self, decoded, spec, task, draws)

    monkeypatch.setattr(TinyTask, "prepare", noted)
    return draws_seen


def test_unfreezing_gradually_runs_no_frozen_block_twice_for_the_same_view(
    tmp_path: Path, prepared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = tuple(
        StageConfig(name=f"last-{count}", train=(f"last:{count}",), epochs=2, lr=1e-3)
        for count in (0, 1, 2)
    )
    stages = (stages[0].model_copy(update={"train": ("head",)}), *stages[1:])
    trained = Setting(
        tmp_path / "a", stages=stages, plan=KEEPING, every_seconds=1e9
    ).train()
    once = len(prepared)
    prepared.clear()
    monkeypatch.setattr(feature_cache.FeatureStore, "begin_from", lambda *_: None)
    again = Setting(
        tmp_path / "b", stages=stages, plan=KEEPING, every_seconds=1e9
    ).train()
    assert weights_hash(again) == weights_hash(trained)
    # Three views of 33 examples to train on and the plain one of 11; the rest are probes.
    needed = 3 * 33 + 11
    assert needed <= once < needed + 20
    assert len(prepared) >= 2 * needed, "the stages did not compute their own"


def test_a_solved_head_leaves_what_a_later_stage_of_the_only_view_begins_from(
    tmp_path: Path, prepared: list[str]
) -> None:
    config = CONFIG.model_copy(update={"views": 1, "head_solver": "auto"})
    stages = (
        StageConfig(name="head", train=("head",), epochs=2, lr=1e-3),
        StageConfig(name="top", train=("last:1",), epochs=2, lr=1e-3),
    )
    Setting(
        tmp_path, stages=stages, config=config, plan=KEEPING, every_seconds=1e9
    ).train()
    # 33 examples to train on and 11 of validation; the rest are probes.
    assert 44 <= len(prepared) < 44 + 20


@pytest.mark.parametrize(("train", "views"), [("last:1", 2), ("all", 5)])
def test_a_stage_with_frozen_blocks_shows_fewer_views(
    train: str, views: int, tmp_path: Path, prepared: list[str]
) -> None:
    """Each costs a pass through the frozen blocks, or disk."""
    config = CONFIG.model_copy(update={"views": 5, "frozen_views": 2})
    stage = StageConfig(name="only", train=(train,), epochs=6, lr=1e-3)
    Setting(tmp_path, stages=(stage,), config=config, every_seconds=1e9).train()
    assert len(set(prepared) - {"None"}) == 33 * views


def test_nothing_is_kept_on_the_way_that_no_later_epoch_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: set[tuple[Path, int]] = set()
    asked: set[tuple[Path, int]] = set()
    write = feature_cache.Files.write
    fill = feature_cache.FeatureStore._fill

    def noted_write(self: Any, turn: int, first: int, values: Any) -> None:
        written.add((self.folder, turn))
        write(self, turn, first, values)

    def noted_fill(self: Any, turn: int) -> bool:
        asked.add((self.folder, turn))
        return fill(self, turn)

    monkeypatch.setattr(feature_cache.Files, "write", noted_write)
    monkeypatch.setattr(feature_cache.FeatureStore, "_fill", noted_fill)
    stages = tuple(
        StageConfig(name=f"last-{count}", train=(f"last:{count}",), epochs=2, lr=1e-3)
        for count in (1, 2)
    )
    Setting(tmp_path, stages=stages, plan=KEEPING, every_seconds=1e9).train()
    # Of three views and four epochs the first one comes again.
    assert len(asked) == 2 + 1 + 2 + 1
    assert written == asked


def test_outputs_that_a_lower_store_has_already_are_not_computed_again(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store, task = Store(45), Counting()
    rows, views = epochs(store, 1, 45)[0]
    expected = kept(model, tmp_path / "alone", boundary=11, store=store)
    low = kept(model, tmp_path, boundary=4, store=store)
    before = low.batch(rows, views)
    high = kept(model, tmp_path, boundary=11, store=store, task=task)
    high.begin_from(low)
    task.prepared = 0
    assert torch.equal(high.batch(rows, views), expected.batch(rows, views))
    assert task.prepared == 0
    assert torch.equal(low.batch(rows, views), before)


def test_what_is_less_exact_when_kept_is_not_begun_from(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    """Some operations give 32 bits under autocast."""
    plan = PLAN.model_copy(update={"precision": "bf16"})
    store = Store(20)
    low = kept(model, tmp_path, boundary=4, store=store, plan=plan)
    output = low._prefix(slice(0, 1), 0).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_cache.FrozenPrefix, "__call__", lambda *_: output)
        high = kept(model, tmp_path, store=store, plan=plan)
        high.begin_from(low)
    assert high._lower is None


def test_an_interruption_leaves_the_lower_outputs_that_were_computed(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store, calls, task = Store(60), [], Counting()

    def between() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError

    low = kept(model, tmp_path, boundary=4, store=store, task=task)
    high = kept(model, tmp_path, store=store, task=task, between=between)
    high.begin_from(low)
    rows, views = epochs(store, 1, 60)[0]
    with pytest.raises(InterruptedError):
        high.batch(rows, views)
    task.prepared = 0
    kept(model, tmp_path, boundary=4, store=store, task=task).batch(rows, views)
    assert task.prepared == 60 - feature_cache.CHUNK


@pytest.mark.slow
def test_a_disk_that_fills_with_lower_outputs_changes_no_number(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        code, said = elsewhere(_on_a_disk_that_lower_outputs_fill, disk)
    assert code == 0, said


def _on_a_disk_that_lower_outputs_fill(disk: Path) -> list[str]:
    feature_cache.SPARE_BYTES = -(10**12)  # there was room when it was looked for
    model = build_small().eval()
    store = Store(96)
    low = kept(model, disk, boundary=2, store=store, views=None)
    high = kept(model, disk, store=store, views=None)
    high.begin_from(low)
    rows = np.arange(96)
    for _ in range(2):
        found = high.batch(rows, None)
        expected = computed(model, store, rows, None, -1)
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert low._refused, "the disk took everything"
    return []


# --- interruption and damage ----------------------------------------------------------
def test_what_an_interruption_left_is_gone_on_with(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    class Stumbling(Counting):
        def prepare(self, decoded: torch.Tensor, *rest: Any) -> torch.Tensor:
            if self.prepared >= PROBED + feature_cache.CHUNK:  # the probe, then a chunk
                raise KeyboardInterrupt
            return super().prepare(decoded, *rest)

    store = Store(60)
    rows, views = epochs(store, 1, 60)[0]
    with pytest.raises(KeyboardInterrupt):
        kept(model, tmp_path, store=store, task=Stumbling()).batch(rows, views)
    task = Counting()
    found = kept(model, tmp_path, store=store, task=task).batch(rows, views)
    assert task.prepared == 60 - feature_cache.CHUNK
    assert torch.equal(
        found, kept(model, tmp_path / "whole", store=store).batch(rows, views)
    )


def test_between_chunks_the_caller_may_stop_it(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    store, calls = Store(60), []

    def between() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError

    rows, views = epochs(store, 1, 60)[0]
    task = Counting()
    with pytest.raises(InterruptedError):
        kept(model, tmp_path, store=store, task=task, between=between).batch(
            rows, views
        )
    assert task.prepared == PROBED + feature_cache.CHUNK


DAMAGE = {
    "data cut short": lambda folder: (folder / "data").write_bytes(b"short"),
    "data gone": lambda folder: (folder / "data").unlink(),
    "flags gone": lambda folder: (folder / "done").unlink(),
    "flags too many": lambda folder: (folder / "done").write_bytes(b"\x01" * 9),
    "description gone": lambda folder: (folder / "meta.json").unlink(),
    "description of another": lambda folder: (folder / "meta.json").write_text(
        json.dumps({"shape": [1, 2]})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_made_anew(
    model: blocks.TorchvisionNetwork, tmp_path: Path, damage: str
) -> None:
    store, task = Store(20), Counting()
    rows, views = epochs(store, 1, 20)[0]
    first = kept(model, tmp_path, store=store).batch(rows, views)
    (folder,) = (tmp_path / "features").iterdir()
    DAMAGE[damage](folder)
    assert torch.equal(
        kept(model, tmp_path, store=store, task=task).batch(rows, views), first
    )
    assert task.prepared > 0


# --- where it would not pay or fit ----------------------------------------------------
def test_over_the_limit_it_says_so(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    console = RecordingConsole()
    small = PLAN.model_copy(update={"feature_cache_gb": 1e-6})
    assert opened(model, tmp_path, plan=small, console=console) is None
    assert "feature_cache_gb" in console.lines[0]


def test_on_a_full_disk_it_says_so(
    model: blocks.TorchvisionNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40, 0)
    )
    console = RecordingConsole()
    assert opened(model, tmp_path, console=console) is None
    assert "MB free, of which" in console.lines[0]


@pytest.mark.slow
def test_a_disk_that_fills_meanwhile_is_said_and_the_outputs_are_computed_each_time(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        code, said = elsewhere(_on_a_disk_that_fills, disk)
    assert code == 0, said
    assert len(said) == 1, said
    assert "No space left on device" in said[0]
    assert str(tmp_path / "disk") in said[0]
    assert "MB free" in said[0]


def _on_a_disk_that_fills(disk: Path) -> list[str]:
    """Two epochs on a disk that has room for the flags and one of the turns, and what
    was said.
    """
    feature_cache.SPARE_BYTES = -(10**12)  # there was room when it was looked for
    model, store, console = (
        build_small().eval(),
        Store(112),
        RecordingConsole(),
    )
    opened_store = kept(model, disk, store=store, console=console)
    for rows, views in epochs(store, 2, 16):
        found = opened_store.batch(rows, views)
        assert found.dtype == torch.float32
        assert torch.allclose(
            found, computed(model, store, rows, views, -1), rtol=1e-3, atol=1e-4
        )
    (folder,) = (disk / "features").iterdir()
    assert np.fromfile(folder / "done", np.uint8).any(), "what the disk took is kept"
    return console.lines


def test_files_the_disk_refuses_are_not_left_behind(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    console = RecordingConsole()
    with small_files(1000):
        assert opened(model, tmp_path, console=console) is None
    assert "computed each time" in console.lines[0]
    assert "MB free" in console.lines[0]
    assert list((tmp_path / "features").iterdir()) == []


def test_where_reading_takes_as_long_as_computing_it_says_so(
    model: blocks.TorchvisionNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "READ_BYTES_PER_SECOND", 1.0)
    console = RecordingConsole()
    measured = PLAN.model_copy(update={"feature_cache_always": False})
    assert opened(model, tmp_path, plan=measured, console=console) is None
    assert "as long to read" in console.lines[0]
    monkeypatch.setattr(feature_cache, "READ_BYTES_PER_SECOND", 1e15)
    assert opened(model, tmp_path, plan=measured) is not None


def test_switched_off_or_with_nothing_frozen_there_is_none(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    assert (
        opened(model, tmp_path, plan=PLAN.model_copy(update={"feature_cache": False}))
        is None
    )
    assert opened(model, tmp_path, boundary=0) is None
    assert not (tmp_path / "features").exists()


def test_stores_used_longest_ago_make_room(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    each = VIEWS * 64 * 1280 * 4 / 1e9
    plan = PLAN.model_copy(update={"feature_cache_gb": 2.5 * each})
    for seed in (1, 2, 1, 3):
        kept(model, tmp_path, plan=plan, seed=seed)
    task = Counting()
    kept(model, tmp_path, plan=plan, seed=1, task=task)
    assert task.prepared == 0
    kept(model, tmp_path, plan=plan, seed=2, task=task)
    assert task.prepared > 0


def test_a_stages_second_store_leaves_its_first_alone(
    model: blocks.TorchvisionNetwork, tmp_path: Path
) -> None:
    """Room is made of other stages' stores; where that is not enough, the second is
    computed each time.
    """
    each = VIEWS * 64 * 1280 * 4 / 1e9
    plan = PLAN.model_copy(update={"feature_cache_gb": 1.5 * each})
    kept(model, tmp_path, plan=plan, seed=9)
    train = opened(model, tmp_path, plan=plan, seed=1)
    assert train is not None
    words = RecordingConsole()
    second = opened(
        model, tmp_path, plan=plan, seed=2, console=words, in_use=[train.folder]
    )
    assert second is None
    assert train.folder.exists()
    assert any("over finetune.plan.feature_cache_gb" in line for line in words.lines)


def test_a_second_store_leaves_the_disk_that_the_first_will_still_take(
    model: blocks.TorchvisionNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(64)
    first = kept(model, tmp_path, store=store, views=None)
    size = (first.folder / "data").stat().st_size
    monkeypatch.setattr(feature_cache, "_free", lambda folder: 1.5 * size)
    words = RecordingConsole()
    options = {"store": store, "views": None, "seed": 2, "in_use": [first.folder]}
    assert opened(model, tmp_path, console=words, key="other", **options) is None
    assert any("MB free, of which" in line for line in words.lines)
    first.batch(np.arange(64), None)
    assert opened(model, tmp_path, key="other", **options) is not None
