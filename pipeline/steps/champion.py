"""champion.lock: the registered model that a warm start begins from, by the sha256 of its weights.

The finetune stage depends on the lock, so that another champion makes it stale and a restored result is of the champion
that the lock names. When the lock follows the registry:

- With finetune stale for any other reason, or forced, the lock takes the champion there is now.
- Else another champion is a reason of its own, unless its weights are those of this very workspace's last training: a
  model that becomes champion would otherwise be trained from again for ever.

Where the registry cannot be asked, or holds no model of that name, the lock stays as it is, and that is said.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline import manifest
from pipeline.config import Config
from pipeline.context import Console, Context
from pipeline.errors import ThawError, TrackingError, TrainingError, VersioningError
from pipeline.files import replace_text
from pipeline.records import FinetuneRecord, FrozenModel, SplitRecord
from pipeline.training import members, warm_start
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.tracking.registry import ModelVersion

LOCK = "champion.lock"
WEIGHTS, SETTINGS = "weights.safetensors", "model.json"
_SHA256_TAG = "model.sha256"


class Pin(FrozenModel):
    """What the lock says: a version of a registered model, or that there was no champion."""

    model: str
    version: str | None = None
    sha256: str | None = None  # of its weights

    def __str__(self) -> str:
        return f"{self.model} v{self.version}" if self.version else f"no champion of {self.model}"


def read(root: Path) -> Pin | None:
    """What the workspace's lock says; None while it says nothing.

    Raises:
        TrainingError: it is not what Thaw writes.
    """
    path = root / LOCK
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return Pin.model_validate(values) if values != {} else None
    except (OSError, ValueError, ValidationError) as fault:
        raise TrainingError(
            str(path),
            found="not the JSON that Thaw wrote",
            expected="model, version and sha256 of the champion",
            hint="restore it from version control; `{}` in its place takes the champion there is now",
        ) from fault


def fill(config: Config, workspace: Workspace) -> None:
    """Names the champion there is now, where a warm start is asked for and the lock says nothing yet.

    Raises:
        TrackingError: the registry cannot be asked.
    """
    if config.finetune.warm_start == "champion" and read(workspace.root) is None:
        _write(workspace.root, _ask(config, workspace))


def follow(workspace: Workspace, reasons: Sequence[str], console: Console, *, forced: bool = False) -> bool:
    """Brings the lock up to date by the rule above; returns whether it changed.

    Args:
        reasons: why finetune is stale, as DVC says.
        forced: whether it runs anyway.

    Raises:
        TrainingError: the lock is not what Thaw writes.
    """
    config = workspace.config()
    before = read(workspace.root)
    runs_anyway = forced or any(not reason.startswith(LOCK) for reason in reasons)
    if config.finetune.warm_start == "none":
        if before is None or not runs_anyway:
            return False
        replace_text(workspace.root / LOCK, "{}\n")
        return True
    now = _ask_patiently(config, workspace, before, console)
    if now is None or (before is not None and (before.model, before.sha256) == (now.model, now.sha256)):
        return False
    if before is not None and not runs_anyway and now.sha256 in _own_weights(workspace):
        return False
    if before is not None:
        console.info(f"warm start: {now} instead of {before}")
    _write(workspace.root, now)
    return True


def load(config: Config, split: SplitRecord, context: Context) -> warm_start.Champion | None:
    """The champion that the lock names, with its files on this machine; None where it names none.

    Raises:
        TrackingError: it is not to be had, or is another model than the lock says.
        TrainingError: it learnt from what is a test example here, or does not say what it learnt from.
    """
    workspace = Workspace(context.root)
    pin = read(context.root) or _ask(config, workspace)
    if pin.version is None or pin.sha256 is None:
        context.console.info("warm start: there is no champion yet; starting from the backbone")
        return None
    folder = context.scratch / "champion" / pin.sha256[:32]
    if not _is_whole(folder, pin.sha256):
        _fetch(config, workspace, pin, folder)
    known = _members(folder, pin)
    _refuse_leak(pin, known, split)
    context.console.info(f"warm start: from {pin}")
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return warm_start.Champion(folder / WEIGHTS, tuple(settings["labels"]), pin.sha256, known)


def _write(root: Path, pin: Pin) -> None:
    text = json.dumps(pin.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False)
    replace_text(root / LOCK, text + "\n")


def _ask_patiently(config: Config, workspace: Workspace, before: Pin | None, console: Console) -> Pin | None:
    """The champion there is now; None where nobody can say, and the lock is to stay as it is."""
    try:
        return _ask(config, workspace, need_versions=before is not None and before.version is not None)
    except ThawError as fault:
        kept = f"; champion.lock keeps {before}" if before else ""
        console.info(f"warm start: the registry cannot be asked ({fault.subject}: {fault.found}){kept}")
        return None


def _ask(config: Config, workspace: Workspace, *, need_versions: bool = False) -> Pin:
    """The champion there is now.

    Raises:
        TrackingError: the registry does not answer or refuses; or, with `need_versions`, holds no model of that name,
            as a new clone's does not.
    """
    from pipeline.tracking import registry
    from pipeline.tracking import store as stores

    name = workspace.model_name(config)
    if config.tracking.enabled:
        store = stores.find(config.tracking, workspace)
        answer = stores.probe(store)
        if answer.silent:
            raise TrackingError(
                f"tracking store {store.shown}",
                found=f"no answer: {answer.found}",
                expected=f"the champion of {name}, to start from",
                hint="see that it is up and reachable, or set finetune.warm_start: none",
            )
    versions = registry.registered(config, workspace, name)
    if need_versions and not versions:
        raise TrackingError(f"model {name}", found="nothing is registered", hint="thaw run registers a model")
    champion = next((one for one in versions if registry.CHAMPION in one.aliases), None)
    if champion is None:
        return Pin(model=name)
    return Pin(model=name, version=champion.version, sha256=_weights_digest(config, workspace, champion))


def _weights_digest(config: Config, workspace: Workspace, champion: ModelVersion) -> str:
    """The sha256 of a version's weights: as it is tagged, or by fetching what someone else registered."""
    from pipeline.tracking import registry
    from pipeline.tracking import store as stores

    tagged = champion.tags.get(_SHA256_TAG)
    if tagged:
        return tagged
    folder = workspace.scratch / "champion" / f"untagged-v{champion.version}"
    files = registry.fetch(stores.find(config.tracking, workspace), champion, folder)
    return manifest.sha256(files / "artifacts" / "model" / WEIGHTS)


