"""The steps there are. dvc.yaml, the flow's order, `thaw step`, freshness checks and
preloading follow from this table.

To add a step: an entry here, and its function. Functions and hooks are `module:name`,
so that reading the table imports none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline import records
from pipeline.errors import ConfigError
from pipeline.records import Record

DATA = "${data.path}"  # DVC fills it in from params.yaml
WHOLE_CONFIG = "*"


@dataclass(frozen=True)
class LockFile:
    """A small lock file in the workspace's root, on which a step depends and which the
    step itself may fill in.

    DVC refuses to run a stage that lacks a dependency, so the file always exists: `thaw
    init`, and `thaw run` where it is missing, write `content`. The step may then add
    keys, but never change one: `Versioning.commit` accepts a file that grew while the
    step ran, and dvc.lock holds it as it was afterwards.

    Args:
        file: its name; not `*.dvc`, which DVC refuses as a dependency.
        step: the step that depends on it.
        content: a YAML (or JSON) mapping that says nothing yet, such as `{}`.
    """

    file: str
    step: str
    content: str = "{}\n"


@dataclass(frozen=True)
class StepEntry:
    """One step.

    Args:
        function: called with the settings, then the records read, then `context`; and
            `out`, the emptied output folder, where the step has one. Returns its
            record.
        record: the kind of record that it returns.
        settings: the sections of the config that the function is given, in order.
        summary: makes a line of the record.
        reads: the earlier steps whose records the function is given, in order.
        reads_data: whether it depends on the data folder.
        params: the keys of params.yaml that DVC tracks for it.
        skipped_by: what tells that the step need not run: DVC, or the receipt of its
            last run.
        refresh: called before its freshness is asked, as `refresh(workspace, reasons,
            console, forced=...)`; returns whether it changed something that the step
            depends on.
        is_tracked: whether it records a run in the tracking store.
        retries: how often it is tried again where the tracking store, a disk or a
            network failed.
        preload: modules that it is about to import, each of which takes seconds.
    """

    function: str
    record: type[Record]
    settings: tuple[str, ...]
    summary: str
    reads: tuple[str, ...] = ()
    reads_data: bool = False
    params: tuple[str, ...] = ()
    skipped_by: Literal["dvc", "receipt"] = "dvc"
    refresh: str = ""
    is_tracked: bool = False
    retries: int = 0
    preload: tuple[str, ...] = ()


STEPS: dict[str, StepEntry] = {
    "validate": StepEntry(
        function="pipeline.steps.validate:validate",
        record=records.ValidateRecord,
        settings=("data", "task"),
        summary="pipeline.steps.summary:summarize_validate",
        reads_data=True,
        params=("engine", "data", "task"),
        preload=("great_expectations",),
    ),
    "split": StepEntry(
        function="pipeline.steps.split:split",
        record=records.SplitRecord,
        settings=("split",),
        summary="pipeline.steps.summary:summarize_split",
        reads=("validate",),
        params=("engine", "split"),
    ),
    "backbone": StepEntry(
        function="pipeline.steps.backbone:backbone",
        record=records.BackboneRecord,
        settings=("backbone",),
        summary="pipeline.steps.summary:summarize_backbone",
        params=("engine", "backbone"),
        preload=("torchvision",),
    ),
    "finetune": StepEntry(
        function="pipeline.steps.finetune:finetune",
        record=records.FinetuneRecord,
        settings=("finetune", "task"),
        summary="pipeline.steps.summary:summarize_finetune",
        reads=("split", "backbone"),
        reads_data=True,
        params=("engine", "task", "finetune"),
        refresh="pipeline.steps.champion:follow",
        is_tracked=True,
        preload=("torchvision",),
    ),
    "evaluate": StepEntry(
        function="pipeline.steps.evaluate:evaluate",
        record=records.EvaluateRecord,
        settings=("evaluate", "task"),
        summary="pipeline.steps.summary:summarize_evaluate",
        reads=("split", "finetune"),
        reads_data=True,
        params=("engine", "task.name", "evaluate"),
        is_tracked=True,
        preload=("torchvision",),
    ),
    "register": StepEntry(
        function="pipeline.steps.register:register_evaluated",
        record=records.RegisterRecord,
        settings=(WHOLE_CONFIG,),
        summary="pipeline.steps.summary:summarize_register",
        reads=("validate", "split", "backbone", "finetune", "evaluate"),
        skipped_by="receipt",
        is_tracked=True,
        retries=2,
    ),
    "promote": StepEntry(
        function="pipeline.steps.promote:promote_registered",
        record=records.PromoteRecord,
        settings=(WHOLE_CONFIG,),
        summary="pipeline.steps.summary:summarize_promote",
        reads=("validate", "split", "backbone", "finetune", "evaluate", "register"),
        skipped_by="receipt",
        retries=2,
    ),
}

LOCK_FILES: tuple[LockFile, ...] = (
    LockFile("backbone.lock", "backbone"),
    LockFile("baseline.lock", "finetune"),
    LockFile("champion.lock", "finetune"),
)

DVC_STAGES: tuple[str, ...] = tuple(
    name for name, entry in STEPS.items() if entry.skipped_by == "dvc"
)


def find_step(name: str) -> StepEntry:
    """The entry of a step.

    Raises:
        ConfigError: there is no such step.
    """
    if name not in STEPS:
        raise ConfigError("step", found=name, expected="one of " + ", ".join(STEPS))
    return STEPS[name]


def stage_dependencies(name: str) -> list[str]:
    """The paths that a step depends on as a DVC stage: data, earlier outputs, lock
    files.
    """
    entry = STEPS[name]
    dependencies = [DATA] if entry.reads_data else []
    dependencies += [f"artifacts/{earlier}" for earlier in entry.reads]
    dependencies += lock_files(name)
    return dependencies


def lock_files(name: str) -> list[str]:
    """The lock files that a step depends on and may fill in."""
    return [entry.file for entry in LOCK_FILES if entry.step == name]


def steps_before(name: str) -> list[str]:
    """The steps whose outputs a step needs, directly or through others, in order."""
    needed: set[str] = set()
    for earlier in reversed(STEPS):
        if earlier in STEPS[name].reads or any(
            earlier in STEPS[later].reads for later in needed
        ):
            needed.add(earlier)
    return [step for step in STEPS if step in needed]


def steps_after(changed: set[str]) -> set[str]:
    """These steps, and every step that reads an output of theirs, directly or through
    others.
    """
    affected = set(changed)
    for name, entry in STEPS.items():
        if affected.intersection(entry.reads):
            affected.add(name)
    return affected
