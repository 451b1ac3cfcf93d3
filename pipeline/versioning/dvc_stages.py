"""The stages of dvc.yaml: why one is stale, restoring its outputs, committing new ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.dvc_yaml import only_grew
from pipeline.errors import VersioningError
from pipeline.redaction import redact
from pipeline.step_table import DVC_STAGES, lock_files
from pipeline.versioning import stale_reasons
from pipeline.versioning.integrity import discard_damaged_files

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage


@dataclass(frozen=True)
class StageState:
    """Whether a stage's outputs are what its inputs determine.

    Args:
        reasons: what makes it stale, in a user's words; empty where it is fresh.
        stale_before: stale stages before it; while there are any, `fresh` speaks of
            their present outputs only.
        outputs: hashes of its outputs, from dvc.lock; empty where it never ran.
    """

    fresh: bool
    reasons: tuple[str, ...] = ()
    stale_before: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageSnapshot:
    """What a stage depends on, and which output files there were, before it ran.

    Args:
        inputs: path → hash; parameter file → values.
        leftovers: path, inode and modification time of output files.
        lock_files: content of the lock files that the step may fill in.
    """

    stage: str
    inputs: dict[str, Any]
    leftovers: frozenset[tuple[str, int, int]]
    lock_files: dict[str, bytes]


def load_stage(repo: Repo, name: str) -> PipelineStage:
    """The stage of that name, with its entry in dvc.lock."""
    dvc_yaml = Path(repo.root_dir) / "dvc.yaml"
    return repo.stage.load_one(str(dvc_yaml), name)


def data_dependency(repo: Repo, data: Path) -> Output:
    """The data folder, as the first stage depends on it.

    Raises:
        VersioningError: it does not.
    """
    reader = load_stage(repo, DVC_STAGES[0])
    for dependency in reader.deps:
        if Path(dependency.fs_path) == data:
            return dependency
    raise VersioningError(
        f"{Path(repo.root_dir) / 'dvc.yaml'}",
        found=f"stage {reader.name} does not depend on the data",
        expected=f"{data.name}, which params.yaml names as data.path",
        hint="correct it there",
    )


def output_paths(stage: PipelineStage) -> list[Path]:
    """Where a stage's outputs lie."""
    return [Path(output.fs_path) for output in stage.outs]


def stage_states(repo: Repo) -> dict[str, StageState]:
    """The state of every stage, in order; no other file is searched for stages."""
    stages = {}
    for stage in repo.stage.load_all(str(Path(repo.root_dir) / "dvc.yaml")):
        stages[stage.name] = stage
    states: dict[str, StageState] = {}
    for name in DVC_STAGES:
        if name not in stages:
            continue
        inputs = {
            stale_reasons.entry_path(dependency) for dependency in stages[name].deps
        }
        stale: set[str] = set()
        for earlier, state in states.items():
            if f"artifacts/{earlier}" in inputs:
                stale.update(state.stale_before)
                if not state.fresh:
                    stale.add(earlier)
        in_order = tuple(earlier for earlier in states if earlier in stale)
        states[name] = replace(stage_state(stages[name]), stale_before=in_order)
    return states


def stage_state(stage: PipelineStage) -> StageState:
    """The state of one stage."""
    outputs = tuple(output.hash_info.value for output in stage.outs if output.hash_info)
    reasons = stale_reasons.list_reasons(stage)
    if not reasons and stage.name == "split":
        reasons = stale_reasons.ledger_reasons(Path(stage.repo.root_dir))
    # One may name a setting's old and new value.
    shown = tuple(redact(reason) for reason in reasons)
    return StageState(not reasons, shown, outputs=outputs)


def take_snapshot(stage: PipelineStage) -> StageSnapshot:
    """What the stage depends on now, and which output files there are."""
    stage.save_deps()
    leftovers = frozenset(_list_output_files(stage))
    return StageSnapshot(
        stage.name, _input_hashes(stage), leftovers, _read_lock_files(stage)
    )


