"""Members: which examples a model was trained, validated and tested on. The table travels with every version."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import manifest

FILE = "members.parquet"
SEEN = ("train", "val")  # a model has learnt from these

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
    ]
)


def of_split(split: pa.Table) -> pa.Table:
    """The members that a manifest with splits names; examples that were left out are none."""
    dealt = split.filter(pc.is_valid(split.column("split")))
    return dealt.select(SCHEMA.names).cast(SCHEMA)


def with_ancestor(own: pa.Table, ancestor: pa.Table) -> pa.Table:
    """The members of a model that started from another model's weights: what that one learnt from counts too."""
    learnt = seen(ancestor)
    known = pc.is_in(learnt.column("id"), value_set=own.column("id").combine_chunks())
    return pa.concat_tables([own, learnt.filter(pc.invert(known))])


def seen(members: pa.Table) -> pa.Table:
    """The members a model was trained or validated on."""
    return members.filter(pc.is_in(members.column("split"), value_set=pa.array(SEEN)))


def write(members: pa.Table, path: Path) -> None:
    """Writes the table, sorted by id: the same members give the same bytes."""
    manifest.write_table(members.sort_by("id"), path)


def read(path: Path) -> pa.Table:
    """Reads a table that `write` wrote."""
    return pq.read_table(path, schema=SCHEMA)
