"""The ledger is joined with what ledger.dvc pins, never replaced by it: both sides only ever grew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import LedgerError
from pipeline.files import replace_text
from pipeline.versioning import checkout, merge_conflicts, tracked_files
from pipeline.versioning.checkout import CheckoutBase, CheckoutPlan, PinnedFiles
from pipeline.versioning.integrity import md5

if TYPE_CHECKING:
    from dvc.repo import Repo

    from pipeline.data.ledger import Ledger


def update(repo: Repo, what: PinnedFiles) -> list[str]:
    """Makes ledger.parquet hold what ledger.dvc pins besides what it holds already, and says so where it did not.

    A Git merge conflict in ledger.dvc is resolved by joining both sides, and pinned anew.

    Raises:
        LedgerError: what is pinned cannot be had, is no ledger, or gives an example another split than the ledger here;
            or this machine had a ledger, and both files are gone.
    """
    if not what.pin.is_file():
        _refuse_lost(what, checkout.recall(Path(repo.root_dir), what))
        return []
    sides = merge_conflicts.sides(what.pin)
    if sides:
        return _join_sides(repo, what, sides)
    out = checkout.load_pin(repo, what)
    pinned = out.hash_info.value
    if out.exists and not out.changed_checksum():
        checkout.remember(Path(repo.root_dir), what, CheckoutBase(pinned))
        return []
    from pipeline.data.ledger import merged

    here = _here(what)
    theirs = _load(repo, what, pinned)
    joined = merged(theirs, here, str(what.path))
    if joined.entries == theirs.entries:
        checkout.check_out(out, what, CheckoutPlan({"": pinned}, (), (), ()))
        checkout.remember(Path(repo.root_dir), what, CheckoutBase(pinned))
    else:
        joined.save(what.path)
        tracked_files.pin(repo, what)
    new = len(joined.entries) - len(here.entries)
    return [f"{what.path.name}: {new} examples joined that {what.pin.name} pins"] if new and here.entries else []


def _refuse_lost(what: PinnedFiles, base: CheckoutBase | None) -> None:
    """Refuses to begin a new ledger where this machine knows of one."""
    if base is None or what.path.exists():
        return
    raise LedgerError(
        str(what.path),
        found=f"neither it nor {what.pin.name} is there, though this machine pinned {base.version}",
        expected="the ledger of earlier splits: a new one would leak test examples into training",
        hint=f"bring {what.pin.name} back (git checkout {what.pin.name}); to split everything anew, remove "
        f"{checkout.bases_file(Path()).as_posix()}",
    )


def _join_sides(repo: Repo, what: PinnedFiles, sides: tuple[str, str]) -> list[str]:
    from pipeline.data.ledger import merged

    joined = _here(what)
    for side in sides:
        joined = merged(_load(repo, what, tracked_files.pinned_version(side)), joined, str(what.path))
    joined.save(what.path)
    replace_text(what.pin, sides[0])  # one that can be read, to be pinned over
    tracked_files.pin(repo, what)
    return [f"{what.pin.name}: both sides of the Git merge joined, {len(joined.entries)} examples"]


def _here(what: PinnedFiles) -> Ledger:
    from pipeline.data import ledger

    return ledger.load(what.path) if what.path.exists() else ledger.Ledger({})


def _load(repo: Repo, what: PinnedFiles, version: str) -> Ledger:
    from pipeline.data import ledger

    return ledger.load(_cached(repo, what, version))


def _cached(repo: Repo, what: PinnedFiles, version: str) -> Path:
    """A pinned ledger, in the cache."""
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.hash_info import HashInfo

    kept = Path(repo.cache.local.oid_to_path(version))
    if kept.is_file() and md5(kept) != version:
        kept.unlink()
    if not kept.is_file():
        try:
            repo.cloud.pull([HashInfo("md5", version)])
        except DvcException as fault:
            raise _lost(what, version, str(fault)) from fault
    if not kept.is_file():
        raise _lost(what, version, "neither the cache nor the remote has it")
    return kept


def _lost(what: PinnedFiles, version: str, found: str) -> LedgerError:
    return LedgerError(
        str(what.path),
        found=f"cannot be restored, though {what.pin.name} pins {version}: {found}",
        expected="the ledger of earlier splits: a new one would leak test examples into training",
        hint=f"dvc pull {what.pin.name}, or bring the file back from where it was last used",
    )