def restore_outputs(stage: PipelineStage) -> bool:
    """Whether outputs that these inputs once had are there again, and committed."""
    from dvc.stage.cache import RunCacheNotFoundError

    if _lacks_only_cache(stage):
        stage.commit()
    else:
        # As `dvc repro` does, outputs go first: what was changed by hand must not stay
        # among what comes back.
        stage.remove_outs()
        try:
            stage.repo.stage_cache.restore(stage)
        except RunCacheNotFoundError:
            return False
        stage.save(run_cache=False)
        damaged = []
        for output in stage.outs:
            damaged += discard_damaged_files(output)
        if damaged:
            return False
        _write_commit(stage)
    return stage.name != "split" or not stale_reasons.ledger_reasons(
        Path(stage.repo.root_dir)
    )


def commit_outputs(stage: PipelineStage, before: StageSnapshot) -> None:
    """Commits the outputs, unless an input is another than before or an output was not
    made meanwhile.

    A lock file that the step filled in is committed as it is now, as `dvc repro` does,
    which hashes dependencies after the command.

    Raises:
        VersioningError: see above; nothing is committed.
    """
    _refuse_unmade_outputs(stage, before)
    # Hashed first, then compared, then written: what is compared is what is written.
    stage.save(run_cache=False)
    inputs = _input_hashes(stage)
    expected = dict(before.inputs)
    for path in _grown_lock_files(stage, before):
        expected[path] = inputs.get(path)
    changes = stale_reasons.list_input_changes(expected, inputs)
    if changes:
        raise VersioningError(
            f"step {before.stage}",
            found="what it depends on changed while it ran; nothing was committed",
            expected="the same inputs from its start to its end",
            hint="thaw run",
            details=changes,
        )
    _write_commit(stage)


def _write_commit(stage: PipelineStage) -> None:
    """Writes a stage that was just hashed to the run-cache, the cache and dvc.lock."""
    stage.repo.stage_cache.save(stage)
    stage.commit()
    stage.dump(update_pipeline=False)


def _input_hashes(stage: PipelineStage) -> dict[str, Any]:
    hashes = {}
    for dependency in stage.deps:
        hashes[stale_reasons.entry_path(dependency)] = dependency.hash_info.value
    return hashes


def _read_lock_files(stage: PipelineStage) -> dict[str, bytes]:
    root = Path(stage.repo.root_dir)
    contents = {}
    for file in lock_files(stage.name):
        if (root / file).is_file():
            contents[file] = (root / file).read_bytes()
    return contents


def _grown_lock_files(stage: PipelineStage, before: StageSnapshot) -> set[str]:
    """The lock files that only grew since the snapshot."""
    now = _read_lock_files(stage)
    grown = set()
    for file, content in before.lock_files.items():
        if only_grew(content, now.get(file, b"")):
            grown.add(file)
    return grown


def _list_output_files(stage: PipelineStage) -> Iterator[tuple[str, int, int]]:
    """Path, inode and modification time of every file of the stage's outputs."""
    for output in output_paths(stage):
        files = [output] if output.is_file() else output.rglob("*")
        for file in files:
            if file.is_file():
                # Not a FileStat: a file that was there before the run must be known
                # where its mode or links changed.
                facts = file.stat()
                name = str(file.relative_to(stage.repo.root_dir))
                yield name, facts.st_ino, facts.st_mtime_ns


def _refuse_unmade_outputs(stage: PipelineStage, before: StageSnapshot) -> None:
    files = list(_list_output_files(stage))
    details = []
    for name, *_ in sorted(before.leftovers.intersection(files)):
        details.append(f"{name} was there before the run")
    for output in stage.outs:
        path = stale_reasons.entry_path(output)
        if not any(Path(name).is_relative_to(path) for name, *_ in files):
            details.append(f"{path} is missing or empty")
    if details:
        raise VersioningError(
            f"step {before.stage}",
            found="outputs that this run did not make; nothing was committed",
            expected="every declared output, made by this run",
            hint=f"thaw run --force {before.stage}",
            details=details,
        )


def _lacks_only_cache(stage: PipelineStage) -> bool:
    """Whether inputs and outputs are as dvc.lock has them and just the cache lacks the
    outputs.
    """
    entries = (*stage.deps, *stage.outs)
    if not all(entry.hash_info for entry in entries):
        return False
    return not any(stage.changed_entries())
