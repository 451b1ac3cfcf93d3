"""The manifest: the one table that crosses steps, one row an example, as Parquet.

Columns every task has (`COLUMNS`), then those that some tasks have (`content`,
`classes`, `stratum`), then what the task's scan measured (`scan.<name>`), then the
user's own metadata (`meta.<name>`, used for slices).

| column | type | meaning |
|---|---|---|
| id | string | MD5 of the example's content, lower-case hex: what DVC calls the file |
| path | string | path below the data folder, `/`-separated, as `stored_path` writes it (`real_path` turns it back); of identical files with one label, the first in sorted order |
| aliases | list<string> | the other paths of the same content |
| target | string | the label, by name; else canonical JSON: boxes, or where a mask lies and its digest |
| group | string, null | what must stay in one split together (a patient, a part, a video), as the user gave it |
| given_split | string, null | `train`, `val` or `test` where the data came already split |
| split | string, null | the split it has; null until the split step, and for an example that was left out |
| unit | string, null | what is one piece of evidence: groups and near-duplicates joined in any chain, by the least id among them; null where split is |
| content | string | where examples are rows of a table: canonical JSON of an example's inputs |
| classes | list<string> | where the target is no class: the classes of the objects in it, each once, sorted |
| stratum | string | where the target is no class: the one by which the split assigns it; empty where it has no object |

Rows are sorted by id, so the order in which files were listed changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DataError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

COLUMNS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("aliases", pa.list_(pa.string()), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("given_split", pa.string()),
        pa.field("split", pa.string()),
        pa.field("unit", pa.string()),
    ]
)
SCAN, META = "scan.", "meta."
# Columns that some tasks have.
CONTENT, CLASSES, STRATUM = "content", "classes", "stratum"

# What could not be used, beside the manifest in the same folder: `quarantine.parquet`.
QUARANTINE = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("code", pa.string(), nullable=False),
        pa.field("found", pa.string(), nullable=False),
        pa.field("expected", pa.string(), nullable=False),
        pa.field("hint", pa.string(), nullable=False),
    ]
)


def stored_path(relative: str) -> str:
    r"""A path below the data folder as tables hold it: itself, except for bytes that
    are not UTF-8 and backslashes.

    File names are bytes; Parquet strings are UTF-8. A byte that is not UTF-8, which
    Python holds as a lone surrogate, is written `\xNN`, and a backslash `\\`, so that
    `real_path` gets every name back.
    """
    if "\\" not in relative and relative.isprintable():
        return relative  # surrogates are not printable
    escaped = relative.replace("\\", "\\\\")
    return re.sub(
        "[\udc80-\udcff]", lambda found: f"\\x{os.fsencode(found[0])[0]:02x}", escaped
    )


def real_path(root: Path, path: str) -> Path:
    """The file that a path of a manifest or quarantine names, below the data folder
    `root`.
    """
    if "\\" not in path:
        return root / path
    return root / re.sub(
        r"\\(?:\\|x([89a-f][0-9a-f]))",
        lambda found: os.fsdecode(bytes.fromhex(found[1])) if found[1] else "\\",
        path,
    )


def write(table: pa.Table, path: Path) -> str:
    """Writes a manifest sorted by id and returns the sha256 of the file; the bytes
    depend on the rows alone.

    Raises:
        DataError: a column of `COLUMNS` is missing or has another type.
    """
    for field in COLUMNS:
        column_type = None
        if field.name in table.column_names:
            column_type = table.schema.field(field.name).type
        if column_type != field.type:
            raise DataError(
                f"manifest column '{field.name}'",
                found=str(column_type or "no such column"),
                expected=str(field.type),
            )
    others = [name for name in table.column_names if name not in COLUMNS.names]
    ordered = (
        table.select([*COLUMNS.names, *sorted(others)])
        .sort_by("id")
        .replace_schema_metadata(None)
    )
    return write_table(ordered, path)


def write_table(table: pa.Table, path: Path) -> str:
    """Writes any Parquet table reproducibly (no pandas metadata, no statistics) and
    returns its sha256.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table.replace_schema_metadata(None).combine_chunks(),
        path,
        compression="zstd",
        write_statistics=False,
    )
    return sha256(path)


def read_split(path: Path, split: Split) -> pa.Table:
    """The rows of a manifest that are in one split; see `read` for the errors."""
    table = read(path)
    return table.filter(pc.equal(table["split"], split))


def read(path: Path) -> pa.Table:
    """Reads a manifest.

    Raises:
        DataError: the file is missing or is not a manifest.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as fault:
        raise DataError(
            f"manifest {path}",
            found=str(fault),
            expected="a Parquet file",
            hint="thaw run",
        ) from fault
    missing = [name for name in COLUMNS.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"manifest {path}",
            found=f"no column {', '.join(missing)}",
            expected=", ".join(COLUMNS.names),
            hint="thaw run --force validate",
        )
    return table


def count_classes(table: pa.Table) -> dict[str, int]:
    """Class → rows that contain it."""
    column = table["target"]
    if CLASSES in table.column_names:
        column = pc.list_flatten(table[CLASSES])
    counted = pc.value_counts(column).to_pylist()
    return {pair["values"]: pair["counts"] for pair in counted}


def sha256(path: Path) -> str:
    """The sha256 of a file, lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
