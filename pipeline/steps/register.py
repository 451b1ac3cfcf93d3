"""Register: the best candidate goes into the model registry with its evidence, once.
Whether it becomes champion is decided by the step after it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import metric_registry, receipts, served
from pipeline.config import Config
from pipeline.context import Context
from pipeline.errors import ConfigError, TrackingError
from pipeline.records import (
    BackboneRecord,
    CandidateRecord,
    DataVersion,
    EvaluateRecord,
    FinetuneRecord,
    GitState,
    RegisterRecord,
    RunRecords,
    SplitRecord,
    ValidateRecord,
)
from pipeline.steps import provenance, recorded_facts, version_card
from pipeline.training import members as members_table
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.tracking.registry import ModelVersion
    from pipeline.tracking.runs import MlflowRun, MlflowTracker
    from pipeline.tracking.store import TrackingStore

TRIED_EXAMPLES = 8  # test examples the served model must answer as it was judged


@dataclass(frozen=True)
class Registration:
    """What is to be registered.

    Args:
        run: the records of the steps before.
        git: None where the workspace is in no Git repository.
    """

    config: Config
    run: RunRecords
    data: DataVersion
    git: GitState | None
    context: Context


def register_evaluated(
    config: Config,
    validated: ValidateRecord,
    split: SplitRecord,
    backbone: BackboneRecord,
    finetuned: FinetuneRecord,
    evaluated: EvaluateRecord,
    context: Context,
) -> RegisterRecord:
    """Registers the evaluated candidate with the version of the data that DVC knows;
    see `register`.
    """
    from pipeline.versioning import Versioning

    versioning = Versioning(context.root)
    data = versioning.data_version()
    run = RunRecords(validated, split, backbone, finetuned, evaluated)
    return register(
        Registration(config, run, data, versioning.git_state(data), context)
    )


def register(registration: Registration) -> RegisterRecord:
    """Registers the evaluated candidate as a model version: found again by its key, or
    made.

    The key is of the weights and everything else that is served. So calling it again
    registers nothing new, and completes what a kill cut short or the store has lost; a
    later evaluation of the same model updates the tags and the description of its
    version. The runs are recorded first, from the steps' outputs, where the store does
    not have them.

    Raises:
        ConfigError: a threshold names a metric there is not.
        TrackingError: the store is away, full or locked, or the model, loaded back,
            does not answer as it was judged.
    """
    config = registration.config
    run = registration.run
    context = registration.context
    workspace = Workspace(context.root)
    name = workspace.model_name(config)
    refuse_unknown_thresholds(config, run.evaluate)
    key = served.key(config, name, run.candidate)
    if not config.tracking.enabled:
        return _keep_unregistered(config, workspace, name, key, run.evaluate)
    from pipeline.tracking import packaging
    from pipeline.tracking.failures import with_retries
    from pipeline.tracking.probe import SECONDS_OF_RUNS, require_answer

    tracker = _open_tracker(config, workspace, context)
    store = tracker.store
    require_answer(store, SECONDS_OF_RUNS)
    tags = recorded_facts.version_tags(
        run.candidate, run.finetune, run.evaluate, registration.data
    )
    tracked = _record_runs(tracker, registration, tags)
    _record_dataset(store, tracked, registration.data, context.data.name)
    folder = context.scratch / "serving" / key[:16]

    def register_version() -> ModelVersion:
        version = _register_version(
            store, name, key, folder, registration, tracked, tags
        )
        packaging.add_missing_files(store, tracked.id, folder / provenance.FOLDER)
        return version

    model = with_retries(store, f"registering {name}", register_version)
    shutil.rmtree(folder)
    decided = replace(run, promote=receipts.load_promotion(workspace))
    version_card.publish(store, config, decided, model, tracked.id, context)
    record = RegisterRecord(
        evaluation=run.evaluate.digest,
        key=key,
        tracking_uri=store.shown,
        model=name,
        version=model.version,
        run_id=tracked.id,
    )
    receipts.write(config, workspace, record)
    return record


def refuse_unknown_thresholds(config: Config, evaluated: EvaluateRecord) -> None:
    """Refuses thresholds that nothing can reach.

    Raises:
        ConfigError: a threshold names a metric that is never evaluated.
    """
    known = metric_registry.threshold_names(
        config.evaluate.top_k, len(evaluated.labels), evaluated.targets
    )
    unknown = sorted(set(config.register_.thresholds) - {*evaluated.metrics, *known})
    if unknown:
        raise ConfigError(
            "register.thresholds",
            found=", ".join(unknown),
            expected="one of " + ", ".join(sorted(evaluated.metrics)),
            hint="correct it in params.yaml",
        )


def _keep_unregistered(
    config: Config, workspace: Workspace, name: str, key: str, evaluated: EvaluateRecord
) -> RegisterRecord:
    """The record of an evaluation that is not to be registered."""
    record = RegisterRecord(
        evaluation=evaluated.digest,
        key=key,
        tracking_uri="",
        model=name,
        version="",
        run_id="",
        reason="not registered: tracking.enabled is false",
    )
    receipts.write(config, workspace, record)
    return record


def _open_tracker(
    config: Config, workspace: Workspace, context: Context
) -> MlflowTracker:
    from pipeline import tracking
    from pipeline.tracking.runs import MlflowTracker

    if isinstance(context.tracker, MlflowTracker):
        return context.tracker
    opened = tracking.open_tracker(config.tracking, workspace, console=context.console)
    assert isinstance(opened, MlflowTracker)  # tracking is enabled
    return opened


# --- the runs, from what the steps left -----------------------------------------------


def _record_runs(
    tracker: MlflowTracker, registration: Registration, tags: Mapping[str, str]
) -> MlflowRun:
    """The parent run and one run a candidate, completed from the outputs; what is there
    is not written again.
    """
    run = registration.run
    context = registration.context
    parent = tracker.open(run.finetune.key, context.root.name, tags=tags)
    recorded_facts.record_settings(parent, registration.config, run.backbone)
    recorded_facts.record_again(
        tracker, parent, run.finetune, run.evaluate, context.scratch
    )
    recorded_facts.record_plots(
        parent, run.finetune, run.evaluate, context.run_dir / "plots"
    )
    parent.close()
    tracker.flush()
    return parent


def _record_dataset(
    store: TrackingStore, run: MlflowRun, data: DataVersion, name: str
) -> None:
    from pipeline.tracking import packaging
    from pipeline.tracking.failures import with_retries

    facts = recorded_facts.dataset_facts(data)

    def log_dataset() -> None:
        title = name or "data"
        packaging.log_dataset(store, run.id, title, data.md5, facts)

    with_retries(store, "recording the data's version", log_dataset)


# --- the version ----------------------------------------------------------------------


def _register_version(
    store: TrackingStore,
    name: str,
    key: str,
    folder: Path,
    registration: Registration,
    tracked: MlflowRun,
    facts: Mapping[str, str],
) -> ModelVersion:
    """The version with this key: made where there is none, else brought up to date and
    completed.

    Args:
        folder: where its files are laid.
    """
    from pipeline.tracking import packaging, registry
    from pipeline.tracking.runs import KEY

    run = registration.run
    context = registration.context
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    metadata = {KEY: key, recorded_facts.RECIPE_TAG: run.candidate.name}
    package_candidate(
        folder, registration.config, run.candidate, run.finetune.members, metadata
    )
    _require_same_answers(
        folder, registration.config, run.candidate, run.evaluate, context
    )
    provenance.write_provenance(
        folder / provenance.FOLDER,
        registration.config,
        run.backbone,
        registration.data,
        registration.git,
    )
    tags = {KEY: key, **facts}
    known = [
        version for version in registry.versions(store, name) if version.key == key
    ]
    if known:
        _complete_version(store, known[0], folder, run.finetune.members, facts, context)
        return registry.update(store, known[0], tags)
    model_id, source = packaging.upload(store, folder, name, tracked.id, key, facts)
    return registry.register(store, name, source, model_id, tracked.id, tags)


def _complete_version(
    store: TrackingStore,
    version: ModelVersion,
    folder: Path,
    members: Path,
    facts: Mapping[str, str],
    context: Context,
) -> None:
    """Uploads what a registered version lacks: a new table of members, and files that
    the store has lost.
    """
    from pipeline.tracking import registry

    members_tag = members_table.SHA256_TAG
    if version.tags.get(members_tag) != facts[members_tag]:
        registry.upload(store, version, folder, [members.name])
    lost = registry.find_lost_files(store, version, folder, provenance.FOLDER)
    registry.upload(store, version, folder, lost)
    if lost:
        names = ", ".join(lost)
        context.console.info(
            f"{version.name} v{version.version}: {len(lost)} files were lost; uploaded again: {names}"
        )


def package_candidate(
    folder: Path,
    config: Config,
    candidate: CandidateRecord,
    members: Path,
    metadata: Mapping[str, str],
) -> None:
    """Saves a candidate into `folder`, which must not exist, as a model that MLflow
    serves without Thaw.
    """
    from pipeline.tasks import catalog
    from pipeline.tracking import packaging

    task = catalog.find(config.task.name)
    serving = task.serving()
    network = task.network.load(candidate)
    settings = {**served.settings(config, candidate), "kwargs": network.stock_kwargs}
    code = served.code_file(serving.module)
    helpers = [served.code_file(helper) for helper in serving.helpers]
    files = [candidate.model, *candidate.other_files, *helpers]
    packaging.save(folder, serving, config, code, files, settings, members, metadata)


def _require_same_answers(
    folder: Path,
    config: Config,
    candidate: CandidateRecord,
    evaluated: EvaluateRecord,
    context: Context,
) -> None:
    """Asks the saved model about a few test examples.

    Raises:
        TrackingError: it cannot be loaded, or answers otherwise than it was judged.
    """
    import pyarrow.parquet as pq

    from pipeline.tracking import packaging
    from pipeline.tracking.failures import one_line

    rows = pq.read_table(evaluated.predictions).slice(0, TRIED_EXAMPLES).to_pylist()
    serving = served.serving_of(config.task.name)
    requests = serving.requests(rows, context.data)
    try:
        answers = packaging.answers(folder, requests)
    except Exception as fault:
        raise _unservable(
            candidate, f"it cannot answer: {one_line(fault)[:300]}"
        ) from fault
    for row, answer in zip(rows, answers, strict=True):
        difference = serving.difference(answer, row, candidate)
        if difference:
            raise _unservable(candidate, f"{row['path']}: {difference}")


def _unservable(candidate: CandidateRecord, found: str) -> TrackingError:
    return TrackingError(
        f"candidate {candidate.name}, loaded back",
        found=found,
        expected="the evaluation's answers",
        hint="nothing was registered; thaw run --force evaluate, and report it if it stays",
    )
