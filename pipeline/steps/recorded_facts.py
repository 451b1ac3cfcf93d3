"""What the tracking store and the registry are told: which facts, under which names.
Every step that records something calls this module, so a run that is recorded again has
everything that the first one had.

A run of a fine-tuning is the parent of one run a candidate. The parent also gets the
evaluation and the registration.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import files
from pipeline.config import Config
from pipeline.context import MetricPoint, TrackedRun, Tracker
from pipeline.records import (
    BackboneRecord,
    CandidateRecord,
    DataVersion,
    EvaluateRecord,
    FinetuneRecord,
    Latency,
    StageResult,
)
from pipeline.training import members

if TYPE_CHECKING:
    from pipeline.training.train_state import Row

TIMING_FILE = "timing.json"  # of a fine-tuning, in its run's folder
# Of an evaluation, in its run's folder: no input determines it.
LATENCY_FILE = "latency.json"
LIBRARIES = ("thaw", "torch", "torchvision", "mlflow")
RECIPE_TAG = "recipe"
MODEL_SHA256_TAG = "model.sha256"


def open_parent(
    tracker: Tracker,
    key: str,
    workspace_name: str,
    tags: Mapping[str, str] | None = None,
) -> TrackedRun:
    """The run of a fine-tuning, found by its key or made."""
    return tracker.open(key, workspace_name, tags=tags)


def open_candidate(
    tracker: Tracker, key: str, recipe: str, parent: TrackedRun
) -> TrackedRun:
    """The run of a candidate, found by its key or made."""
    return tracker.open(key, recipe, parent=parent)


def record_curves(run: TrackedRun, rows: Sequence[Row]) -> None:
    """The points of a candidate's curves, as far as they have come."""
    run.metrics(curve_points(rows))


def record_candidate(
    run: TrackedRun, candidate: CandidateRecord, timing: Mapping[str, Any] | None
) -> None:
    """Everything about a finished candidate; what was recorded before is not doubled.

    Args:
        timing: its entry in timing.json; None where it is not known.
    """
    from pipeline.training.candidates import read_curves

    params: dict[str, object] = {
        "recipe": candidate.name,
        "architecture": candidate.architecture,
        "steps": candidate.steps,
    }
    for name, value in candidate.plan.items():
        params[f"plan.{name}"] = value
    for stage in candidate.stages:
        params[f"stage.{stage.name}"] = describe_stage(stage)
    run.params(params)
    tags = {
        "thaw.candidate": candidate.name,
        "thaw.model_sha256": candidate.model_sha256,
    }
    run.tags(tags | _solve_times(timing))
    record_curves(run, read_curves(candidate.folder))


def record_choice(
    run: TrackedRun, recipes: Sequence[str], best: CandidateRecord
) -> None:
    """Which recipes a fine-tuning tried, and the one that was best on validation."""
    names = ", ".join(recipes)
    run.params({"recipes": names, "best": best.name})
    points = []
    for name, value in best.val.items():
        points.append(MetricPoint(f"val/{name}", value, 0))
    run.metrics(points)


def record_evaluation(run: TrackedRun, evaluated: EvaluateRecord) -> None:
    """Test metrics with their intervals, the tables, and pictures of the worst
    mistakes.
    """
    run.metrics(_test_points(evaluated))
    for table in sorted(evaluated.folder.glob("*.csv")):
        run.artifact(table, "test")
    worst = evaluated.folder / "worst"
    if worst.is_dir():
        run.artifact(worst, "test/worst")


def record_settings(run: TrackedRun, config: Config, backbone: BackboneRecord) -> None:
    """Every setting, and the versions of what a result may depend on."""
    params = flatten(config.model_dump(mode="json", by_alias=True))
    params["backbone.sha256"] = backbone.sha256
    run.params(params)
    run.tags(_library_versions())


def record_plots(
    run: TrackedRun, finetuned: FinetuneRecord, evaluated: EvaluateRecord, folder: Path
) -> None:
    """The report's plots as pictures; they are drawn into `folder`."""
    from pipeline.report.plots import write_plots

    for plot in write_plots(finetuned, evaluated, folder):
        run.artifact(plot, "plots")


def record_report(run: TrackedRun, page: Path) -> None:
    """The report of these results."""
    run.artifact(page)


