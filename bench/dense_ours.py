"""Thaw's own contenders of the detection and segmentation benchmark: the finetune step,
then the test split.

python bench/dense_ours.py CONTENDER WORKSPACE SCRATCH RESULT.json --threads N [--quick]
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
import torchvision  # noqa: F401
from steps import open_run, race_prefix

from pipeline.config import StageConfig
from pipeline.context import Context, NoTracker, SilentConsole
from pipeline.evaluation.bootstrap import BootstrapSettings
from pipeline.evaluation.judge import find_judge
from pipeline.evaluation.predict import LoadedCandidate
from pipeline.records import FinetuneRecord
from pipeline.steps.finetune import finetune
from pipeline.steps.run import load_record
from pipeline.tasks import catalog
from pipeline.training import progress
from pipeline.workspace import Workspace

BATCH = 8
# What short trainings of small sets of microscope pictures take: they have no up and
# down, and little time for crops.
AUGMENT = {"vflip": 0.5, "crop_scale": (0.9, 1.0), "crop_ratio": (0.95, 1.05)}


class Contender(NamedTuple):
    """One training.

    Args:
        train: the blocks that train.
        epochs: how long, of boxes and of masks.
        scratch: from random weights.
    """

    train: str
    epochs: tuple[int, int]
    scratch: bool = False


CONTENDERS = {
    "full-short": Contender("all", (3, 1)),
    "full-long": Contender("all", (7, 2)),
    "last-six": Contender("last:6", (2, 1)),
    "scratch": Contender("all", (2, 2), scratch=True),
}
# Steps of the head alone, with the frozen body's maps kept and computed.
PREFIX = "prefix"
PREFIX_BATCHES = 4


def train(
    workspace: Workspace,
    scratch: Path,
    contender: Contender,
    *,
    threads: int,
    quick: bool,
) -> dict[str, Any]:
    """One fine-tuning in a fresh folder, and what it came to on the test split."""
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "out").mkdir(parents=True)
    config = workspace.config()
    task = config.task.model_copy(
        update={"augment": config.task.augment.model_copy(update=AUGMENT)}
    )  # type: ignore[attr-defined]
    lrs = config.finetune
    stage = StageConfig(
        name="stage",
        train=(contender.train,),
        epochs=1
        if quick
        else contender.epochs[config.task.name == "semantic-segmentation"],
        lr=lrs.lr,
        body_lr=lrs.body_lr,
        lr_decay=1.0,
        warmup=0.1,
        init="random" if contender.scratch else "keep",
        batchnorm="train" if contender.scratch else "frozen",
    )
    plan = {**config.finetune.plan.model_dump(), "threads": threads}
    changes = {
        "baseline": "never",
        "patience": 0,
        "batch_size": BATCH,
        "recipes": ("bench",),
        "own": {"bench": (stage,)},
        "views": 64,
        "plan": plan,
    }
    settings = type(config.finetune).model_validate(
        {**config.finetune.model_dump(), **changes}
    )
    context = Context(
        root=workspace.root,
        data=workspace.root / config.data.path,
        scratch=scratch / ".thaw",
        run_dir=scratch / "run",
        tracker=NoTracker(),
        console=SilentConsole(),
    )
    split, backbone = (
        load_record(workspace, "split"),
        load_record(workspace, "backbone"),
    )
    began, began_cpu = time.perf_counter(), time.process_time()
    finetuned = finetune(settings, task, split, backbone, scratch / "out", context)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    timing = json.loads((scratch / "run" / "timing.json").read_text())["bench"][
        "stages"
    ]["stage"]
    return {
        "steps": finetuned.candidate().steps,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "training_seconds": timing["train"],
        "cpu_milliseconds_a_step": 1000 * timing["step"] / finetuned.candidate().steps,
        "plan": finetuned.candidate().plan,
        "test": judge(workspace, finetuned, context),
    }


def measure_prefix(
    workspace: Workspace, scratch: Path, *, threads: int, quick: bool
) -> dict[str, Any]:
    """A step with the whole frozen body kept, and with it computed."""
    shutil.rmtree(scratch, ignore_errors=True)
    config = workspace.config()
    rates = config.finetune
    stage = StageConfig(
        name="stage", train=("head",), epochs=3, lr=rates.lr, body_lr=rates.body_lr
    )
    run = open_run(workspace, scratch, threads, batch_size=BATCH, views=4)
    if quick:
        return race_prefix(run, stage, 1, 1)
    return race_prefix(run, stage, PREFIX_BATCHES)


def judge(
    workspace: Workspace, finetuned: FinetuneRecord, context: Context
) -> dict[str, Any]:
    """The test metrics with their intervals."""
    config = workspace.config()
    table = pq.read_table(load_record(workspace, "split").manifest)
    tests = table.filter(np.array(table["split"].to_pylist()) == "test")
    task = catalog.find(config.task.name)
    loaded = LoadedCandidate(task, config.task, finetuned.candidate(), tests, context)
    judged = find_judge(task.scorer.kind, config.evaluate).judge(loaded, tests)
    estimates = judged.estimate_metrics(BootstrapSettings(1000, 0.95, 0))
    return {name: estimate.model_dump() for name, estimate in estimates.items()}


def main() -> None:
    name, root, scratch, left = (
        sys.argv[1],
        Path(sys.argv[2]),
        Path(sys.argv[3]),
        Path(sys.argv[4]),
    )
    threads = int(sys.argv[sys.argv.index("--threads") + 1])
    torch.set_num_threads(threads)
    # A stage times itself by the processor's clock: others use the machine too.
    progress.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
    workspace = Workspace(root)
    quick = "--quick" in sys.argv
    if name == PREFIX:
        result = measure_prefix(workspace, scratch, threads=threads, quick=quick)
    else:
        contender = CONTENDERS[name]
        result = train(workspace, scratch, contender, threads=threads, quick=quick)
    left.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
