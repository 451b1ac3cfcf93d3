"""Register: the best candidate goes into the model registry with its evidence, once."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import manifest, receipts, served
from pipeline.config import Config
from pipeline.context import Context, MetricPoint
from pipeline.errors import ConfigError, TrackingError
from pipeline.receipts import receipt_is_current
from pipeline.records import (
    BackboneRecord,
    CandidateRecord,
    DataVersion,
    EvaluateRecord,
    FinetuneRecord,
    RegisterRecord,
    SplitRecord,
)
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.tracking.registry import ModelVersion
    from pipeline.tracking.runs import MlflowRun, MlflowTracker
    from pipeline.tracking.store import TrackingStore

__all__ = ["receipt_is_current", "register"]

LOWER_IS_BETTER = frozenset({"log_loss", "calibration_error"})
TRIED = 8  # test examples the served model must answer as it was judged
TOLERANCE = 1e-3  # in probability


def register(
    config: Config, name: str, split: SplitRecord, backbone: BackboneRecord, finetuned: FinetuneRecord,
    evaluated: EvaluateRecord, report: Path | None, version: DataVersion, context: Context,
) -> RegisterRecord:  # fmt: skip
    """Registers the evaluated candidate as a model version: found again by its key, or made.

    The key is of the weights and everything else that is served. So calling it again registers nothing new, and
    completes what a kill cut short or the store has lost; a later evaluation of the same model updates the tags and
    the description of its version. The runs are recorded first, from the steps' outputs, where the store does not
    have them.

    Args:
        name: the model's name in the registry.
        report: the report's page, kept with the run; None: there is none yet.
        version: the data's.

    Raises:
        ConfigError: a threshold names a metric there is not.
        TrackingError: the store is away, full or locked, or the model, loaded back, does not answer as it was judged.
    """
    workspace = Workspace(context.root)
    unmet = _unmet(config.register_.thresholds, evaluated)
    candidate = finetuned.candidate(evaluated.candidate)
    key = served.key(config, name, candidate)
    if not config.tracking.enabled:
        return _off(config, workspace, name, key, evaluated)
    from pipeline.tracking import store as stores

    tracker = _tracker(config, workspace, context)
    facts = _facts(candidate, finetuned, evaluated, version)
    run = _record_runs(tracker, config, backbone, finetuned, evaluated, report, facts, context)
    _log_data(tracker.store, run, version, context.data.name)
    store = tracker.store
    model = stores.with_retries(
        store,
        f"registering {name}",
        lambda: _version(store, name, key, config, finetuned, evaluated, run, facts, context),
    )
    champion, reason = stores.with_retries(
        store, f"naming {name}'s aliases", lambda: _aliases(store, model, config, unmet)
    )
    aliases = ("challenger", "champion") if champion else ("challenger",)
    record = RegisterRecord(
        evaluation=evaluated.digest, key=key, tracking_uri=store.shown, model=name, version=model.version,
        run_id=run.id, aliases=aliases, champion=champion, reason=reason,
    )  # fmt: skip
    receipts.write(config, workspace, record)
    return record


def _unmet(thresholds: Mapping[str, float], evaluated: EvaluateRecord) -> list[str]:
    """The thresholds not reached, in words.

    Raises:
        ConfigError: a threshold names a metric that was not evaluated.
    """
    unknown = sorted(set(thresholds) - set(evaluated.metrics))
    if unknown:
        raise ConfigError(
            "register.thresholds", found=", ".join(unknown), expected="one of " + ", ".join(sorted(evaluated.metrics)),
            hint="correct it in params.yaml",
        )  # fmt: skip
    unmet = []
    for metric, wanted in thresholds.items():
        value = evaluated.metrics[metric].value
        low = metric in LOWER_IS_BETTER
        if not (value <= wanted if low else value >= wanted):
            unmet.append(f"{metric} {value:.4g} is {'above' if low else 'below'} {wanted:g}")
    return unmet


def _off(config: Config, workspace: Workspace, name: str, key: str, evaluated: EvaluateRecord) -> RegisterRecord:
    record = RegisterRecord(
        evaluation=evaluated.digest, key=key, tracking_uri="", model=name, version="", run_id="", aliases=(),
        champion=False, reason="not registered: tracking.enabled is false",
    )  # fmt: skip
    receipts.write(config, workspace, record)
    return record


def _tracker(config: Config, workspace: Workspace, context: Context) -> MlflowTracker:
    from pipeline import tracking
    from pipeline.tracking.runs import MlflowTracker

    if isinstance(context.tracker, MlflowTracker):
        return context.tracker
    opened = tracking.open_tracker(config.tracking, workspace, console=context.console)
    assert isinstance(opened, MlflowTracker)  # tracking is enabled
    return opened


def _facts(
    candidate: CandidateRecord, finetuned: FinetuneRecord, evaluated: EvaluateRecord, version: DataVersion
) -> dict[str, str]:
    """What the run and the registered version are tagged with."""
    facts = {
        "members.sha256": manifest.sha256(finetuned.members),
        "evaluation": evaluated.digest, "recipe": candidate.name, "architecture": candidate.architecture,
        "model.sha256": candidate.model_sha256, "primary": evaluated.primary, "data.md5": version.md5,
        "data.files": str(version.files), "data.dirty": str(version.dirty).lower(),
        **({"data.dirty_reason": version.dirty_reason} if version.dirty_reason else {}),
        **({"git.revision": version.git_revision} if version.git_revision else {}),
    }  # fmt: skip
    return facts | {f"metric.{metric}": repr(one.value) for metric, one in evaluated.metrics.items()}


# --- the runs, from what the steps left ---------------------------------------------------------------------------


def _record_runs(
    tracker: MlflowTracker, config: Config, backbone: BackboneRecord, finetuned: FinetuneRecord,
    evaluated: EvaluateRecord, report: Path | None, facts: Mapping[str, str], context: Context,
) -> MlflowRun:  # fmt: skip
    """The parent run and one run a candidate, completed from the outputs; what is there is not written again."""
    from pipeline.report import plots

    parent = tracker.open(finetuned.key, context.root.name, tags={**facts, **_environment()})
    parent.params({**_flat(config.model_dump(mode="json", by_alias=True)), "backbone.sha256": backbone.sha256})
    parent.metrics(_test_metrics(evaluated))
    for file in sorted(evaluated.folder.glob("*.csv")):
        parent.artifact(file, "test")
    if (evaluated.folder / "worst").is_dir():
        parent.artifact(evaluated.folder / "worst", "test/worst")
    for plot in plots.write(finetuned, evaluated, context.run_dir / "plots"):
        parent.artifact(plot, "plots")
    if report is not None:
        parent.artifact(report)
    for recipe in finetuned.candidates:
        candidate = finetuned.candidate(recipe)
        _record_candidate(tracker.open(candidate.key, recipe, parent=parent), candidate)
    parent.close()
    tracker.flush()
    return parent


def _record_candidate(run: MlflowRun, candidate: CandidateRecord) -> None:
    from pipeline.steps.finetune import points
    from pipeline.training.candidates import read_curves

    run.params({
        "recipe": candidate.name, "architecture": candidate.architecture, "steps": candidate.steps,
        **{f"plan.{name}": value for name, value in candidate.plan.items()},
    })  # fmt: skip
    run.metrics(points(read_curves(candidate.folder)))
    run.close()


def _test_metrics(evaluated: EvaluateRecord) -> Iterator[MetricPoint]:
    for name, estimate in evaluated.metrics.items():
        yield MetricPoint(f"test/{name}", estimate.value, 0)
        yield MetricPoint(f"test/{name}_low", estimate.low, 0)
        yield MetricPoint(f"test/{name}_high", estimate.high, 0)


def _environment() -> dict[str, str]:
    """The versions a result may depend on."""
    found = {"python": platform.python_version()}
    for package in ("thaw", "torch", "torchvision", "mlflow"):
        try:
            found[package] = installed(package)
        except PackageNotFoundError:
            continue
    return {f"version.{name}": value for name, value in found.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested settings with dotted names."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def _log_data(store: TrackingStore, run: MlflowRun, version: DataVersion, name: str) -> None:
    from pipeline.tracking import packaging
    from pipeline.tracking import store as stores

    facts = {key: str(value) for key, value in version.model_dump(mode="json").items() if value not in (None, "")}
    stores.with_retries(
        store, "recording the data's version",
        lambda: packaging.log_dataset(store, run.id, name or "data", version.md5, facts),
    )  # fmt: skip


# --- the version -----------------------------------------------------------------------------------------------


def _version(
    store: TrackingStore, name: str, key: str, config: Config, finetuned: FinetuneRecord, evaluated: EvaluateRecord, run: MlflowRun,
    facts: Mapping[str, str], context: Context,
) -> ModelVersion:  # fmt: skip
    """The version with this key: made where there is none, else brought up to date and completed."""
    from pipeline.tracking import packaging, registry
    from pipeline.tracking.runs import KEY

    candidate = finetuned.candidate(evaluated.candidate)
    folder = context.scratch / "serving" / key[:16]
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    package(folder, config, candidate, finetuned.members, {KEY: key, "recipe": candidate.name})
    _try(folder, config, candidate, evaluated, context)
    tags = {KEY: key, **facts}
    description = _description(evaluated)
    there = next((one for one in registry.versions(store, name) if one.key == key), None)
    if there is None:
        model_id, source = packaging.upload(store, folder, name, run.id, key, facts)
        version = registry.register(store, name, source, model_id, run.id, tags, description)
    else:
        if there.tags.get("members.sha256") != facts["members.sha256"]:
            registry.upload(store, there, folder, [finetuned.members.name])
        lost = registry.lost(store, there, folder)
        registry.upload(store, there, folder, lost)
        if lost:
            context.console.info(
                f"{name} v{there.version}: {len(lost)} files were lost and are there again: {', '.join(lost)}"
            )
        version = registry.update(store, there, tags, description)
    shutil.rmtree(folder)
    return version


def _description(evaluated: EvaluateRecord) -> str:
    """A version in a sentence, as the registry's page shows it."""
    score = evaluated.metrics[evaluated.primary]
    interval = f"{score.low:.3f} to {score.high:.3f}"
    return f"{evaluated.candidate}: {evaluated.primary} {score.value:.3f} ({interval}) on {evaluated.examples} test examples"


