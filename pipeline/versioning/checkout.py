"""Brings what lies in the workspace to the version that its .dvc file tracks, and loses
nothing on the way.

Per file, three versions are compared: what this machine last added or checked out (the
base), what is tracked now, and what is present. A present file is *ours* where it is as
in the base (or as in a checkout that was cut short):

| present | tracked now | becomes |
|---|---|---|
| as tracked | | stays |
| ours | other, or new | as tracked |
| ours | gone | removed |
| ours, gone | other, or new | as tracked |
| edited, deleted | whatever else | stays, and stops the run by name |
| added | not at all | stays |
| added | with other content | stays, and stops the run by name |

Content that is overwritten or removed is put into DVC's cache first where the cache
lacks it. The base moves on when all is done, so a checkout that was killed is completed
by the next run.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import VersioningError
from pipeline.files import md5, replace_json
from pipeline.versioning import dvc_session
from pipeline.versioning.integrity import discard_damaged_objects

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

NOTHING = ""  # as a base: there was nothing in place
# Path below the folder ("" for a file by itself) → MD5 of the content.
FileHashes = Mapping[str, str]


class TrackedPath(NamedTuple):
    """A file or folder, and the .dvc file that tracks it."""

    path: Path
    dvc_file: Path


@dataclass(frozen=True)
class CheckoutBase:
    """What this machine last added or checked out, by hash, and the version of a
    checkout that was cut short.
    """

    version: str | None
    unfinished: str | None = None


@dataclass(frozen=True)
class CheckoutPlan:
    """What a checkout does to files, all by their path below the folder.

    Args:
        write: path → hash of the content to come.
        edited: with what happened to them; they stay, and the run stops.
        added: present here alone; they stay.
    """

    write: FileHashes
    remove: tuple[str, ...]
    edited: tuple[str, ...]
    added: tuple[str, ...]


def plan_checkout(
    bases: Iterable[FileHashes],
    tracked: FileHashes,
    present: FileHashes,
    *,
    keep_edited: bool = False,
) -> CheckoutPlan:
    """Plans a checkout by the table above.

    Args:
        bases: versions that this machine put in place; a file as in any of them is
            nobody's work.
        tracked: the version to come.
        present: what lies in the folder.
        keep_edited: what was edited here, and is unchanged between bases and tracked,
            stays without stopping the run: for joining two versions of which each holds
            somebody's work.
    """
    known = list(bases)
    write: dict[str, str] = {}
    remove = []
    edited = []
    added = []
    for path in sorted(tracked.keys() | present.keys()):
        new = tracked.get(path)
        now = present.get(path)
        before = {base.get(path) for base in known}
        if now == new or (keep_edited and new in before):
            continue
        if now in before and new is not None:
            write[path] = new
        elif now in before:
            remove.append(path)
        elif new is None and not before - {None}:
            added.append(path)
        else:
            edited.append(f"{path} ({_describe_edit(now, new, before)})")
    return CheckoutPlan(write, tuple(remove), tuple(edited), tuple(added))


def _describe_edit(now: str | None, new: str | None, before: set[str | None]) -> str:
    if now is None:
        return "deleted here" if before else "missing here"
    if new is None:
        return "edited here, and no longer tracked"
    if not before:
        return "another here than tracked"
    if before - {None}:
        return "edited here"
    return "added here, with other content than tracked"


# --- what this machine knows ----------------------------------------------------------


def load_base(root: Path, item: TrackedPath) -> CheckoutBase | None:
    """What this machine last added or checked out; None where it is not known."""
    try:
        entry = _read_bases(root)[_base_key(root, item)]
        return CheckoutBase(entry["version"], entry["unfinished"])
    except (KeyError, TypeError):
        return None


def save_base(root: Path, item: TrackedPath, base: CheckoutBase) -> None:
    """Keeps that for later runs."""
    entries = _read_bases(root)
    entries[_base_key(root, item)] = {
        "version": base.version,
        "unfinished": base.unfinished,
    }
    replace_json(bases_file(root), entries)


def bases_file(root: Path) -> Path:
    """Where a workspace keeps them."""
    return root / ".thaw" / "receipts" / "pinned.json"


def _read_bases(root: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(bases_file(root).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _base_key(root: Path, item: TrackedPath) -> str:
    return item.path.relative_to(root).as_posix()


# --- versions -------------------------------------------------------------------------


def tracked_output(repo: Repo, item: TrackedPath) -> Output:
    """The output that the .dvc file tracks, which may be of any name."""
    stage = repo.stage.load_one(str(item.dvc_file))
    return stage.outs[0]


def hash_present(output: Output) -> tuple[str, FileHashes]:
    """What lies in place: its hash as a whole, and its files."""
    from dvc_data.hashfile.build import build

    if not output.exists:
        return NOTHING, {}
    _, _, built = build(
        output.cache,
        output.fs_path,
        output.fs,
        output.hash_name,
        ignore=output.dvcignore,
        dry_run=True,
    )
    return str(built.hash_info.value), _list_hashes(built)


def hashes_of_version(output: Output, version: str | None) -> FileHashes | None:
    """The files of a version by its hash; None where it is not known or the cache does
    not hold it.
    """
    from dvc_data.hashfile import load
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_objects.errors import ObjectFormatError

    if version is None:
        return None
    if version == NOTHING:
        return {}
    try:
        return _list_hashes(load(output.cache, HashInfo(output.hash_name, version)))
    except (FileNotFoundError, ObjectFormatError):
        return None


def _list_hashes(loaded: Any) -> FileHashes:
    """The files of a loaded object: of a folder's tree, or the one file that it is."""
    from dvc_data.hashfile.tree import Tree

    if isinstance(loaded, Tree):
        return {"/".join(key): oid.value for key, _, oid in loaded}
    return {"": loaded.hash_info.value}


