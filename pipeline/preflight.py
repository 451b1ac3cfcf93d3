"""What would stop a run later, found before any work is done: names, settings, weights,
tracking store, disk room.

`quick_checks` need no heavy library. `thorough_checks` ask the weights' server and the
tracking store, and import what the run is about to import anyway. Both look only at
what the stale steps need; `thaw doctor` lists all of them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline import metric_registry
from pipeline.config import Config, expand_variables
from pipeline.errors import ConfigError, PreflightError, ThawError
from pipeline.files import expanded
from pipeline.records import RECORD, BackboneRecord
from pipeline.step_table import STEPS, steps_after
from pipeline.tasks import catalog
from pipeline.workspace import Workspace

LONGEST_EXPERIMENT_NAME = 500  # MLflow's limit
SPARE_BYTES = 2**30  # disk that is always left to others
BYTES_PER_PARAMETER = 4
# Of a candidate: its own folder, the step's output, the registered one.
MODEL_COPIES = 3
# Two checkpoints of weights, the best weights and two moments of the optimiser.
CHECKPOINT_COPIES = 8
ALL_STEPS = tuple(STEPS)


@dataclass(frozen=True)
class PreflightCheck:
    """One thing that was looked at.

    Args:
        state: `warning` does not stop a run.
        hint: what to do where it is not ok.
    """

    name: str
    state: Literal["ok", "warning", "error"]
    found: str
    expected: str = ""
    hint: str = ""


def quick_checks(
    workspace: Workspace, config: Config, stale: Collection[str] = ALL_STEPS
) -> Iterator[PreflightCheck]:
    """Names and settings, from the settings alone.

    Args:
        stale: the steps that will run; registration, which every run may come to,
            besides them.
    """
    yield _check_workspace_path(workspace)
    yield _check_model_name(workspace, config)
    yield _check_experiment_name(workspace, config)
    yield _check_thresholds_early(config)
    yield _check_promotion_metric(config)
    if "finetune" in stale:
        yield _ask("recipes", lambda: _list_recipes(config))
        yield _ask("primary metric", lambda: _check_primary_metric(config))
        if (
            "backbone" not in stale
            and (workspace.output("backbone") / RECORD).is_file()
        ):
            yield _ask("input", lambda: _check_input(workspace, config))
    if "backbone" in stale:
        yield _check_weights_file(workspace, config)


def thorough_checks(
    workspace: Workspace, config: Config, stale: Collection[str] = ALL_STEPS
) -> Iterator[PreflightCheck]:
    """Weights, device, disk room and tracking store."""
    if "backbone" in stale:
        yield _ask("backbone weights", lambda: _check_weights(workspace, config))
    if "finetune" in stale:
        yield _ask("backbone for the task", lambda: _check_backbone(config))
        yield _ask("device", lambda: _check_device(config))
        yield _ask("disk room", lambda: _check_model_room(workspace, config))
        yield _check_cache_room(workspace, config)
    if config.tracking.enabled:
        yield _check_tracking_store(workspace, config)


def require(checks: Sequence[PreflightCheck]) -> None:
    """Refuses to start where a check failed.

    Raises:
        PreflightError: names every failed check, what was found, what was expected and
            what to do.
    """
    failed = [check for check in checks if check.state == "error"]
    if not failed:
        return
    if len(failed) == 1:
        only = failed[0]
        raise PreflightError(
            only.name, found=only.found, expected=only.expected, hint=only.hint
        )
    details = []
    for check in failed:
        details.append(f"{check.name}: {check.found}; {check.hint or check.expected}")
    raise PreflightError(
        "this workspace",
        found=f"{len(failed)} things that would stop the run later",
        hint="see below",
        details=details,
    )


def needed_steps(
    stale: Collection[str], forced: Collection[str] = ()
) -> tuple[str, ...]:
    """The steps that may run: the stale and the forced ones, and every step that reads
    an output of theirs.
    """
    needed = steps_after({*stale, *forced})
    return tuple(step for step in STEPS if step in needed)


def check_thresholds(config: Config, classes: int) -> None:
    """Refuses thresholds on metrics that a problem of so many classes does not have.

    Raises:
        ConfigError: names them and the metrics there are.
    """
    kind = catalog.find(config.task.name).scorer.kind
    known = metric_registry.threshold_names(config.evaluate.top_k, classes, kind)
    unknown = sorted(set(config.register_.thresholds) - set(known))
    if unknown:
        raise ConfigError(
            "register.thresholds",
            found=", ".join(unknown),
            expected="one of " + ", ".join(known),
            hint="correct it in params.yaml",
        )


def _ask(name: str, ask: Callable[[], str]) -> PreflightCheck:
    """A check by a function that raises where something is wrong, and says what it
    found where nothing is.
    """
    try:
        return PreflightCheck(name, "ok", ask())
    except ThawError as fault:
        details = "".join(f"; {detail}" for detail in fault.details)
        return PreflightCheck(
            name,
            "error",
            f"{fault.subject}: {fault.found}{details}",
            fault.expected,
            fault.hint,
        )


def _check_workspace_path(workspace: Workspace) -> PreflightCheck:
    root = str(workspace.root)
    # MLflow takes a path for an address: %20 in it would be a blank.
    escapes = re.findall("%[0-9A-Fa-f]{2}", root)
    letters = {letter for letter in root if letter == "?" or not letter.isprintable()}
    odd = sorted({*escapes, *letters})
    if odd:
        return PreflightCheck(
            "workspace path",
            "error",
            f"{', '.join(map(repr, odd))} in {root!r}",
            "a path that can stand in an address",
            "rename the folder",
        )
    return PreflightCheck("workspace path", "ok", root)


def _check_model_name(workspace: Workspace, config: Config) -> PreflightCheck:
    name = workspace.model_name(config)
    bad = sorted(
        {letter for letter in name if letter in "/:" or not letter.isprintable()}
    )
    if {"'", '"'} <= set(name):  # MLflow cannot look for it
        bad.append("' and \"")
    if bad or not name.strip() or name in (".", "..") or name != name.strip():
        return PreflightCheck(
            "model name",
            "error",
            repr(name),
            "a name that the model registry takes: without '/', ':', both kinds of quotes and blanks around it",
            "set register.name in params.yaml"
            if config.register_.name
            else "rename the folder",
        )
    return PreflightCheck("model name", "ok", name)


def _check_experiment_name(workspace: Workspace, config: Config) -> PreflightCheck:
    name = config.tracking.experiment or workspace.root.name
    if not name.strip() or len(name) > LONGEST_EXPERIMENT_NAME:
        return PreflightCheck(
            "experiment name",
            "error",
            repr(name[:50]),
            f"1 to {LONGEST_EXPERIMENT_NAME} characters",
            "set tracking.experiment in params.yaml",
        )
    return PreflightCheck("experiment name", "ok", name)


def _list_recipes(config: Config) -> str:
    from pipeline.training import recipes

    names = recipes.recipe_names(config.finetune)
    for name in names:
        recipes.check_name(name, config.finetune)
    return ", ".join(names)


def _check_primary_metric(config: Config) -> str:
    from pipeline.training import validation_metrics

    validation_metrics.check_primary(
        config.finetune.primary, catalog.find(config.task.name).scorer.kind
    )
    return config.finetune.primary


def _check_input(workspace: Workspace, config: Config) -> str:
    """How examples are presented to the backbone, where that is known already."""
    backbone = BackboneRecord.load(workspace.output("backbone"))
    task = catalog.find(config.task.name)
    task.codec.input_spec(config.task, backbone)
    return f"as {backbone.name} takes it"


def _check_thresholds_early(config: Config) -> PreflightCheck:
    labels = config.data.labels
    kind = catalog.find(config.task.name).scorer.kind
    known = metric_registry.threshold_names(
        config.evaluate.top_k, len(labels) if labels else None, kind
    )
    unknown = sorted(set(config.register_.thresholds) - set(known))
    if unknown:
        return PreflightCheck(
            "register.thresholds",
            "error",
            ", ".join(unknown),
            "one of " + ", ".join(known),
            "correct it in params.yaml",
        )
    wanted = []
    for metric, value in config.register_.thresholds.items():
        wanted.append(f"{metric} {value:g}")
    return PreflightCheck("register.thresholds", "ok", ", ".join(wanted) or "none")


def _check_promotion_metric(config: Config) -> PreflightCheck:
    wanted = config.promotion.metric
    kind = catalog.find(config.task.name).scorer.kind
    known = metric_registry.threshold_names(config.evaluate.top_k, kind=kind)
    if wanted is not None and wanted not in known:
        return PreflightCheck(
            "promotion.metric",
            "error",
            wanted,
            "one of " + ", ".join(known),
            "correct it in params.yaml",
        )
    return PreflightCheck("promotion.metric", "ok", wanted or "how good each answer is")


def _check_weights_file(workspace: Workspace, config: Config) -> PreflightCheck:
    """Whether a file that the settings name is there; needs no knowledge of
    architectures.
    """
    try:
        reference = expand_variables(config.backbone.weights, "backbone.weights")
    except ConfigError as fault:
        return PreflightCheck(
            "weights file", "error", fault.found, fault.expected, fault.hint
        )
    if reference in ("default", "shipped") or "://" in reference.removeprefix(
        "file://"
    ):
        return PreflightCheck("weights file", "ok", reference.partition("://")[0])
    path = workspace.root / expanded(reference.removeprefix("file://"))
    if path.exists():  # a folder, where the provider's networks are folders
        return PreflightCheck("weights file", "ok", str(path))
    return PreflightCheck(
        "weights file",
        "error",
        f"no file or folder {path}",
        "the weights",
        "correct backbone.weights in params.yaml",
    )


def _check_weights(workspace: Workspace, config: Config) -> str:
    from pipeline.models.providers import catalog

    provider = catalog.find(config.backbone.name)
    return provider.check_reachable(config.backbone, workspace.root)


def _check_backbone(config: Config) -> str:
    return catalog.find(config.task.name).network.check_backbone(
        config.backbone, config.task
    )


def _check_device(config: Config) -> str:
    from pipeline.training import hardware

    return hardware.device(config.finetune.plan.device)


def _check_model_room(workspace: Workspace, config: Config) -> str:
    """Room for checkpoints and candidates, which a training cannot do without."""
    from pipeline.models.providers import catalog
    from pipeline.training import recipes

    provider = catalog.find(config.backbone.name)
    each = provider.count_parameters(config.backbone) * BYTES_PER_PARAMETER
    candidates = len(recipes.recipe_names(config.finetune)) + 1
    wanted = each * (MODEL_COPIES * candidates + CHECKPOINT_COPIES)
    free = shutil.disk_usage(workspace.root).free
    if wanted > free:
        raise PreflightError(
            str(workspace.root),
            found=f"{_format_size(free)} free",
            expected=f"about {_format_size(wanted)} for checkpoints and {candidates} candidates",
            hint="make room, or: thaw clean",
        )
    return f"{_format_size(free)} free, about {_format_size(wanted)} needed for checkpoints and candidates"


def _check_cache_room(workspace: Workspace, config: Config) -> PreflightCheck:
    """Room for the store of decoded examples; where there is too little, training is
    slower and no worse.
    """
    each = catalog.find(config.task.name).codec.bytes_per_example(config.task)
    examples = _count_files(workspace.root / config.data.path)
    wanted = min(examples * each, int(config.finetune.plan.pixel_cache_gb * 1e9))
    free = shutil.disk_usage(workspace.root).free - SPARE_BYTES
    if wanted > free:
        return PreflightCheck(
            "cache room",
            "warning",
            f"{_format_size(max(0, free))} to spare",
            f"about {_format_size(wanted)} for decoded examples",
            "make room, or: thaw clean; else examples are decoded in every epoch, which is slower",
        )
    return PreflightCheck(
        "cache room",
        "ok",
        f"about {_format_size(wanted)} for {examples} decoded examples",
    )


def _count_files(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    return sum(path.is_file() for path in folder.rglob("*"))


def _check_tracking_store(workspace: Workspace, config: Config) -> PreflightCheck:
    from pipeline.tracking.probe import probe
    from pipeline.tracking.store import find

    try:
        store = find(config.tracking, workspace)
        answer = probe(store)
    except ThawError as fault:
        return PreflightCheck(
            "tracking store", "error", fault.found, fault.expected, fault.hint
        )
    if answer.silent:
        return PreflightCheck(
            "tracking store",
            "warning",
            f"{store.shown} does not answer: {answer.found}",
            "an answer",
            "start it before the run ends; until then writes to it wait on disk",
        )
    return PreflightCheck("tracking store", "ok", store.shown)


def _format_size(size: float) -> str:
    if size < 1e9:
        return f"{size / 1e6:,.0f} MB"
    return f"{size / 1e9:.1f} GB"