def package(
    folder: Path, config: Config, candidate: CandidateRecord, members: Path, metadata: Mapping[str, str]
) -> None:
    """Saves a candidate into `folder`, which must not exist, as a model that MLflow serves without Thaw."""
    from pipeline.tasks import catalog
    from pipeline.tracking import packaging

    task = catalog.find(config.task.name)
    serving = task.serving()
    model = task.network.load(candidate)
    settings = {**served.settings(config, candidate), "kwargs": model.stock_kwargs}
    code = served.code_file(serving.module)
    packaging.save(folder, serving, code, [candidate.model, *candidate.other_files], settings, members, metadata)


def _try(folder: Path, config: Config, candidate: CandidateRecord, evaluated: EvaluateRecord, context: Context) -> None:
    """Asks the saved model about a few test examples.

    Raises:
        TrackingError: it cannot be loaded, or answers otherwise than it was judged.
    """
    import pyarrow.parquet as pq

    from pipeline.tracking import packaging
    from pipeline.tracking import store as stores

    rows = pq.read_table(evaluated.predictions).slice(0, TRIED).to_pylist()
    requests = served.serving_of(config.task.name).requests(rows, context.data)
    try:
        found = packaging.answers(folder, requests)
    except Exception as fault:
        raise _unservable(candidate, f"it cannot answer: {stores.one_line(fault)[:300]}") from fault
    for row, answer in zip(rows, found, strict=True):
        worst = max(abs(answer[label] - row[f"p.{label}"]) for label in candidate.labels)
        if not worst <= TOLERANCE:
            raise _unservable(candidate, f"{row['path']}: a probability differs by {worst:.3g}")


