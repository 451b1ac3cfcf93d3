"""Data, ledger and baseline: tracked by .dvc files, brought to what these track, and
named by a version.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pipeline.config import read_yaml
from pipeline.errors import VersioningError
from pipeline.files import replace_text
from pipeline.records import DataVersion
from pipeline.versioning import checkout, merge_conflicts
from pipeline.versioning.checkout import (
    NOTHING,
    CheckoutBase,
    CheckoutPlan,
    FileHashes,
    TrackedPath,
)

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo


def add(repo: Repo, item: TrackedPath) -> None:
    """`dvc add`, into a .dvc file of any name and without searching the workspace for
    stages.
    """
    with repo.scm_context:
        stage = repo.stage.create(
            single_stage=True,
            validate=False,
            fname=str(item.dvc_file),
            wdir=str(item.dvc_file.parent),
            outs=[item.path.name],
        )
        stage.add_outs()
        stage.dump()
    version = stage.outs[0].hash_info.value
    checkout.save_base(Path(repo.root_dir), item, CheckoutBase(version))


def is_current(root: Path, item: TrackedPath) -> bool:
    """Whether the .dvc file is as this machine last wrote or followed it; asks neither
    DVC nor the content.
    """
    if not item.path.exists():
        return False
    if not item.dvc_file.is_file():
        return True
    try:
        version = parse_version(item.dvc_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, VersioningError):
        return False
    return checkout.load_base(root, item) == CheckoutBase(version)


def is_known(root: Path, item: TrackedPath) -> bool:
    """Whether this machine ever added or checked it out."""
    return checkout.load_base(root, item) is not None


def update(repo: Repo, item: TrackedPath) -> list[str]:
    """Brings a folder to the version that its .dvc file tracks, and says what changed;
    see `pipeline.versioning.checkout`.

    Raises:
        VersioningError: it is missing and nothing tracks it, what is tracked cannot be
            restored, or files that were edited here are in the way: all others are
            brought first.
    """
    if item.dvc_file.is_file():
        output = checkout.tracked_output(repo, item)
        return _bring_to_version(output, item, output.hash_info.value)
    if item.path.exists():
        return []
    name = item.path.name
    raise VersioningError(
        str(item.path),
        found=f"no such path, and no {item.dvc_file.name} to bring it back by",
        hint=f"put {name} there, then: dvc add {name}",
    )


def join_sides(repo: Repo, item: TrackedPath, output: Output) -> list[str]:
    """Resolves a Git merge conflict in the .dvc file: the folder gets what the other
    side changed since the common ancestor, keeps what was changed here, and is added
    anew. Says so; says nothing where there is no conflict.

    Args:
        output: the folder as a stage depends on it, since the .dvc file cannot be read.

    Raises:
        WorkspaceError: Git does not know the common ancestor.
        VersioningError: the other side cannot be restored, or both changed a file,
            otherwise: all others are brought first.
    """
    sides = merge_conflicts.split_sides(item.dvc_file)
    if not sides:
        return []
    ours, theirs = sides
    our_version = parse_version(ours)
    their_version = parse_version(theirs)
    ancestor = parse_version(merge_conflicts.read_common_ancestor(item.dvc_file))
    root = Path(output.repo.root_dir)
    begun = CheckoutBase(ancestor, unfinished=their_version)
    lines = []
    if checkout.load_base(root, item) != begun or not item.path.exists():
        # What lies here may be older than our side, or missing.
        lines += _bring_to_version(output, item, our_version)
    _, present = checkout.hash_present(output)
    bases = [_fetch_hashes(output, item, ancestor)]
    tracked = _fetch_hashes(output, item, their_version)
    plan = checkout.plan_checkout(bases, tracked, present, keep_edited=True)
    _apply_plan(output, item, plan, their_version, begun)
    # Nothing is taken back where a kill leaves our version of the .dvc file alone.
    checkout.save_base(root, item, CheckoutBase(our_version))
    replace_text(item.dvc_file, ours)  # one that can be read, to be written over
    add(repo, item)
    lines.append(f"{item.dvc_file.name}: both sides of the Git merge joined")
    return lines + _describe_plan(item, plan, present)


def parse_version(text: str) -> str:
    """The hash that a .dvc file tracks.

    Raises:
        VersioningError: it holds none.
    """
    try:
        return str(read_yaml(text)["outs"][0]["md5"])
    except (yaml.YAMLError, KeyError, TypeError, IndexError) as fault:
        raise VersioningError(
            "a .dvc file",
            found="no hash of what it tracks",
            expected="one",
            hint="dvc add",
        ) from fault


def _bring_to_version(output: Output, item: TrackedPath, tracked: str) -> list[str]:
    """Brings a folder to a version, and says what changed."""
    root = Path(output.repo.root_dir)
    if item.path.exists():
        base = checkout.load_base(root, item)
    else:
        base = CheckoutBase(NOTHING)
    if base == CheckoutBase(tracked):
        return []  # what else lies there was edited here since
    present_version, present = checkout.hash_present(output)
    if present_version == tracked:
        checkout.save_base(root, item, CheckoutBase(tracked))
        return []
    if base is None and not present:
        base = CheckoutBase(NOTHING)  # an empty folder
    bases = _known_bases(output, base, present_version, present)
    plan = checkout.plan_checkout(bases, _fetch_hashes(output, item, tracked), present)
    begun = CheckoutBase(base.version if base else present_version, unfinished=tracked)
    _apply_plan(output, item, plan, tracked, begun)
    checkout.save_base(root, item, CheckoutBase(tracked))
    return _describe_plan(item, plan, present)


def _fetch_hashes(output: Output, item: TrackedPath, version: str) -> FileHashes:
    """The files of a version, whose list is fetched where the cache lacks it."""
    checkout.fetch_objects(output, item, version, [version])
    return checkout.hashes_of_version(output, version) or {}


def _apply_plan(
    output: Output,
    item: TrackedPath,
    plan: CheckoutPlan,
    version: str,
    begun: CheckoutBase,
) -> None:
    """Brings what the plan says, then stops where files were edited here."""
    if plan.write or plan.remove:
        checkout.fetch_objects(output, item, version, plan.write.values())
        checkout.save_base(Path(output.repo.root_dir), item, begun)
        checkout.check_out(output, item, plan)
    if plan.edited:
        raise _edited_error(item, plan)


def data_version(repo: Repo, item: TrackedPath, data: Output) -> DataVersion:
    """Which data there is now.

    Args:
        data: the data folder as a stage depends on it.
    """
    data.save()
    revision, is_committed = _git_revision(repo, item.dvc_file)
    reason = _why_not_added(repo, item, data.hash_info)
    if not reason and revision and not is_committed:
        reason = f"{item.dvc_file.name} is not committed to Git"
    return DataVersion(
        md5=data.hash_info.value,
        size=data.meta.size or 0,
        files=data.meta.nfiles or 0,
        git_revision=revision,
        dirty=bool(reason),
        dirty_reason=reason,
    )


def why_not_added(repo: Repo, item: TrackedPath, data: Output) -> str:
    """Why the .dvc file does not lead back to the data there are now; empty where it
    does.
    """
    data.save()
    return _why_not_added(repo, item, data.hash_info)


def _why_not_added(repo: Repo, item: TrackedPath, present: HashInfo) -> str:
    name = item.dvc_file.name
    if not item.dvc_file.is_file():
        return f"{name} is missing"
    if merge_conflicts.split_sides(item.dvc_file):
        return f"{name} holds a Git merge conflict"
    if checkout.tracked_output(repo, item).hash_info != present:
        return f"{item.path.name} differs from what {name} tracks"
    return ""


def _known_bases(
    output: Output, base: CheckoutBase | None, present_version: str, present: FileHashes
) -> list[FileHashes]:
    """The versions that this machine put in place, as far as they are known. Without
    any, data that were added once are nobody's unfinished work: the cache holds their
    directory object.
    """
    if base is None:
        return [present] if output.cache.exists(present_version) else []
    bases = []
    for version in (base.version, base.unfinished):
        hashes = (
            present
            if version == present_version
            else checkout.hashes_of_version(output, version)
        )
        if hashes is not None:
            bases.append(hashes)
    return bases


def _edited_error(item: TrackedPath, plan: CheckoutPlan) -> VersioningError:
    found = f"{item.dvc_file.name} tracks another version, and {len(plan.edited)} files were changed here"
    brought = len(plan.write) + len(plan.remove)
    if brought:
        found += f"; {brought} others are as tracked now"
    return VersioningError(
        str(item.path),
        found=found,
        expected="files as this machine last added or checked them out",
        hint=_hint_for_edited(item),
        details=[f"{item.path.name}/{file}" for file in plan.edited],
    )


def _hint_for_edited(item: TrackedPath) -> str:
    folder = item.path.name
    name = item.dvc_file.name
    if merge_conflicts.split_sides(item.dvc_file):
        return (
            f"to keep what is here: git checkout --ours {name}, then dvc add {folder}; to have what the other side "
            f"tracks: git checkout --theirs {name}, then dvc checkout --force {name}"
        )
    return f"to keep what is here: dvc add {folder}; to have what is tracked: dvc checkout --force {name}"


def _describe_plan(
    item: TrackedPath, plan: CheckoutPlan, present: FileHashes
) -> list[str]:
    """What a checkout did, in a user's words."""
    folder = item.path.name
    new = sum(path not in present for path in plan.write)
    counts = {
        "added": new,
        "changed": len(plan.write) - new,
        "removed": len(plan.remove),
    }
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    lines = []
    if parts:
        lines.append(
            f"{folder}: {', '.join(parts)} files, as {item.dvc_file.name} tracks"
        )
    if plan.added:
        lines.append(
            f"{folder}: {len(plan.added)} files that were added here stay; track them: dvc add"
        )
    return lines


def _git_revision(repo: Repo, file: Path) -> tuple[str | None, bool]:
    """The revision checked out (None without Git or a commit), and whether it holds
    `file` as it is.
    """
    from dvc.scm import NoSCM
    from scmrepo.exceptions import SCMError

    if isinstance(repo.scm, NoSCM):
        return None, False
    try:
        revision: str = repo.scm.get_rev()
    except SCMError:
        return None, False
    path = file.relative_to(Path(repo.scm.root_dir).resolve())
    try:
        committed = repo.scm.get_fs(revision).cat_file(str(path))
        return revision, bool(committed == file.read_bytes())
    except FileNotFoundError:
        return revision, False
