"""Data and ledger: pinned by .dvc files, brought to what these pin, and named by a version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pipeline.config import read_yaml
from pipeline.errors import VersioningError
from pipeline.files import replace_text
from pipeline.records import DataVersion
from pipeline.versioning import checkout, merge_conflicts
from pipeline.versioning.checkout import NOTHING, CheckoutBase, CheckoutPlan, Files, PinnedFiles

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo


def pin(repo: Repo, what: PinnedFiles) -> None:
    """`dvc add`, into a .dvc file of any name and without searching the workspace for stages."""
    with repo.scm_context:
        stage = repo.stage.create(
            single_stage=True, validate=False, fname=str(what.pin), wdir=str(what.pin.parent), outs=[what.path.name]
        )
        stage.add_outs()
        stage.dump()
    checkout.remember(Path(repo.root_dir), what, CheckoutBase(stage.outs[0].hash_info.value))


def is_current(root: Path, what: PinnedFiles) -> bool:
    """Whether nothing was pinned since this machine last pinned or checked out; asks neither DVC nor the content."""
    if not what.path.exists():
        return False
    if not what.pin.is_file():
        return True
    try:
        pinned = pinned_version(what.pin.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, VersioningError):
        return False
    return checkout.recall(root, what) == CheckoutBase(pinned)


def is_known(root: Path, what: PinnedFiles) -> bool:
    """Whether this machine ever pinned or checked it out."""
    return checkout.recall(root, what) is not None


def update(repo: Repo, what: PinnedFiles) -> list[str]:
    """Brings a folder to the version that its .dvc file pins, and says what changed; see `pipeline.versioning.checkout`.

    Raises:
        VersioningError: it is missing and nothing pins it, what is pinned cannot be had, or files that were edited here
            are in the way: all others are brought first.
    """
    if not what.pin.is_file():
        if what.path.exists():
            return []
        raise VersioningError(
            str(what.path),
            found=f"no such path, and no {what.pin.name} to bring it back by",
            hint=f"put {what.path.name} there, then: dvc add {what.path.name}",
        )
    out = checkout.load_pin(repo, what)
    return _bring(out, what, out.hash_info.value)


def join(repo: Repo, what: PinnedFiles, out: Output) -> list[str]:
    """Resolves a Git merge conflict in the .dvc file: the folder gets what the other side changed since the common
    ancestor, keeps what was changed here, and is pinned anew. Says so; says nothing where there is no conflict.

    Args:
        out: the folder as a stage depends on it, since the .dvc file cannot be read.

    Raises:
        WorkspaceError: Git does not know the common ancestor.
        VersioningError: the other side cannot be had, or both changed a file, otherwise: all others are brought first.
    """
    sides = merge_conflicts.sides(what.pin)
    if not sides:
        return []
    ours, theirs = sides
    our_version, version = pinned_version(ours), pinned_version(theirs)
    ancestor = pinned_version(merge_conflicts.common_ancestor(what.pin))
    root = Path(out.repo.root_dir)
    begun = CheckoutBase(ancestor, unfinished=version)
    brought = []
    if checkout.recall(root, what) != begun or not what.path.exists():
        brought = _bring(out, what, our_version)  # what lies here may be older than our side, or missing
    _, there = checkout.files_there(out)
    bases = [_fetched_files(out, what, ancestor)]
    plan = checkout.compare(bases, _fetched_files(out, what, version), there, keep_edited=True)
    _follow(out, what, plan, version, begun)
    checkout.remember(
        root, what, CheckoutBase(our_version)
    )  # so that nothing is taken back where a kill leaves our pin alone
    replace_text(what.pin, ours)  # one that can be read, to be pinned over
    pin(repo, what)
    return [*brought, f"{what.pin.name}: both sides of the Git merge joined", *_words(what, plan, there)]


def pinned_version(text: str) -> str:
    """The hash that a .dvc file pins.

    Raises:
        VersioningError: it pins none.
    """
    try:
        return str(read_yaml(text)["outs"][0]["md5"])
    except (yaml.YAMLError, KeyError, TypeError, IndexError) as fault:
        raise VersioningError("a .dvc file", found="no hash of what it pins", expected="one", hint="dvc add") from fault


def _bring(out: Output, what: PinnedFiles, pinned: str) -> list[str]:
    """Brings a folder to a version, and says what changed."""
    root = Path(out.repo.root_dir)
    base = checkout.recall(root, what) if what.path.exists() else CheckoutBase(NOTHING)
    if base == CheckoutBase(pinned):
        return []  # what else lies there was edited here since
    there_version, there = checkout.files_there(out)
    if there_version == pinned:
        checkout.remember(root, what, CheckoutBase(pinned))
        return []
    if base is None and not there:
        base = CheckoutBase(NOTHING)  # an empty folder
    bases = _bases(out, base, there_version, there)
    plan = checkout.compare(bases, _fetched_files(out, what, pinned), there)
    begun = CheckoutBase(base.version if base else there_version, unfinished=pinned)
    _follow(out, what, plan, pinned, begun)
    checkout.remember(root, what, CheckoutBase(pinned))
    return _words(what, plan, there)


def _fetched_files(out: Output, what: PinnedFiles, version: str) -> Files:
    checkout.fetch(out, what, version, [version])
    return checkout.files_of(out, version) or {}


def _follow(out: Output, what: PinnedFiles, plan: CheckoutPlan, version: str, begun: CheckoutBase) -> None:
    """Brings what the plan says, then stops where files were edited here."""
    if plan.write or plan.remove:
        checkout.fetch(out, what, version, plan.write.values())
        checkout.remember(Path(out.repo.root_dir), what, begun)
        checkout.check_out(out, what, plan)
    if plan.edited:
        raise _edited(what, plan)


def version(repo: Repo, data: PinnedFiles, read: Output) -> DataVersion:
    """Which data there is now, as a stage depends on it."""
    read.save()
    found, meta = read.hash_info, read.meta
    revision, committed = _git(repo, data.pin)
    reason = _unpinned(repo, data, found)
    if not reason and revision and not committed:
        reason = f"{data.pin.name} is not committed to Git"
    return DataVersion(
        md5=found.value, size=meta.size or 0, files=meta.nfiles or 0, git_revision=revision, dirty=bool(reason),
        dirty_reason=reason,
    )  # fmt: skip


def unpinned(repo: Repo, data: PinnedFiles, read: Output) -> str:
    """Why the .dvc file does not lead back to the data there are now; empty where it does."""
    read.save()
    return _unpinned(repo, data, read.hash_info)


def _unpinned(repo: Repo, data: PinnedFiles, found: HashInfo) -> str:
    if not data.pin.is_file():
        return f"{data.pin.name} is missing"
    if merge_conflicts.sides(data.pin):
        return f"{data.pin.name} holds a Git merge conflict"
    if checkout.load_pin(repo, data).hash_info != found:
        return f"{data.path.name} differs from what {data.pin.name} pins"
    return ""


def _bases(out: Output, base: CheckoutBase | None, version: str, there: Files) -> list[Files]:
    """The versions that this machine put in place, as far as they are known. Without any, data that were pinned once
    are nobody's unfinished work: the cache holds their directory object."""
    if base is None:
        return [there] if out.cache.exists(version) else []
    versions = (base.version, base.unfinished)
    found = [there if each == version else checkout.files_of(out, each) for each in versions]
    return [files for files in found if files is not None]