def _own_weights(workspace: Workspace) -> set[str]:
    """Digests of what this workspace's last training made."""
    try:
        record = FinetuneRecord.load(workspace.output("finetune"))
        return {record.candidate(name).model_sha256 for name in record.candidates}
    except VersioningError:
        return set()


def _is_whole(folder: Path, sha256: str) -> bool:
    weights = folder / WEIGHTS
    return (folder / SETTINGS).is_file() and weights.is_file() and manifest.sha256(weights) == sha256


def _fetch(config: Config, workspace: Workspace, pin: Pin, folder: Path) -> None:
    """Brings a version's files into `folder`: weights, settings and members.

    Raises:
        TrackingError: they are not to be had, or the weights are others than the lock says.
    """
    from pipeline.tracking import registry
    from pipeline.tracking import store as stores

    store = stores.find(config.tracking, workspace)
    version = next(
        (one for one in registry.registered(config, workspace, pin.model) if one.version == pin.version), None
    )
    if version is None:
        raise TrackingError(
            f"{pin}, which {LOCK} names",
            found=f"no such version at {store.shown}",
            expected="the model that the training is to start from",
            hint=f"set tracking.uri to the registry that has it, or put {{}} into {LOCK} to take the champion there is",
        )
    arriving = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(arriving, ignore_errors=True)
    files = registry.fetch(store, version, arriving)
    model = files / "artifacts" / "model"
    found = manifest.sha256(model / WEIGHTS)
    if found != pin.sha256:
        raise TrackingError(
            f"{pin}, which {LOCK} names",
            found=f"weights with sha256 {found} at {store.shown}",
            expected=f"{pin.sha256}",
            hint=f"set tracking.uri to the registry that has it, or put {{}} into {LOCK} to take the champion there is",
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wanted = [model / SETTINGS, files / members.FILE, model / WEIGHTS]
    for file in wanted:
        if file.is_file():
            file.replace(folder / file.name)
    shutil.rmtree(arriving, ignore_errors=True)


def _members(folder: Path, pin: Pin) -> Any:
    """What the champion learnt from.

    Raises:
        TrainingError: it does not say.
    """
    path = folder / members.FILE
    if not path.is_file():
        raise TrainingError(
            f"finetune.warm_start: {pin}, the champion",
            found=f"no {members.FILE}, so nothing tells whether it learnt from examples that are test here",
            expected="a version that this version of Thaw, or a later one, registered",
            hint="set finetune.warm_start: none; the model it registers can be started from",
        )
    return members.read(path)


def _refuse_leak(pin: Pin, known: Any, split: SplitRecord) -> None:
    overlap = members.overlap(known, manifest.read(split.manifest))
    if not overlap.paths:
        return
    counts = f"{overlap.trained} trained on and {overlap.validated} validated on"
    related = f"; {overlap.related} more belong with such an example" if overlap.related else ""
    raise TrainingError(
        f"finetune.warm_start: {pin}, the champion",
        found=f"of {overlap.tests} test examples here it knows {len(overlap.paths)}: {counts}{related}",
        expected="a champion that has seen none of them: its test result would say nothing",
        hint="set finetune.warm_start: none; or, where ledger.parquet was lost, bring back the one that ledger.dvc pins",
        details=overlap.paths,
    )
