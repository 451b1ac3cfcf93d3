"""champion.lock: the registered model that a warm start begins from, by the sha256 of
its weights.

The finetune stage depends on the lock, so that another champion makes it stale and a
restored result is of the champion that the lock names. When the lock follows the
registry:

- With finetune stale for any other reason, or forced, the lock takes the champion there
  is now.
- Else another champion is a reason of its own, unless its weights are those of this
  very workspace's last training: a model that becomes champion would otherwise be
  trained from again and again.

Where the registry cannot be asked, or holds no model of that name, the lock stays as it
is, and that is said.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipeline import files, manifest
from pipeline.config import Config
from pipeline.context import Console, Context
from pipeline.errors import ThawError, TrackingError, TrainingError, VersioningError
from pipeline.files import replace_text
from pipeline.promotion.served_answers import KEY_LENGTH, MODEL_FOLDER
from pipeline.records import FinetuneRecord, FrozenModel, SplitRecord
from pipeline.steps.recorded_facts import MODEL_SHA256_TAG
from pipeline.training import members, warm_start
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.tracking.registry import ModelVersion

LOCK = "champion.lock"
WEIGHTS, SETTINGS = "weights.safetensors", "model.json"


class LockedChampion(FrozenModel):
    """What the lock says: a version of a registered model, or that there was no
    champion.

    Args:
        sha256: of its weights.
    """

    model: str
    version: str | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        if self.version:
            return f"{self.model} v{self.version}"
        return f"no champion of {self.model}"

    def same_weights(self, other: LockedChampion) -> bool:
        """Whether both are of one model and one set of weights."""
        if self.model != other.model:
            return False
        return self.sha256 == other.sha256


def read_lock(root: Path) -> LockedChampion | None:
    """What the workspace's lock says; None while it says nothing.

    Raises:
        TrainingError: it is not what Thaw writes.
    """
    path = root / LOCK
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values == {}:
            return None
        return LockedChampion.model_validate(values)
    except (OSError, ValueError, ValidationError) as fault:
        raise TrainingError(
            str(path),
            found="not the JSON that Thaw wrote",
            expected="model, version and sha256 of the champion",
            hint="restore it from version control; `{}` in its place takes the champion there is now",
        ) from fault


def fill(config: Config, workspace: Workspace) -> None:
    """Names the champion there is now, where a warm start is asked for and the lock
    says nothing yet.

    Raises:
        TrackingError: the registry cannot be asked.
    """
    if config.finetune.warm_start != "champion":
        return
    if read_lock(workspace.root) is None:
        _write_lock(workspace.root, _ask_registry(config, workspace))


def follow(
    workspace: Workspace,
    reasons: Sequence[str],
    console: Console,
    *,
    forced: bool = False,
) -> bool:
    """Brings the lock up to date by the rule above; returns whether it changed.

    Args:
        reasons: why finetune is stale, as DVC says.
        forced: whether it runs anyway.

    Raises:
        TrainingError: the lock is not what Thaw writes.
    """
    config = workspace.config()
    before = read_lock(workspace.root)
    other_reasons = [reason for reason in reasons if not reason.startswith(LOCK)]
    runs_anyway = forced or bool(other_reasons)
    if config.finetune.warm_start == "none":
        if before is None or not runs_anyway:
            return False
        replace_text(workspace.root / LOCK, "{}\n")
        return True
    now = _ask_if_possible(config, workspace, before, console)
    if now is None:
        return False
    if before is not None:
        if before.same_weights(now):
            return False
        if not runs_anyway and now.sha256 in _own_weights(workspace):
            return False
        console.info(f"warm start: {now} instead of {before}")
    _write_lock(workspace.root, now)
    return True


def load(
    config: Config, split: SplitRecord, context: Context
) -> warm_start.Champion | None:
    """The champion that the lock names, with its files on this machine; None where it
    names none.

    Raises:
        TrackingError: it cannot be fetched, or is another model than the lock says.
        TrainingError: it learnt from what is a test example here, or does not say what
            it learnt from.
    """
    workspace = Workspace(context.root)
    locked = read_lock(context.root) or _ask_registry(config, workspace)
    if locked.version is None or locked.sha256 is None:
        context.console.info(
            "warm start: there is no champion yet; starting from the backbone"
        )
        return None
    folder = context.scratch / "champion" / locked.sha256[:KEY_LENGTH]
    if not _is_whole(folder, locked.sha256):
        _fetch_files(config, workspace, locked, folder)
    known = _read_members(folder, locked)
    _refuse_leak(locked, known, split)
    context.console.info(f"warm start: from {locked}")
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return warm_start.Champion(
        folder / WEIGHTS, tuple(settings["labels"]), locked.sha256, known
    )


def _write_lock(root: Path, locked: LockedChampion) -> None:
    text = json.dumps(
        locked.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False
    )
    replace_text(root / LOCK, text + "\n")


def _ask_if_possible(
    config: Config,
    workspace: Workspace,
    before: LockedChampion | None,
    console: Console,
) -> LockedChampion | None:
    """The champion there is now; None where nobody can say, and the lock is to stay as
    it is.
    """
    had_version = before is not None and before.version is not None
    try:
        return _ask_registry(config, workspace, need_versions=had_version)
    except ThawError as fault:
        keeps = f"; champion.lock keeps {before}" if before else ""
        console.info(
            f"warm start: the registry cannot be asked ({fault.subject}: {fault.found}){keeps}"
        )
        return None


def _ask_registry(
    config: Config, workspace: Workspace, *, need_versions: bool = False
) -> LockedChampion:
    """The champion there is now.

    Raises:
        TrackingError: the registry does not answer or refuses; or, with
            `need_versions`, holds no model of that name, as a new clone's does not.
    """
    from pipeline.tracking import registered_versions, registry

    name = workspace.model_name(config)
    if config.tracking.enabled:
        _require_answer(config, workspace, name)
    versions = registered_versions.registered(config, workspace, name)
    if need_versions and not versions:
        raise TrackingError(
            f"model {name}",
            found="nothing is registered",
            hint="thaw run registers a model",
        )
    champion = registry.find_champion(versions)
    if champion is None:
        return LockedChampion(model=name)
    sha256 = _find_weights_sha256(config, workspace, champion)
    return LockedChampion(model=name, version=champion.version, sha256=sha256)


def _require_answer(config: Config, workspace: Workspace, name: str) -> None:
    """Asks first with little patience, since a registry that is away is waited for
    otherwise.
    """
    from pipeline.tracking.probe import probe
    from pipeline.tracking.store import find

    store = find(config.tracking, workspace)
    answer = probe(store)
    if answer.silent:
        raise TrackingError(
            f"tracking store {store.shown}",
            found=f"no answer: {answer.found}",
            expected=f"the champion of {name}, to start from",
            hint="see that it is up and reachable, or set finetune.warm_start: none",
        )


def _find_weights_sha256(
    config: Config, workspace: Workspace, champion: ModelVersion
) -> str:
    """The sha256 of a version's weights: as it is tagged, or by fetching what someone
    else registered.
    """
    from pipeline.tracking import registry
    from pipeline.tracking.store import find

    tagged = champion.tags.get(MODEL_SHA256_TAG)
    if tagged:
        return tagged
    folder = workspace.scratch / "champion" / f"untagged-v{champion.version}"
    fetched = registry.fetch(find(config.tracking, workspace), champion, folder)
    return files.sha256(fetched / MODEL_FOLDER / WEIGHTS)


def _own_weights(workspace: Workspace) -> set[str]:
    """Digests of what this workspace's last training made."""
    try:
        record = FinetuneRecord.load(workspace.output("finetune"))
        return {record.candidate(name).model_sha256 for name in record.candidates}
    except VersioningError:
        return set()


