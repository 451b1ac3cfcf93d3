"""Members: which examples a model was trained, validated and tested on. The table
travels with every version.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import manifest

FILE = "members.parquet"
SHA256_TAG = "members.sha256"  # of a registered version
SEEN = ("train", "val")  # a model has learnt from these

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
    ]
)


def members_of_split(split: pa.Table) -> pa.Table:
    """The members that a manifest with splits names; examples that were left out are
    none.
    """
    has_split = pc.is_valid(split.column("split"))
    assigned = split.filter(has_split)
    return assigned.select(SCHEMA.names).cast(SCHEMA)


def with_ancestor(own: pa.Table, ancestor: pa.Table) -> pa.Table:
    """The members of a model that started from another model's weights: what that one
    learnt from counts too.
    """
    learnt = seen_members(ancestor)
    own_ids = own.column("id").combine_chunks()
    is_known = pc.is_in(learnt.column("id"), value_set=own_ids)
    others = learnt.filter(pc.invert(is_known))
    return pa.concat_tables([own, others])


def seen_members(members: pa.Table) -> pa.Table:
    """The members a model was trained or validated on."""
    seen = pa.array(SEEN)
    is_seen = pc.is_in(members.column("split"), value_set=seen)
    return members.filter(is_seen)


def unseen_rows(table: pa.Table, members: pa.Table) -> NDArray[np.bool_]:
    """Which rows of a manifest (N,) a model learnt nothing of: not that example, nor
    one that belongs with it, by a group or as a near-duplicate.
    """
    learnt = seen_members(members)
    known_ids = set(learnt.column("id").to_pylist())
    known_groups = set(learnt.column("group").to_pylist()) - {None}
    ids = table.column("id").to_pylist()
    groups = table.column("group").to_pylist()
    units = table.column("unit").to_pylist()
    is_seen: list[bool] = []
    known_units: set[str] = set()
    for identity, group, unit in zip(ids, groups, units, strict=True):
        is_known = identity in known_ids or group in known_groups
        is_seen.append(is_known)
        if is_known and unit is not None:
            known_units.add(unit)
    related = np.array([unit in known_units for unit in units], np.bool_)
    return ~(np.array(is_seen, np.bool_) | related)


class MemberOverlap(NamedTuple):
    """Test examples that a model knows.

    Args:
        tests: test examples in all.
        trained, validated: of those, how many the model was trained or validated on.
        related: how many more belong with such an example, by a group or as
            near-duplicates.
        paths: which, sorted.
    """

    tests: int
    trained: int
    validated: int
    related: int
    paths: tuple[str, ...]


def find_overlap(members: pa.Table, split: pa.Table) -> MemberOverlap:
    """Which test examples of a manifest with splits a model with these members knows."""
    tests = split.filter(pc.equal(split.column("split"), "test"))
    known = tests.filter(pa.array(~unseen_rows(tests, members)))
    learnt = seen_members(members)
    learnt_ids = learnt.column("id").to_pylist()
    splits = learnt.column("split").to_pylist()
    split_of = dict(zip(learnt_ids, splits, strict=True))
    counts = Counter(
        split_of.get(identity, "related") for identity in known.column("id").to_pylist()
    )
    return MemberOverlap(
        tests=tests.num_rows,
        trained=counts["train"],
        validated=counts["val"],
        related=counts["related"],
        paths=tuple(sorted(known.column("path").to_pylist())),
    )


def write_members(members: pa.Table, path: Path) -> None:
    """Writes the table, sorted by id: the same members give the same bytes."""
    manifest.write_table(members.sort_by("id"), path)


def read_members(path: Path) -> pa.Table:
    """Reads a table that `write_members` wrote.

    Raises:
        OSError, ValueError: there is none, or it is another table, which would pass for
            a model that learnt from nothing.
    """
    missing = set(SCHEMA.names) - set(pq.read_schema(path).names)
    if missing:
        columns = ", ".join(sorted(missing))
        raise ValueError(f"{path.name} has no column {columns}")
    return pq.read_table(path, schema=SCHEMA)
