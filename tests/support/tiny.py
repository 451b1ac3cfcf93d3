"""A network, a task and a store so small that a whole training takes a moment: what the
engine's tests train.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.config import FinetuneConfig, StageConfig
from pipeline.context import SilentConsole
from pipeline.models.providers.torchvision.blocks import (
    SequentialBlock,
    TorchvisionNetwork,
)
from pipeline.models.providers.torchvision.forward_steps import Step
from pipeline.records import ImageInputSpec
from pipeline.tasks.base import RandomDraw, Task
from pipeline.tasks.class_scorer import ClassScorer
from pipeline.tasks.image_classification.settings import ImageClassificationConfig
from pipeline.training import batch_source, sampling
from pipeline.training.interruption import StopSignal, interruptible
from pipeline.training.plan import TrainingPlan
from pipeline.training.recipe_trainer import Recipe, TrainedRecipe, train

LABELS = ("red", "green", "blue")
SPEC = ImageInputSpec(size=8, resize=8)
PLAN = TrainingPlan(
    threads=1, batch_size=8, feature_cache=False, fuse=True, torch=torch.__version__
)


class TinyModel(TorchvisionNetwork):
    """Three small convolutions with BatchNorm and dropout, and a head."""

    def __init__(self, classes: int = 3, seed: int = 0) -> None:
        nn.Module.__init__(self)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stock = nn.ModuleDict(
                {
                    "low": nn.Sequential(
                        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
                    ),
                    "mid": nn.Sequential(
                        nn.Conv2d(6, 6, 3, padding=1),
                        nn.BatchNorm2d(6),
                        nn.ReLU(),
                        nn.Dropout(0.2),
                    ),
                    "top": nn.Sequential(
                        nn.Conv2d(6, 8, 3, padding=1),
                        nn.BatchNorm2d(8),
                        nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(),
                    ),
                    "head": nn.Sequential(nn.Dropout(0.1), nn.Linear(8, classes)),
                }
            )
        self.architecture, self.classes, self.stock_kwargs = "tiny", classes, {}
        self.blocks = [
            SequentialBlock(name, [Step(name, module, (name,))], self.stock)
            for name, module in self.stock.items()
        ]
        self.unfuse()


class TinyTask(ClassScorer):
    """Tells red from green from blue."""

    name = "tiny"

    def input_spec(
        self, task: ImageClassificationConfig, backbone: Any
    ) -> ImageInputSpec:
        return SPEC

    def shape(self, spec: ImageInputSpec) -> tuple[int, ...]:
        return (8, 8, 3)

    def decode(self, path: Path, spec: ImageInputSpec) -> Any:
        return np.frombuffer(path.read_bytes(), np.uint8).reshape(8, 8, 3)

    def open_store(
        self,
        spec: ImageInputSpec,
        examples: Any,
        data: Path,
        network_files: Path,
        limits: Any,
        console: Any,
    ) -> Any:
        from pipeline.data.decoded_store import open_store
        from pipeline.manifest import real_path

        pairs = zip(
            examples.column("id").to_pylist(),
            examples.column("path").to_pylist(),
            strict=True,
        )
        rows = [(identity, real_path(data, path)) for identity, path in pairs]
        return open_store(
            self, spec, rows, limits.scratch, limit_gb=limits.gigabytes, console=console
        )

    def design(self, *_: Any) -> dict[str, Any]:
        return {}

    def build(
        self,
        backbone: Any,
        labels: Sequence[str],
        *,
        design: Any = None,
        pretrained: bool = True,
        seed: int = 0,
    ) -> TinyModel:
        return TinyModel(len(labels), seed=10 * seed + pretrained)

    def prepare(
        self,
        decoded: torch.Tensor,
        spec: ImageInputSpec,
        task: ImageClassificationConfig,
        draws: Sequence[RandomDraw] | None,
    ) -> torch.Tensor:
        x = decoded.permute(0, 3, 1, 2).float() / 255
        if draws is None:
            return x
        turns = [sampling.derive_seed(draw.seed, draw.view, draw.id) for draw in draws]
        gains = torch.tensor([0.8 + 0.4 * (turn % 1000) / 1000 for turn in turns])
        flips = torch.tensor([bool(turn >> 20 & 1) for turn in turns])
        return (
            torch.where(flips[:, None, None, None], x.flip(3), x)
            * gains[:, None, None, None]
        )


def tiny_task(parts: Any = None) -> Task:
    """The parts of a task, of which the engine needs three."""
    if parts is None:
        parts = TinyTask()
    return Task(
        name="tiny",
        reader=parts,
        codec=parts,
        network=parts,
        scorer=parts,
        display=parts,
        serving=lambda: parts,
        sample=lambda: parts,
    )


class TinyStore:
    """Noisy squares of one colour, by id."""

    def __init__(self, count: int, *, listing: int = 0) -> None:
        ids = [hashlib.md5(str(number).encode()).hexdigest() for number in range(count)]
        self.ids = (
            tuple(np.random.default_rng(listing).permutation(ids).tolist())
            if listing
            else tuple(ids)
        )

    def target(self, identity: str) -> int:
        return int(identity[-6:], 16) % 3

    def shapes(self, rows: sampling.Rows) -> sampling.Rows:
        return np.zeros(len(rows), np.int64)

    def batch(self, rows: sampling.Rows) -> torch.Tensor:
        return torch.stack([self._picture(self.ids[row]) for row in rows.tolist()])

    def _picture(self, identity: str) -> torch.Tensor:
        noise = np.random.default_rng(int(identity[:8], 16)).integers(0, 160, (8, 8, 3))
        noise[..., self.target(identity)] += 60
        return torch.from_numpy(noise.astype(np.uint8))


CONFIG = FinetuneConfig(batch_size=8, patience=0, views=3, head_solver="optimizer")
STAGES = (
    StageConfig(name="head", train=("head",), epochs=2, lr=1e-2),
    StageConfig(name="top", train=("last:1",), epochs=2, lr=5e-3, lr_decay=0.5),
    StageConfig(
        name="all", train=("all",), epochs=2, lr=2e-3, lr_decay=0.5, batchnorm="train"
    ),
)


@dataclass
class Setting:
    """One training to be done, by values that another process can be given."""

    scratch: Path
    stages: tuple[StageConfig, ...] = STAGES
    config: FinetuneConfig = CONFIG
    plan: TrainingPlan = PLAN
    listing: int = 0
    count: int = 44
    every_seconds: float = 0.0001

    def job(self, console: Any = None) -> batch_source.FinetuneJob:
        store = TinyStore(self.count, listing=self.listing)
        cut = self.count * 3 // 4
        names = sorted(store.ids)
        members = {
            "train": [i for i in store.ids if i in names[:cut]],
            "val": [i for i in store.ids if i in names[cut:]],
        }
        sets = {
            split: batch_source.select_examples(
                store, ids, torch.tensor([store.target(i) for i in ids])
            )
            for split, ids in members.items()
        }
        checkpoint = self.config.checkpoint.model_copy(
            update={"every_seconds": self.every_seconds}
        )
        return batch_source.FinetuneJob(
            task=tiny_task(),
            task_config=ImageClassificationConfig(),
            config=self.config.model_copy(update={"checkpoint": checkpoint}),
            spec=SPEC,
            labels=LABELS,
            store=store,
            train=sets["train"],
            val=sets["val"],
            scratch=self.scratch,
            console=console or SilentConsole(),
            build=lambda pretrained: TinyModel(seed=1 if pretrained else 2),
        )

    def recipe(self) -> Recipe:
        settings = self.config.model_dump(
            mode="json", exclude={"checkpoint": True, "plan": {"workers"}}
        )
        stages = [stage.model_dump(mode="json") for stage in self.stages]
        return Recipe(
            "tiny",
            self.stages,
            {"stages": stages, "config": settings, "count": self.count},
        )

    def train(
        self, console: Any = None, stop: StopSignal | None = None
    ) -> TrainedRecipe:
        if stop is not None:
            return train(
                self.job(console),
                self.recipe(),
                lambda: self.plan,
                stop,
                lambda rows: None,
            )
        with interruptible() as own:
            return train(
                self.job(console),
                self.recipe(),
                lambda: self.plan,
                own,
                lambda rows: None,
            )


def weights_hash(trained: TrainedRecipe) -> str:
    """A hash of everything a training came to: weights, curves and probabilities."""
    digest = hashlib.sha256()
    for name, tensor in sorted(trained.model.stock.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    digest.update(trained.answers.numpy().tobytes())
    digest.update(json.dumps([*trained.state.rows, trained.state.steps]).encode())
    return digest.hexdigest()


_processes = multiprocessing.get_context("forkserver")


def elsewhere(
    work: Callable[..., Any], *arguments: Any, env: dict[str, str] | None = None
) -> tuple[int | None, Any]:
    """Does `work` in another process: its exit code (−9: killed) and what it returned."""
    _start_server()
    ours, theirs = _processes.Pipe(duplex=False)
    process = _processes.Process(
        target=_report, args=(theirs, work, arguments, env or {})
    )
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        answer = None
    process.join(60)
    return process.exitcode, answer


def _start_server() -> None:
    """Starts, once, the process that the others are forked from; it must find this
    module by itself.
    """
    _processes.set_forkserver_preload(["tiny", "safetensors.torch", "torch._dynamo"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(
            PYTHONPATH=before
        )


def _report(
    channel: Any,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    env: dict[str, str],
) -> None:
    os.environ.update(env)
    torch.set_num_threads(1)
    try:
        channel.send(work(*arguments))
    except BaseException:
        channel.send(traceback.format_exc())
        raise


def train_and_hash(setting: Setting) -> str:
    return weights_hash(setting.train())
