"""The stages of dvc.yaml: why one is stale, bringing its outputs back, remembering new ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.dvc_yaml import may_become, placeholders
from pipeline.errors import VersioningError
from pipeline.redaction import redact
from pipeline.versioning import stale_reasons
from pipeline.versioning.integrity import discard_damaged
from pipeline.workspace import STEPS

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage


@dataclass(frozen=True)
class StageState:
    """Whether a stage's outputs are what its inputs determine.

    Args:
        why: what makes it stale, in a user's words; empty where it is fresh.
        after: stale stages before it; while there are any, `fresh` speaks of their present outputs only.
        outputs: hashes of its outputs, as dvc.lock remembers them; empty where it never ran.
    """

    fresh: bool
    why: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageSnapshot:
    """What a stage depends on, and which output files there were, before it ran."""

    stage: str
    inputs: dict[str, Any]  # path → hash; parameter file → values
    leftovers: frozenset[tuple[str, int, int]]  # path, inode, mtime of output files
    placeholders: dict[str, bytes]  # lock files that the step may fill in: path → content


def load(repo: Repo, name: str) -> PipelineStage:
    """The stage of that name, with what dvc.lock remembers of it."""
    return repo.stage.load_one(str(Path(repo.root_dir) / "dvc.yaml"), name)


def data_of(repo: Repo, data: Path) -> Output:
    """The data folder, as the first stage depends on it.

    Raises:
        VersioningError: it does not.
    """
    reader = load(repo, STEPS[0])
    for dep in reader.deps:
        if Path(dep.fs_path) == data:
            return dep
    raise VersioningError(
        f"{Path(repo.root_dir) / 'dvc.yaml'}", found=f"stage {reader.name} does not depend on the data",
        expected=f"{data.name}, which params.yaml names as data.path", hint="correct it there",
    )  # fmt: skip


def states(repo: Repo) -> dict[str, StageState]:
    """The state of every stage, in order; no other file is searched for stages."""
    found: dict[str, StageState] = {}
    stages = {stage.name: stage for stage in repo.stage.load_all(str(Path(repo.root_dir) / "dvc.yaml"))}
    for name in [name for name in STEPS if name in stages]:
        read = {stale_reasons.name(dep) for dep in stages[name].deps}
        before = [earlier for earlier in found if f"artifacts/{earlier}" in read]
        stale = {late for e in before for late in (*found[e].after, *([] if found[e].fresh else [e]))}
        now = state(stages[name])
        found[name] = replace(now, after=tuple(earlier for earlier in found if earlier in stale))
    return found


def state(stage: PipelineStage) -> StageState:
    """The state of one stage."""
    outputs = tuple(out.hash_info.value for out in stage.outs if out.hash_info)
    why = stale_reasons.why(stage) or (
        stale_reasons.ledger_objects(Path(stage.repo.root_dir)) if stage.name == "split" else ()
    )
    shown = tuple(redact(reason) for reason in why)  # it may name a setting's old and new value
    return StageState(not why, shown, outputs=outputs)


def snapshot(stage: PipelineStage) -> StageSnapshot:
    """What the stage depends on now, and which output files there are."""
    stage.save_deps()
    return StageSnapshot(stage.name, _inputs(stage), frozenset(_files(stage)), _placeholders(stage))


def restore(stage: PipelineStage) -> bool:
    """Whether outputs that these inputs once had are there again, and remembered."""
    from dvc.stage.cache import RunCacheNotFoundError

    if _only_cache_lost(stage):
        stage.commit()
    else:
        # As `dvc repro` does, outputs go first: what was changed by hand must not stay among what comes back.
        stage.remove_outs()
        try:
            stage.repo.stage_cache.restore(stage)
        except RunCacheNotFoundError:
            return False
        stage.save(run_cache=False)
        if [file for out in stage.outs for file in discard_damaged(out)]:
            return False
        _remember(stage)
    return stage.name != "split" or not stale_reasons.ledger_objects(Path(stage.repo.root_dir))


def commit(stage: PipelineStage, before: StageSnapshot) -> None:
    """Remembers the outputs, unless an input is another than before or an output was not made meanwhile.

    A placeholder that the step filled in is remembered as it is now, as `dvc repro` does, which hashes dependencies
    after the command.
    """
    _refuse_unmade(stage, before)
    # Hashed first, then compared, then written: what is compared is what is written.
    stage.save(run_cache=False)
    inputs = _inputs(stage)
    filled = _filled(stage, before)
    expected = {path: inputs.get(path) if path in filled else value for path, value in before.inputs.items()}
    changed = stale_reasons.input_changes(expected, inputs)
    if changed:
        raise VersioningError(
            f"step {before.stage}", found="what it depends on changed while it ran; nothing was committed",
            expected="the same inputs from its start to its end", hint="thaw run", details=changed,
        )  # fmt: skip
    _remember(stage)


def _remember(stage: PipelineStage) -> None:
    """Writes a stage that was just hashed to the run-cache, the cache and dvc.lock."""
    stage.repo.stage_cache.save(stage)
    stage.commit()
    stage.dump(update_pipeline=False)


def _inputs(stage: PipelineStage) -> dict[str, Any]:
    return {stale_reasons.name(dep): dep.hash_info.value for dep in stage.deps}


def _placeholders(stage: PipelineStage) -> dict[str, bytes]:
    root = Path(stage.repo.root_dir)
    present = [file for file in placeholders(stage.name) if (root / file).is_file()]
    return {file: (root / file).read_bytes() for file in present}


def _filled(stage: PipelineStage, before: StageSnapshot) -> set[str]:
    """The placeholders that only grew since the snapshot."""
    now = _placeholders(stage)
    return {file for file, content in before.placeholders.items() if may_become(content, now.get(file, b""))}


def _files(stage: PipelineStage) -> Iterator[tuple[str, int, int]]:
    for out in stage.outs:
        path = Path(out.fs_path)
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                facts = file.stat()
                yield str(file.relative_to(stage.repo.root_dir)), facts.st_ino, facts.st_mtime_ns


def _refuse_unmade(stage: PipelineStage, before: StageSnapshot) -> None:
    made = list(_files(stage))
    outs = [stale_reasons.name(out) for out in stage.outs]
    details = [f"{name} was there before the run" for name, *_ in sorted(before.leftovers.intersection(made))]
    details += [
        f"{out} is missing or empty" for out in outs if not any(Path(name).is_relative_to(out) for name, *_ in made)
    ]
    if details:
        raise VersioningError(
            f"step {before.stage}", found="outputs that this run did not make; nothing was committed",
            expected="every declared output, made by this run", hint=f"thaw run --force {before.stage}",
            details=details,
        )  # fmt: skip


def _only_cache_lost(stage: PipelineStage) -> bool:
    """Whether inputs and outputs are as remembered and just the cache lacks the outputs."""
    entries = (*stage.deps, *stage.outs)
    return all(entry.hash_info for entry in entries) and not any(stage.changed_entries())
