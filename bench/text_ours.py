"""Thaw's own contenders of the text benchmark: the finetune step, from the manifest to
the finished candidate.

python bench/text_ours.py thaw-full|thaw-top|micro WORKSPACE SCRATCH RESULT.json
--threads N [--quick]
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import steps
import torch  # noqa: F401  (imported by all contenders before their clocks start)

from pipeline.config import Config, StageConfig
from pipeline.context import Context, MetricPoint, NoRun, NoTracker, TrackedRun
from pipeline.models.providers.transformers import network  # noqa: F401
from pipeline.records import FinetuneRecord
from pipeline.steps.finetune import finetune
from pipeline.steps.run import load_record
from pipeline.tasks import catalog
from pipeline.tasks.text_classification import codec
from pipeline.training import recipes
from pipeline.workspace import Workspace

UPPER_LAYERS = 2
STEPS = 12  # of each comparison's two ways
VAL_ACCURACY = "val/accuracy"


class MarkingRun(NoRun):
    """Marks the clock at each new point of the validation accuracy."""

    def __init__(self) -> None:
        self.marks: dict[int, tuple[float, float, float]] = {}
        self.start()

    def start(self) -> None:
        self.began = time.perf_counter()
        self.began_cpu = time.process_time()

    def metrics(self, points: Iterable[MetricPoint]) -> None:
        for point in points:
            if point.name.endswith(VAL_ACCURACY):
                cpu_seconds = time.process_time() - self.began_cpu
                self.marks.setdefault(
                    point.step,
                    (time.perf_counter() - self.began, cpu_seconds, point.value),
                )


class MarkingTracker(NoTracker):
    """Opens one run for everything."""

    def __init__(self) -> None:
        self.run = MarkingRun()

    def open(self, key: str, name: str, **_: Any) -> TrackedRun:
        return self.run


def train(
    workspace: Workspace, scratch: Path, **changes: Any
) -> tuple[FinetuneRecord, dict[str, Any]]:
    """One fine-tuning in a fresh folder, and what it came to."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    config = workspace.config()
    settings = {
        **config.finetune.model_dump(),
        "baseline": "never",
        "patience": 0,
        **changes,
    }
    settings["plan"] = {
        **settings["plan"],
        "threads": int(sys.argv[sys.argv.index("--threads") + 1]),
    }
    tracker = MarkingTracker()
    context = Context(
        root=workspace.root,
        data=workspace.root / config.data.path,
        scratch=scratch / ".thaw",
        run_dir=scratch / "run",
        tracker=tracker,
    )
    out = scratch / "out"
    out.mkdir()
    split, backbone = (
        load_record(workspace, "split"),
        load_record(workspace, "backbone"),
    )
    tracker.run.start()
    finetuned = finetune(
        type(config.finetune).model_validate(settings),
        config.task,
        split,
        backbone,
        out,
        context,
    )
    result = {
        "marks": list(tracker.run.marks.values()),
        "seconds": time.perf_counter() - tracker.run.began,
        "cpu_seconds": time.process_time() - tracker.run.began_cpu,
        "examples": sum(split.counts["val"].values()),
        "steps": finetuned.candidate().steps,
        "plan": finetuned.candidate().plan,
        "timing": json.loads((scratch / "run" / "timing.json").read_text()),
    }
    return finetuned, result


def test_accuracy(
    workspace: Workspace, finetuned: FinetuneRecord, scratch: Path
) -> float:
    from pipeline.evaluation.predict import LoadedCandidate

    config: Config = workspace.config()
    table = pq.read_table(load_record(workspace, "split").manifest)
    tests = table.filter(np.array(table["split"].to_pylist()) == "test")
    context = Context(
        root=workspace.root,
        data=workspace.root,
        scratch=scratch / ".thaw",
        run_dir=scratch / "run",
    )
    task = catalog.find(config.task.name)
    candidate = finetuned.candidate()
    answers = LoadedCandidate(task, config.task, candidate, tests, context).answers()
    targets = np.asarray(task.scorer.targets(tests, candidate.labels))
    return float((answers.argmax(1) == targets).mean())


def upper_layers(epochs: int) -> dict[str, Any]:
    """A recipe that trains the upper layers and the head; what lies below is frozen, so
    computed once.
    """
    stage = StageConfig(
        name="top",
        train=(f"last:{UPPER_LAYERS}",),
        epochs=epochs,
        lr=1e-3,
        body_lr=4e-4,
        lr_decay=1.0,
    )
    return {"recipes": ("top",), "own": {"top": (stage,)}}


def measure_parts(
    workspace: Workspace, scratch: Path, *, quick: bool
) -> dict[str, Any]:
    """The kept prefix and the buckets, each beside what they replace."""
    threads = int(sys.argv[sys.argv.index("--threads") + 1])
    batches, turns = (1, 1) if quick else (STEPS, steps.TURNS)
    top = upper_layers(1)["own"]["top"][0]
    run = steps.open_run(workspace, scratch / "prefix", threads)
    prefix = steps.race_prefix(run, top, batches, turns)
    with contextlib.ExitStack() as stack:
        bucketed, count = stack.enter_context(
            open_full(workspace, scratch / "bucketed", threads)
        )
        with padded_to_the_longest():
            padded, _ = stack.enter_context(
                open_full(workspace, scratch / "padded", threads)
            )
        numbers = steps.spread(count, batches)
        buckets = steps.race_steps(
            {"bucketed": bucketed, "padded": padded}, numbers, turns
        )
    ratio = buckets["padded"] / buckets["bucketed"]
    return {"frozen prefix": prefix, "buckets": {**buckets, "ratio": ratio}}


@contextlib.contextmanager
def open_full(
    workspace: Workspace, scratch: Path, threads: int
) -> Iterator[tuple[steps.Stepper, int]]:
    """Steps of the default recipe; see `steps.open_steps`."""
    run = steps.open_run(workspace, scratch, threads)
    (stage,) = recipes.recipe_stages("full", run.config, run.backbone.blocks)
    with steps.open_steps(run, stage, run.plan()) as opened:
        yield opened


class padded_to_the_longest:
    """Every text padded to 128 tokens: buckets of one length."""

    def __enter__(self) -> None:
        self.original = codec.TextCodec.input_spec

        def one_bucket(self_: codec.TextCodec, task: Any, backbone: Any) -> Any:
            spec = self.original(self_, task, backbone)
            return spec.model_copy(update={"max_tokens": 128, "bucket": 128})

        codec.TextCodec.input_spec = one_bucket  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        codec.TextCodec.input_spec = self.original  # type: ignore[method-assign]


def main() -> None:
    name, root, scratch, left = (
        sys.argv[1],
        Path(sys.argv[2]),
        Path(sys.argv[3]),
        Path(sys.argv[4]),
    )
    quick = "--quick" in sys.argv
    workspace = Workspace(root)
    if name == "micro":
        result = measure_parts(workspace, scratch, quick=quick)
    else:
        epochs = 1 if quick else workspace.config().finetune.epochs
        changes = (
            upper_layers(epochs)
            if name == "thaw-top"
            else {"recipes": ("full",), "epochs": epochs}
        )
        finetuned, result = train(workspace, scratch, **changes)
        result["test"] = test_accuracy(workspace, finetuned, scratch)
    left.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