def _edited(what: PinnedFiles, plan: CheckoutPlan) -> VersioningError:
    name = what.path.name
    brought = len(plan.write) + len(plan.remove)
    return VersioningError(
        str(what.path),
        found=f"{what.pin.name} pins another version, and {len(plan.edited)} files were changed here"
        + (f"; {brought} others are as pinned now" if brought else ""),
        expected="files as this machine last pinned or checked them out",
        hint=_ways_out(what),
        details=[f"{name}/{file}" for file in plan.edited],
    )


def _ways_out(what: PinnedFiles) -> str:
    name, pinned = what.path.name, what.pin.name
    if merge_conflicts.sides(what.pin):
        return (
            f"to keep what is here: git checkout --ours {pinned}, then dvc add {name}; to have what the other side "
            f"pinned: git checkout --theirs {pinned}, then dvc checkout --force {pinned}"
        )
    return f"to keep what is here: dvc add {name}; to have what is pinned: dvc checkout --force {pinned}"


def _words(what: PinnedFiles, plan: CheckoutPlan, there: Files) -> list[str]:
    new = sum(path not in there for path in plan.write)
    counts = {"added": new, "changed": len(plan.write) - new, "removed": len(plan.remove)}
    said = ", ".join(f"{count} {meaning}" for meaning, count in counts.items() if count)
    lines = [f"{what.path.name}: {said} files, as {what.pin.name} pins"] if said else []
    if plan.added:
        lines.append(f"{what.path.name}: {len(plan.added)} files that were added here stay; pin them: dvc add")
    return lines


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
