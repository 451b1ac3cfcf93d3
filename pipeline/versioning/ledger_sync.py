"""The ledger is joined with what ledger.dvc tracks, never replaced by it: both sides
only ever grew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import LedgerError
from pipeline.files import md5, replace_text
from pipeline.versioning import checkout, merge_conflicts, tracked_files
from pipeline.versioning.checkout import CheckoutBase, CheckoutPlan, TrackedPath

if TYPE_CHECKING:
    from dvc.repo import Repo

    from pipeline.data.ledger import Ledger

EXPECTED = (
    "the ledger of earlier splits: a new one would leak test examples into training"
)


def update(repo: Repo, item: TrackedPath) -> list[str]:
    """Makes ledger.parquet hold what ledger.dvc tracks besides what it holds already,
    and says so where it did not.

    A Git merge conflict in ledger.dvc is resolved by joining both sides, which are then
    tracked anew.

    Raises:
        LedgerError: what is tracked cannot be restored, is no ledger, or gives an
            example another split than the ledger here; or this machine had a ledger,
            and both files are gone.
    """
    root = Path(repo.root_dir)
    if not item.dvc_file.is_file():
        _refuse_lost(item, checkout.load_base(root, item))
        return []
    sides = merge_conflicts.split_sides(item.dvc_file)
    if sides:
        return _join_sides(repo, item, sides)
    output = checkout.tracked_output(repo, item)
    tracked = output.hash_info.value
    if output.exists and not output.changed_checksum():
        checkout.save_base(root, item, CheckoutBase(tracked))
        return []
    from pipeline.data.ledger import merged

    present = _load_present(item)
    theirs = _load_tracked(repo, item, tracked)
    joined = merged(theirs, present, str(item.path))
    if joined.entries == theirs.entries:
        checkout.check_out(output, item, CheckoutPlan({"": tracked}, (), (), ()))
        checkout.save_base(root, item, CheckoutBase(tracked))
    else:
        joined.save(item.path)
        tracked_files.add(repo, item)
    new = len(joined.entries) - len(present.entries)
    if new and present.entries:
        return [
            f"{item.path.name}: {new} examples joined that {item.dvc_file.name} tracks"
        ]
    return []


def _refuse_lost(item: TrackedPath, base: CheckoutBase | None) -> None:
    """Refuses to begin a new ledger where this machine knows of one."""
    if base is None or item.path.exists():
        return
    name = item.dvc_file.name
    bases = checkout.bases_file(Path()).as_posix()
    raise LedgerError(
        str(item.path),
        found=f"neither it nor {name} is there, though this machine tracked {base.version}",
        expected=EXPECTED,
        hint=f"bring {name} back (git checkout {name}); to split everything anew, remove {bases}",
    )


def _join_sides(repo: Repo, item: TrackedPath, sides: tuple[str, str]) -> list[str]:
    from pipeline.data.ledger import merged

    joined = _load_present(item)
    for side in sides:
        version = tracked_files.parse_version(side)
        joined = merged(_load_tracked(repo, item, version), joined, str(item.path))
    joined.save(item.path)
    replace_text(item.dvc_file, sides[0])  # one that can be read, to be written over
    tracked_files.add(repo, item)
    return [
        f"{item.dvc_file.name}: both sides of the Git merge joined, {len(joined.entries)} examples"
    ]


def _load_present(item: TrackedPath) -> Ledger:
    """The ledger in the workspace; empty where there is none."""
    from pipeline.data import ledger

    if item.path.exists():
        return ledger.load(item.path)
    return ledger.Ledger({})


def _load_tracked(repo: Repo, item: TrackedPath, version: str) -> Ledger:
    from pipeline.data import ledger

    return ledger.load(_fetch_to_cache(repo, item, version))


def _fetch_to_cache(repo: Repo, item: TrackedPath, version: str) -> Path:
    """A tracked ledger, in the cache.

    Raises:
        LedgerError: neither the cache nor the remote has it.
    """
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.hash_info import HashInfo

    cached = Path(repo.cache.local.oid_to_path(version))
    if cached.is_file() and md5(cached) != version:
        cached.unlink()
    if not cached.is_file():
        try:
            repo.cloud.pull([HashInfo("md5", version)])
        except DvcException as fault:
            raise _unavailable_error(item, version, str(fault)) from fault
    if not cached.is_file():
        raise _unavailable_error(
            item, version, "neither the cache nor the remote has it"
        )
    return cached


def _unavailable_error(item: TrackedPath, version: str, found: str) -> LedgerError:
    name = item.dvc_file.name
    return LedgerError(
        str(item.path),
        found=f"cannot be restored; {name} tracks {version}: {found}",
        expected=EXPECTED,
        hint=f"dvc pull {name}, or bring the file back from where it was last used",
    )