def record_again(
    tracker: Tracker,
    parent: TrackedRun,
    finetuned: FinetuneRecord,
    evaluated: EvaluateRecord,
    scratch: Path,
) -> None:
    """What finetune and evaluate recorded, from their outputs: completes runs that the
    store has lost.

    Args:
        scratch: the workspace's `.thaw`, which holds the times of its runs.
    """
    recipes = [
        name for name in finetuned.candidates if not finetuned.candidate(name).baseline
    ]
    record_choice(parent, recipes, finetuned.candidate(finetuned.best))
    record_evaluation(parent, evaluated)
    for name in finetuned.candidates:
        candidate = finetuned.candidate(name)
        run = open_candidate(tracker, candidate.key, name, parent)
        record_candidate(run, candidate, find_timing(scratch, candidate))
        run.close()


def version_tags(
    candidate: CandidateRecord,
    finetuned: FinetuneRecord,
    evaluated: EvaluateRecord,
    data: DataVersion,
) -> dict[str, str]:
    """What a registered version, and the run it comes from, are tagged with."""
    tags = {
        members.SHA256_TAG: files.sha256(finetuned.members),
        "evaluation": evaluated.digest,
        RECIPE_TAG: candidate.name,
        "architecture": candidate.architecture,
        MODEL_SHA256_TAG: candidate.model_sha256,
        "primary": evaluated.primary,
        "data.md5": data.md5,
        "data.files": str(data.files),
        "data.dirty": str(data.dirty).lower(),
    }
    if data.dirty_reason:
        tags["data.dirty_reason"] = data.dirty_reason
    if data.git_revision:
        tags["git.revision"] = data.git_revision
    for metric, estimate in evaluated.metrics.items():
        tags[f"metric.{metric}"] = repr(estimate.value)
    return tags


def dataset_facts(data: DataVersion) -> dict[str, str]:
    """What the store is told of the data that a run was made from."""
    facts = {}
    for key, value in data.model_dump(mode="json").items():
        if value not in (None, ""):
            facts[key] = str(value)
    return facts


def curve_points(rows: Sequence[Row]) -> list[MetricPoint]:
    """Curves as points of a tracked run: `train/loss`, `val/accuracy`, `lr/<block>` by
    epoch.
    """
    points = []
    for row in rows:
        if row.metric.startswith("lr/"):
            name = row.metric
        else:
            name = f"{row.split}/{row.metric}"
        points.append(MetricPoint(name, row.value, row.epoch))
    return points


def describe_stage(stage: StageResult) -> str:
    """What a stage did, in a line."""
    blocks = ", ".join(stage.trained)
    solved = stage.solved
    if solved is None:
        return f"{blocks}: {stage.epochs} epochs, best {stage.best_epoch}"
    return (
        f"{blocks}: solved, C {solved.strength:.3g} by {solved.chosen_by}, {solved.iterations} iterations, "
        f"objective {solved.objective:.6g}"
    )


def find_timing(scratch: Path, candidate: CandidateRecord) -> Mapping[str, Any] | None:
    """The times of a candidate's training, from the newest run that trained it; None
    where none is known.
    """
    for path in sorted(
        (scratch / "runs").glob(f"*/finetune/{TIMING_FILE}"), reverse=True
    ):
        try:
            timing = json.loads(path.read_text(encoding="utf-8"))[candidate.name]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if timing.get("key") == candidate.key:
            stage_timing: Mapping[str, Any] = timing
            return stage_timing
    return None


def find_latency(scratch: Path, model_sha256: str) -> Latency | None:
    """Size and speed of a network, from the newest evaluation of these weights; None
    where none is known.
    """
    for path in sorted(
        (scratch / "runs").glob(f"*/evaluate/{LATENCY_FILE}"), reverse=True
    ):
        try:
            latency = Latency.model_validate(
                json.loads(path.read_text(encoding="utf-8"))
            )
        except (OSError, ValueError):
            continue
        if latency.model_sha256 == model_sha256:
            return latency
    return None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested settings with dotted names."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _solve_times(timing: Mapping[str, Any] | None) -> dict[str, str]:
    """Seconds that solving a stage's head took, as tags."""
    tags = {}
    if timing is not None:
        for stage, spent in timing["stages"].items():
            if "solve" in spent:
                tags[f"thaw.solve_seconds.{stage}"] = f"{spent['solve']:.3f}"
    return tags


def _test_points(evaluated: EvaluateRecord) -> Iterator[MetricPoint]:
    for name, estimate in evaluated.metrics.items():
        yield MetricPoint(f"test/{name}", estimate.value, 0)
        yield MetricPoint(f"test/{name}_low", estimate.low, 0)
        yield MetricPoint(f"test/{name}_high", estimate.high, 0)


def _library_versions() -> dict[str, str]:
    tags = {"version.python": platform.python_version()}
    for package in LIBRARIES:
        try:
            tags[f"version.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    return tags
