"""The parts of Thaw's speed one by one: loading, the frozen prefix kept, growth, and
what conducting costs.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import Result, Setting, given, leave, printed_laps
from ours import backbone_record, split_record, train

from pipeline.config import FinetuneConfig
from pipeline.context import Context
from pipeline.objectives.class_loss import build_loss
from pipeline.steps.finetune import FinetuneRun
from pipeline.tasks.image_classification.settings import ImageClassificationConfig
from pipeline.training import sampling, stages
from pipeline.training.batch_source import BatchSource
from pipeline.training.feature_cache import FeatureStore
from pipeline.training.plan import autocast, place_network, to_input


def loading(setting: Setting) -> dict[str, Any]:
    """Training steps of the whole network, fed by the decoded store and by tensors that
    are ready in memory.
    """
    folder = Path(setting.scratch) / "loading"
    folder.mkdir(parents=True)
    split, data = split_record(setting, folder)
    config = FinetuneConfig.model_validate({**setting.config, "recipes": ("full",)})
    context = Context(
        root=folder, data=data, scratch=folder / ".thaw", run_dir=folder / "side"
    )
    bench = FinetuneRun(
        config,
        ImageClassificationConfig(),
        split,
        backbone_record(setting, folder),
        context,
    )
    job, plan, model = bench.job, bench.plan(), bench._build(True)
    torch.set_num_threads(plan.threads)
    place_network(model, plan)
    stages.apply_scope(model, stages.resolve_scope(model, _all()))
    loss_of = build_loss(config, job.train.targets, len(job.labels))
    feed = BatchSource(job, job.train, None, 0)
    cuts = sampling.batches(sampling.shuffle(job.train.keys, 0, 0), config.batch_size)[
        : setting.epochs["micro"] + 1
    ]
    views = [sampling.views(job.train.keys[cut], 0, config.views) for cut in cuts]
    ready = [feed.batch(cut, shown) for cut, shown in zip(cuts, views, strict=True)]

    def step(x: torch.Tensor, cut: np.ndarray[Any, Any]) -> None:
        with autocast(plan):
            loss = loss_of(
                model, to_input(x, plan), 0, job.train.targets[torch.from_numpy(cut)]
            ) / len(x)
        loss.backward()
        model.zero_grad(set_to_none=True)

    rates: dict[str, list[float]] = {"store": [], "memory": []}
    for turn, (cut, shown) in enumerate(zip(cuts, views, strict=True)):
        for kind, seconds in rates.items():
            began = time.perf_counter()
            step(feed.batch(cut, shown) if kind == "store" else ready[turn], cut)
            # The first warms up.
            seconds += [len(cut) / (time.perf_counter() - began)] if turn else []
    store, memory = (
        statistics.median(rates["store"]),
        statistics.median(rates["memory"]),
    )
    return {
        "store_images_per_second": store,
        "memory_images_per_second": memory,
        "share": store / memory,
    }


def _all() -> Any:
    from pipeline.config import StageConfig

    return StageConfig(name="all", train=("all",), epochs=1)


def keeping(setting: Setting) -> dict[str, Any]:
    """A head stage with its frozen prefix kept and computed each time: two views, so
    that each is shown often.
    """
    plan = dict(setting.config.get("plan", {}))
    seconds = {}
    for switch in ("on", "off"):
        result = train(
            setting,
            "thaw-head",
            views=2,
            patience=0,
            plan={**plan, "feature_cache": switch},
        )
        seconds[switch] = result.parts["timing"]["head"]["seconds"]
    return {
        "cached_seconds": seconds["on"],
        "uncached_seconds": seconds["off"],
        "ratio": seconds["off"] / seconds["on"],
    }


def unfreezing(setting: Setting) -> dict[str, Any]:
    """A gradual training whose stages keep on the way what later ones begin from, and
    one in which each computes its own; in processor's seconds, since others use the
    machine too.
    """
    seconds = {}
    with_own = mock.patch.object(FeatureStore, "begin_from", return_value=None)
    for way, patch in (("own", with_own), ("shared", nullcontext())):
        with patch:
            began = time.process_time()
            train(setting, "thaw-gradual", patience=0)
            seconds[way] = time.process_time() - began
    return {**seconds, "ratio": seconds["own"] / seconds["shared"]}


def growth(setting: Setting) -> dict[str, Any]:
    """Seconds of a head-only training on once, twice and four times the training
    images.
    """
    seconds = {
        str(copies): train(setting, "thaw-head", copies=copies).seconds
        for copies in (1, 2, 4)
    }
    return {
        "seconds": seconds,
        "doubling": seconds["2"] / seconds["1"],
        "quadrupling": seconds["4"] / seconds["1"],
    }


def conducting(setting: Setting) -> dict[str, Any]:
    """A whole `thaw run` of a fresh workspace, and the same again with nothing changed."""
    folder = Path(setting.scratch) / "workspace"
    thaw = Path(sys.executable).with_name("thaw")
    subprocess.run(
        [
            thaw,
            "init",
            folder,
            "--data",
            setting.data,
            "--backbone",
            f"torchvision/{setting.architecture}",
            "--weights",
            setting.weights,
        ],
        check=True,
        capture_output=True,
        timeout=600,
    )
    params = folder / "params.yaml"
    epochs = setting.epochs["conducting"]
    params.write_text(
        re.sub(
            r"^  epochs: \d+",
            f"  epochs: {epochs}",
            params.read_text(),
            flags=re.MULTILINE,
        )
    )
    first, again = (
        subprocess.run(
            [thaw, "run", "--timings"],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
            timeout=3000,
        )
        for _ in range(2)
    )
    laps, unchanged = printed_laps(first.stdout), printed_laps(again.stdout)
    imports = laps.get("importing", 0.0) + laps.get("starting Python", 0.0)
    total = (
        sum(seconds for name, seconds in laps.items() if name != "of which steps")
        - imports
    )
    return {
        "run": laps,
        "share": 1 - laps["of which steps"] / total,
        "unchanged": unchanged,
        "unchanged_seconds": sum(unchanged.values())
        - unchanged.get("starting Python", 0.0),
    }


PARTS = {
    "loading": loading,
    "keeping": keeping,
    "unfreezing": unfreezing,
    "growth": growth,
    "conducting": conducting,
}


def attempt(
    part: Callable[[Setting], dict[str, Any]], setting: Setting
) -> dict[str, Any]:
    """A part's result; where it fails, what it failed with, so that the others are not
    lost.
    """
    try:
        return part(setting)
    except subprocess.CalledProcessError as fault:
        return {"failed": f"{fault}\n{fault.stdout}\n{fault.stderr}"}
    except Exception as fault:
        return {"failed": f"{type(fault).__name__}: {fault}"}


if __name__ == "__main__":
    asked = given()
    measured = {
        name: attempt(part, asked)
        for name, part in PARTS.items()
        if name in (sys.argv[3:] or PARTS)
    }
    leave([Result("micro", [], 0, 0.0, 0, measured)])
