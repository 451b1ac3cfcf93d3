"""Brings what lies in the workspace to the version that its .dvc file pins, and loses nothing on the way.

Per file, three versions are compared: what this machine last pinned or checked out (the base), what is pinned now, and
what lies there. `there` is *ours* where it is as in the base (or as in a checkout that was cut short):

| there | pinned now | becomes |
|---|---|---|
| as pinned | | stays |
| ours | other, or new | as pinned |
| ours | gone | removed |
| ours, gone | other, or new | as pinned |
| edited, deleted | whatever else | stays, and stops the run by name |
| added | not at all | stays |
| added | with other content | stays, and stops the run by name |

Content that is overwritten or removed is put into DVC's cache first where the cache lacks it. The base moves on when all
is done, so a checkout that was killed is completed by the next run.
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
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import VersioningError
from pipeline.files import replace_text
from pipeline.versioning import dvc_session
from pipeline.versioning.integrity import discard_damaged_objects, md5

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

NOTHING = ""  # as a base: there was nothing in place
Files = Mapping[str, str]  # path below the folder ("" for a file by itself) → MD5 of the content


class PinnedFiles(NamedTuple):
    """A file or folder, and the .dvc file that pins it."""

    path: Path
    pin: Path


@dataclass(frozen=True)
class CheckoutBase:
    """What this machine last pinned or checked out, by hash, and the version of a checkout that was cut short."""

    version: str | None
    unfinished: str | None = None


@dataclass(frozen=True)
class CheckoutPlan:
    """What a checkout does to files, all by their path below the folder."""

    write: Files  # → hash of the content to come
    remove: tuple[str, ...]
    edited: tuple[str, ...]  # with what happened to them; they stay, and the run stops
    added: tuple[str, ...]  # here alone; they stay


def compare(bases: Iterable[Files], pinned: Files, there: Files, *, keep_edited: bool = False) -> CheckoutPlan:
    """Plans a checkout by the table above.

    Args:
        bases: versions that this machine put in place; a file as in any of them is nobody's work.
        pinned: the version to come.
        there: what lies in the folder.
        keep_edited: what was edited here, and is unchanged between bases and pinned, stays without stopping the run:
            for joining two versions of which each holds somebody's work.
    """
    known = list(bases)
    write: dict[str, str] = {}
    remove, edited, added = [], [], []
    for path in sorted(pinned.keys() | there.keys()):
        new, now = pinned.get(path), there.get(path)
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
            edited.append(f"{path} ({_what_happened(now, new, before)})")
    return CheckoutPlan(write, tuple(remove), tuple(edited), tuple(added))


def _what_happened(now: str | None, new: str | None, before: set[str | None]) -> str:
    if now is None:
        return "deleted here" if before else "missing here"
    if new is None:
        return "edited here, and no longer pinned"
    if not before:
        return "another here than pinned"
    return "edited here" if before - {None} else "added here, with other content than pinned"


# --- what this machine knows ------------------------------------------------------------------------------


def recall(root: Path, what: PinnedFiles) -> CheckoutBase | None:
    """What this machine last pinned or checked out; None where it is not known."""
    try:
        entry = json.loads(bases_file(root).read_text(encoding="utf-8"))[_entry(root, what)]
        return CheckoutBase(entry["version"], entry["unfinished"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(root: Path, what: PinnedFiles, base: CheckoutBase) -> None:
    """Keeps that for later runs."""
    try:
        entries = dict(json.loads(bases_file(root).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        entries = {}
    entries[_entry(root, what)] = {"version": base.version, "unfinished": base.unfinished}
    replace_text(bases_file(root), json.dumps(entries, indent=2) + "\n")


def _entry(root: Path, what: PinnedFiles) -> str:
    return what.path.relative_to(root).as_posix()


def bases_file(root: Path) -> Path:
    """Where a workspace keeps them."""
    return root / ".thaw" / "receipts" / "pinned.json"


# --- versions ---------------------------------------------------------------------------------------------


def load_pin(repo: Repo, what: PinnedFiles) -> Output:
    """The output that the .dvc file pins, which may be of any name."""
    return repo.stage.load_one(str(what.pin)).outs[0]


def files_there(out: Output) -> tuple[str, Files]:
    """What lies in place: its hash as a whole, and its files."""
    from dvc_data.hashfile.build import build

    if not out.exists:
        return NOTHING, {}
    _, _, found = build(out.cache, out.fs_path, out.fs, out.hash_name, ignore=out.dvcignore, dry_run=True)
    return str(found.hash_info.value), _listed(found)


def files_of(out: Output, version: str | None) -> Files | None:
    """The files of a version by its hash; None where it is not known or the cache does not hold it."""
    from dvc_data.hashfile import load
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_objects.errors import ObjectFormatError

    if version is None:
        return None
    if version == NOTHING:
        return {}
    try:
        return _listed(load(out.cache, HashInfo(out.hash_name, version)))
    except (FileNotFoundError, ObjectFormatError):
        return None


def _listed(found: object) -> Files:
    from dvc_data.hashfile.tree import Tree

    if isinstance(found, Tree):
        return {"/".join(key): oid.value for key, _, oid in found}
    return {"": found.hash_info.value}  # type: ignore[attr-defined]


# --- doing it ---------------------------------------------------------------------------------------------


def check_out(out: Output, what: PinnedFiles, plan: CheckoutPlan) -> None:
    """Writes and removes what the plan says; the contents must be in the cache.

    Every file is wholly the old or wholly the new one, whatever happens meanwhile.
    """
    _save_to_cache(out, what, plan)
    for path in plan.remove:
        _place(what, path).unlink()
    _remove_empty_folders(what, plan.remove)
    scratch = Path(out.repo.tmp_dir)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="thaw-checkout-", dir=scratch) as staging:
        for path, content in plan.write.items():
            _put(out, content, Path(staging) / "file", _place(what, path))
    _note_hashes(out, what, plan)


def fetch(out: Output, what: PinnedFiles, version: str, contents: Iterable[str]) -> None:
    """Makes the cache hold contents of a version, or the version's own list of files, undamaged; from the remote where
    it lacks them.

    Raises:
        VersioningError: neither has them, whole.
    """
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.hash_info import HashInfo

    wanted = sorted(set(contents))
    damaged = discard_damaged_objects(out, wanted)
    lacking = [content for content in wanted if not out.cache.exists(content)]
    if not lacking:
        return
    try:
        if out.stage.is_import:
            out.repo.fetch([str(what.pin)])
        else:
            out.repo.cloud.pull([HashInfo(out.hash_name, content) for content in lacking], remote=out.remote)
    except DvcException as fault:
        raise _nowhere(out, what, version, damaged) from fault
    damaged = discard_damaged_objects(out, lacking) or damaged
    if any(not out.cache.exists(content) for content in lacking):
        raise _nowhere(out, what, version, damaged)


def _nowhere(out: Output, what: PinnedFiles, version: str, damaged: Iterable[str]) -> VersioningError:
    remote, address = dvc_session.remote(out.repo)
    where = f"remote {remote}: {address or 'not configured'}" if remote else "no remote configured"
    broken = set(damaged)
    files = files_of(out, version) or {}
    names = [f"{what.path.name}/{path}" if path else what.path.name for path, oid in files.items() if oid in broken]
    whole = f", whole: {len(names)} files are damaged" if names else ""
    return VersioningError(
        str(what.path),
        found=f"neither the cache nor the remote has {version}, which {what.pin.name} pins{whole}",
        details=names,
        expected=where,
        hint=f"bring {what.path.name} back, or run `dvc push` where it still is",
    )


def _place(what: PinnedFiles, path: str) -> Path:
    return what.path / path if path else what.path


def _save_to_cache(out: Output, what: PinnedFiles, plan: CheckoutPlan) -> None:
    """Nothing is overwritten or removed that the cache does not hold."""
    for path in (*plan.remove, *plan.write):
        place = _place(what, path)
        if not place.is_file():
            continue
        content = md5(place)
        if not out.cache.exists(content):
            out.cache.add(str(place), out.fs, content)


def _put(out: Output, content: str, part: Path, place: Path) -> None:
    """Links or copies an object out of the cache, as DVC is configured to, and renames it into place."""
    from dvc_objects.fs.generic import transfer

    transfer(out.cache.fs, out.cache.oid_to_path(content), out.fs, str(part), links=list(out.cache.cache_types))
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.replace(place)
    except OSError as fault:
        if fault.errno != errno.EXDEV:  # on another disk, where nothing can be renamed to
            raise
        shutil.move(part, place)


def _remove_empty_folders(what: PinnedFiles, removed: Iterable[str]) -> None:
    for path in removed:
        for folder in _place(what, path).parents:
            if folder == what.path or not folder.is_relative_to(what.path) or any(folder.iterdir()):
                break
            folder.rmdir()


def _note_hashes(out: Output, what: PinnedFiles, plan: CheckoutPlan) -> None:
    """Tells DVC the hashes of what was just put in place, so that it need not read it again."""
    from dvc_data.hashfile.hash_info import HashInfo

    paths = {os.fspath(_place(what, path)): HashInfo(out.hash_name, content) for path, content in plan.write.items()}
    out.cache.state.save_many([(path, content, None) for path, content in paths.items()], out.fs)