# --- doing it -------------------------------------------------------------------------


def check_out(output: Output, item: TrackedPath, plan: CheckoutPlan) -> None:
    """Writes and removes what the plan says; the contents must be in the cache.

    Every file is wholly the old or wholly the new one, whatever happens meanwhile.
    """
    _save_to_cache(output, item, plan)
    for path in plan.remove:
        _file_path(item, path).unlink()
    _remove_empty_folders(item, plan.remove)
    scratch = Path(output.repo.tmp_dir)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="thaw-checkout-", dir=scratch) as staging:
        for path, content in plan.write.items():
            _put_file(output, content, Path(staging) / "file", _file_path(item, path))
    _note_hashes(output, item, plan)


def fetch_objects(
    output: Output, item: TrackedPath, version: str, contents: Iterable[str]
) -> None:
    """Makes the cache hold contents of a version, or the version's own list of files,
    undamaged; from the remote where it lacks them.

    Raises:
        VersioningError: neither has them, whole.
    """
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.hash_info import HashInfo

    wanted = sorted(set(contents))
    damaged = discard_damaged_objects(output, wanted)
    lacking = _list_lacking(output, wanted)
    if not lacking:
        return
    try:
        if output.stage.is_import:
            output.repo.fetch([str(item.dvc_file)])
        else:
            hashes = [HashInfo(output.hash_name, content) for content in lacking]
            output.repo.cloud.pull(hashes, remote=output.remote)
    except DvcException as fault:
        raise _unavailable_error(output, item, version, damaged) from fault
    damaged = discard_damaged_objects(output, lacking) or damaged
    if _list_lacking(output, lacking):
        raise _unavailable_error(output, item, version, damaged)


def _list_lacking(output: Output, contents: Iterable[str]) -> list[str]:
    lacking = []
    for content in contents:
        if not output.cache.exists(content):
            lacking.append(content)
    return lacking


def _unavailable_error(
    output: Output, item: TrackedPath, version: str, damaged: Iterable[str]
) -> VersioningError:
    remote, address = dvc_session.default_remote(output.repo)
    where = "no remote configured"
    if remote:
        where = f"remote {remote}: {address or 'not configured'}"
    broken = set(damaged)
    names = []
    for path, oid in (hashes_of_version(output, version) or {}).items():
        if oid in broken:
            names.append(f"{item.path.name}/{path}" if path else item.path.name)
    whole = f", whole: {len(names)} files are damaged" if names else ""
    return VersioningError(
        str(item.path),
        found=f"neither the cache nor the remote has {version}, which {item.dvc_file.name} tracks{whole}",
        details=names,
        expected=where,
        hint=f"bring {item.path.name} back, or run `dvc push` where it still is",
    )


def _file_path(item: TrackedPath, path: str) -> Path:
    return item.path / path if path else item.path


def _save_to_cache(output: Output, item: TrackedPath, plan: CheckoutPlan) -> None:
    """Nothing is overwritten or removed that the cache does not hold."""
    for path in (*plan.remove, *plan.write):
        file = _file_path(item, path)
        if not file.is_file():
            continue
        content = md5(file)
        if not output.cache.exists(content):
            output.cache.add(str(file), output.fs, content)


def _put_file(output: Output, content: str, part: Path, file: Path) -> None:
    """Links or copies an object out of the cache, as DVC is configured to, and renames
    it into place.
    """
    from dvc_objects.fs.generic import transfer

    cache = output.cache
    transfer(
        cache.fs,
        cache.oid_to_path(content),
        output.fs,
        str(part),
        links=list(cache.cache_types),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.replace(file)
    except OSError as fault:
        # On another disk, where nothing can be renamed to.
        if fault.errno != errno.EXDEV:
            raise
        shutil.move(part, file)


def _remove_empty_folders(item: TrackedPath, removed: Iterable[str]) -> None:
    for path in removed:
        for folder in _file_path(item, path).parents:
            is_inside = folder != item.path and folder.is_relative_to(item.path)
            if not is_inside or any(folder.iterdir()):
                break
            folder.rmdir()


def _note_hashes(output: Output, item: TrackedPath, plan: CheckoutPlan) -> None:
    """Tells DVC the hashes of what was just put in place, so that it need not read it
    again.
    """
    from dvc_data.hashfile.hash_info import HashInfo

    entries = []
    for path, content in plan.write.items():
        file = os.fspath(_file_path(item, path))
        entries.append((file, HashInfo(output.hash_name, content), None))
    output.cache.state.save_many(entries, output.fs)
