"""Data and ledger: pinned by .dvc files, brought back by them, and named by a version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import MemoryFault
from pipeline.memory.proof import discard_damaged
from pipeline.memory.session import Session
from pipeline.records import DataVersion

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage


class Pinned(NamedTuple):
    """A file or folder, and the .dvc file that pins it."""

    path: Path
    pin: Path


def pin(repo: Repo, what: Pinned) -> None:
    """`dvc add`, into a .dvc file of any name and without searching the workspace for stages."""
    with repo.scm_context:
        stage = repo.stage.create(
            single_stage=True, validate=False, fname=str(what.pin), wdir=str(what.pin.parent), outs=[what.path.name]
        )
        stage.add_outs()
        stage.dump()


def ensure(session: Session, what: Pinned) -> None:
    """Brings `what` back where it is missing, or where bringing it was cut short the last time."""
    begun = session.root / ".thaw" / f"bringing-{what.path.name}"
    if what.path.exists() and not begun.exists():
        return
    if not what.pin.is_file():
        raise MemoryFault(
            str(what.path), found=f"no such path, and no {what.pin.name} to bring it back by",
            mend=f"put {what.path.name} there, then: dvc add {what.path.name}",
        )  # fmt: skip
    # What lies there is half brought, or was put there by hand since: nothing goes that the cache does not hold.
    there = what.path.exists()
    begun.parent.mkdir(exist_ok=True)
    begun.touch()
    try:
        session.run(lambda repo: _bring(repo, what, force=not there))
    except MemoryFault:
        if not what.path.exists():
            begun.unlink()  # nothing was brought: what appears later is the user's
        raise
    begun.unlink()


def other(repo: Repo, what: Pinned) -> Path | None:
    """The pinned file, in the cache, where the one on the disk differs from it; else None."""
    out = _out(repo, what)
    if not out.changed_checksum():
        return None
    kept = Path(out.cache.oid_to_path(out.hash_info.value))
    if not kept.is_file():
        repo.fetch([str(what.pin)])
    if not kept.is_file():
        raise _nowhere(repo, what)
    return kept


def version(repo: Repo, data: Pinned, reader: PipelineStage) -> DataVersion:
    """Which data there is now, as the stage `reader` depends on it."""
    deps = [dep for dep in reader.deps if Path(dep.fs_path) == data.path]
    if not deps:
        raise MemoryFault(
            f"{Path(repo.root_dir) / 'dvc.yaml'}", found=f"stage {reader.name} does not depend on the data",
            expected=f"{data.path.name}, which params.yaml names as data.path", mend="correct it there",
        )  # fmt: skip
    deps[0].save()
    found, meta = deps[0].hash_info, deps[0].meta
    revision, committed = _git(repo, data.pin)
    reason = ""
    if not data.pin.is_file():
        reason = f"{data.pin.name} is missing"
    elif _out(repo, data).hash_info != found:
        reason = f"{data.path.name} differs from what {data.pin.name} pins"
    elif revision and not committed:
        reason = f"{data.pin.name} is not committed to Git"
    return DataVersion(
        md5=found.value, size=meta.size or 0, files=meta.nfiles or 0, git_revision=revision, dirty=bool(reason),
        dirty_reason=reason,
    )  # fmt: skip


def _out(repo: Repo, what: Pinned) -> Output:
    return repo.stage.load_one(str(what.pin)).outs[0]


def _bring(repo: Repo, what: Pinned, *, force: bool) -> None:
    from dvc.exceptions import CheckoutError, DvcException

    damaged: list[str] = []
    try:
        repo.checkout([str(what.pin)], force=force)
        damaged = discard_damaged(_out(repo, what))
        if not damaged:
            return
    except CheckoutError:
        pass
    except DvcException as fault:  # it would remove what it does not hold
        if force:
            raise
        raise _unpinned(what) from fault
    try:
        repo.pull([str(what.pin)], force=force)
    except DvcException as fault:
        if not force:
            raise _unpinned(what) from fault
        raise _nowhere(repo, what, damaged) from fault
    damaged = discard_damaged(_out(repo, what))
    if damaged:
        raise _nowhere(repo, what, damaged)


def _unpinned(what: Pinned) -> MemoryFault:
    name = what.path.name
    return MemoryFault(
        str(what.path), found=f"files that {what.pin.name} does not pin, after bringing {name} back was cut short",
        expected=f"what {what.pin.name} pins", mend=f"to go on with {name} as it is: dvc add {name}; else move it away",
    )  # fmt: skip


def _nowhere(repo: Repo, what: Pinned, damaged: list[str] | None = None) -> MemoryFault:
    remote = repo.config["core"].get("remote")
    where = f"remote {remote}: {repo.config['remote'][remote]['url']}" if remote else "no remote configured"
    value = _out(repo, what).hash_info.value
    return MemoryFault(
        str(what.path), found=f"neither the cache nor the remote has {value}, which {what.pin.name} pins"
        + (f", whole: {len(damaged)} files are damaged" if damaged else ""), details=damaged or (),
        expected=where, mend=f"bring {what.path.name} back, or run `dvc push` where it still is",
    )  # fmt: skip


def _git(repo: Repo, file: Path) -> tuple[str | None, bool]:
    """The revision checked out (None without Git or a commit), and whether it holds `file` as it is."""
    from dvc.scm import NoSCM
    from scmrepo.exceptions import SCMError

    if isinstance(repo.scm, NoSCM):
        return None, False
    try:
        revision: str = repo.scm.get_rev()
    except SCMError:
        return None, False
    try:
        path = file.relative_to(Path(repo.scm.root_dir).resolve())
        return revision, bool(repo.scm.get_fs(revision).cat_file(str(path)) == file.read_bytes())
    except FileNotFoundError:
        return revision, False