def _is_whole(folder: Path, sha256: str) -> bool:
    weights = folder / WEIGHTS
    if not weights.is_file() or not (folder / SETTINGS).is_file():
        return False
    return files.sha256(weights) == sha256


def _fetch_files(
    config: Config, workspace: Workspace, locked: LockedChampion, folder: Path
) -> None:
    """Brings a version's files into `folder`: weights, settings and members.

    Raises:
        TrackingError: they cannot be fetched, or the weights are others than the lock
            says.
    """
    from pipeline.tracking import registered_versions, registry
    from pipeline.tracking.store import find

    store = find(config.tracking, workspace)
    versions = registered_versions.registered(config, workspace, locked.model)
    named = [version for version in versions if version.version == locked.version]
    if not named:
        found = f"no such version at {store.shown}"
        raise _other_champion_error(
            locked, found, "the model that the training is to start from"
        )
    arriving = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(arriving, ignore_errors=True)
    fetched = registry.fetch(store, named[0], arriving)
    weights = fetched / MODEL_FOLDER / WEIGHTS
    sha256 = files.sha256(weights)
    if sha256 != locked.sha256:
        found = f"weights with sha256 {sha256} at {store.shown}"
        raise _other_champion_error(locked, found, f"{locked.sha256}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in (fetched / MODEL_FOLDER / SETTINGS, fetched / members.FILE, weights):
        if file.is_file():
            file.replace(folder / file.name)
    shutil.rmtree(arriving, ignore_errors=True)


def _other_champion_error(
    locked: LockedChampion, found: str, expected: str
) -> TrackingError:
    return TrackingError(
        f"{locked}, which {LOCK} names",
        found=found,
        expected=expected,
        hint=f"set tracking.uri to the registry that has it, or put {{}} into {LOCK} to take the champion there is",
    )


def _read_members(folder: Path, locked: LockedChampion) -> pa.Table:
    """What the champion learnt from.

    Raises:
        TrainingError: it does not say.
    """
    path = folder / members.FILE
    if not path.is_file():
        raise TrainingError(
            f"finetune.warm_start: {locked}, the champion",
            found=f"no {members.FILE}, so nothing tells whether it learnt from examples that are test here",
            expected="a version that this version of Thaw, or a later one, registered",
            hint="set finetune.warm_start: none; the model it registers can be started from",
        )
    return members.read_members(path)


def _refuse_leak(locked: LockedChampion, known: pa.Table, split: SplitRecord) -> None:
    """Refuses a champion that has seen test examples.

    Raises:
        TrainingError: it has; they are named.
    """
    overlap = members.find_overlap(known, manifest.read(split.manifest))
    if not overlap.paths:
        return
    counts = f"{overlap.trained} trained on and {overlap.validated} validated on"
    related = (
        f"; {overlap.related} more belong with such an example"
        if overlap.related
        else ""
    )
    raise TrainingError(
        f"finetune.warm_start: {locked}, the champion",
        found=f"of {overlap.tests} test examples here it knows {len(overlap.paths):,}: {counts}{related}",
        expected="a champion that has seen none of them: its test result would say nothing",
        hint="set finetune.warm_start: none; or, where ledger.parquet was lost, restore the one that ledger.dvc tracks",
        details=overlap.paths,
    )