def _unservable(candidate: CandidateRecord, found: str) -> TrackingError:
    return TrackingError(
        f"candidate {candidate.name}, loaded back", found=found,
        expected=f"the evaluation's answers, within {TOLERANCE}",
        hint="nothing was registered; thaw run --force evaluate, and report it if it stays",
    )  # fmt: skip


def _aliases(store: TrackingStore, model: ModelVersion, config: Config, unmet: list[str]) -> tuple[bool, str]:
    """Sets the aliases this version is due; returns whether it is champion, and why or why not."""
    from pipeline.tracking import registry

    registry.set_alias(store, model, registry.CHALLENGER)
    there = registry.versions(store, model.name)
    champions = [one for one in there if registry.CHAMPION in one.aliases]
    holder = champions[0].version if champions else None
    if holder == model.version:
        return True, "champion already"
    if champions and champions[0].tags.get("model.sha256") == model.tags["model.sha256"]:
        registry.set_alias(store, model, registry.CHAMPION)
        return True, f"champion: the weights of version {holder}, the champion before, served with other settings"
    if holder is not None:
        return False, f"challenger to version {holder}, the champion"
    if not config.register_.thresholds:
        return False, "not champion: register.thresholds names no metric to reach"
    if unmet:
        return False, "not champion: " + "; ".join(unmet)
    registry.set_alias(store, model, registry.CHAMPION)
    return True, "champion: the first to reach every threshold"
