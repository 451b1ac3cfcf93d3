"""The ledger: which split every example was given when it was first seen, for ever.

`ledger.parquet`, one row an example, only ever grows: examples that leave the dataset
stay in it, so that they and their near-duplicates get the same split when they come
back.

| column | type | meaning |
|---|---|---|
| id | string | MD5 of the example's content |
| group | string, null | the group it belonged to when first seen |
| split | string | `train`, `val` or `test` |
| target | string | its label, or else its stratum, when first seen |
| phash | string, null | its perceptual hash, 16 hex digits |
| batch | int32 | 0 for the first split, 1 for the first growth, … |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import files, manifest
from pipeline.errors import LedgerError

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("phash", pa.string()),
        pa.field("batch", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One example as it was when it was first seen."""

    id: str
    group: str | None
    split: manifest.Split
    target: str
    phash: str | None
    batch: int


@dataclass(frozen=True)
class Ledger:
    """Entries by id; a ledger is never changed, only extended into a new one."""

    entries: dict[str, LedgerEntry]

    @property
    def next_batch(self) -> int:
        batches = [entry.batch for entry in self.entries.values()]
        return 1 + max(batches, default=-1)

    def extended(self, new: Iterable[LedgerEntry]) -> Ledger:
        """With the new entries, numbered as the next batch.

        Raises:
            LedgerError: one of them is in it already.
        """
        added = {entry.id: entry for entry in new}
        known = sorted(added.keys() & self.entries.keys())
        if known:
            raise LedgerError(
                "ledger",
                found="entries that it has already",
                expected="only new ones",
                details=known,
            )
        return Ledger({**self.entries, **added})

    def save(self, path: Path) -> None:
        """Writes the ledger; `path` is wholly the old one or wholly the new one,
        whatever happens meanwhile.

        The file may be a read-only link into DVC's cache, so it is replaced and never
        written to.
        """
        rows = sorted(self.entries.values(), key=lambda entry: (entry.batch, entry.id))
        columns = {}
        for field in SCHEMA:
            columns[field.name] = [getattr(row, field.name) for row in rows]
        with files.replacing(path, durable=True) as part:
            manifest.write_table(pa.table(columns, schema=SCHEMA), part)


def load(path: Path) -> Ledger:
    """Reads a ledger.

    Raises:
        LedgerError: the file is not a ledger, or contradicts itself.
    """
    try:
        table = pq.read_table(path)
        if not table.schema.equals(SCHEMA):
            raise pa.ArrowInvalid(f"columns {', '.join(table.column_names)}")
    except (OSError, pa.ArrowException) as fault:
        raise LedgerError(
            str(path),
            found=str(fault).splitlines()[0],
            expected="the ledger of earlier splits",
            hint=BRING_BACK,
        ) from fault
    entries = [LedgerEntry(**row) for row in table.to_pylist()]
    details = [
        f"{entry.id}: split {entry.split}"
        for entry in entries
        if entry.split not in manifest.SPLITS
    ]
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            details.append(f"{entry.id}: twice")
        seen.add(entry.id)
    if details:
        raise LedgerError(
            str(path), found="entries that cannot be", hint=BRING_BACK, details=details
        )
    return Ledger({entry.id: entry for entry in entries})


def merged(left: Ledger, right: Ledger, subject: str) -> Ledger:
    """Both ledgers as one, where they grew apart or one is older; what both know is
    taken from `left`.

    Raises:
        LedgerError: they gave an example different splits; `subject` names them.
    """
    both = left.entries.keys() & right.entries.keys()
    apart = []
    for identity in sorted(both):
        ours = left.entries[identity].split
        theirs = right.entries[identity].split
        if ours != theirs:
            apart.append(f"{identity}: {ours} and {theirs}")
    if apart:
        raise LedgerError(
            subject,
            found=f"{len(apart):,} examples that were split twice, and differently",
            expected="one ledger, extended",
            hint="keep the one that trained models go by, and delete the other",
            details=apart,
        )
    return Ledger({**right.entries, **left.entries})


def agrees(path: Path, split_manifest: Path) -> bool:
    """Whether a finished split says what the ledger says; False where either cannot be
    read.
    """
    try:
        known = load(path).entries
        table = pq.read_table(split_manifest, columns=["id", "split"])
    except (LedgerError, OSError, pa.ArrowException, KeyError):
        return False
    ids = table["id"].to_pylist()
    splits = table["split"].to_pylist()
    for identity, split in zip(ids, splits, strict=True):
        if split is None:
            continue
        if identity not in known or known[identity].split != split:
            return False
    return True


BRING_BACK = "bring back the file that ledger.dvc pins: dvc checkout ledger.dvc, or dvc pull ledger.dvc"
