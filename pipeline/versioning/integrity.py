"""Whether what came out of DVC's cache is what went in: DVC trusts its cache and reads
no content again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.files import md5

if TYPE_CHECKING:
    from dvc.output import Output


def discard_damaged_files(output: Output) -> list[str]:
    """Hashes the files of an output that was just restored. Those that are damaged are
    removed, with the cached files they came from, and named.
    """
    damaged = []
    for file, oid in _list_files(output):
        if md5(file) == oid:
            continue
        damaged.append(file.relative_to(output.repo.root_dir).as_posix())
        file.unlink()
        Path(output.cache.oid_to_path(oid)).unlink(missing_ok=True)
    return damaged


def discard_damaged_objects(output: Output, oids: Iterable[str]) -> list[str]:
    """The same for objects that are still in the cache, before any of them is put in
    place; returns their hashes.
    """
    damaged = []
    for oid in oids:
        cached = Path(output.cache.oid_to_path(oid))
        if cached.is_file() and md5(cached) != oid.removesuffix(".dir"):
            cached.unlink()
            damaged.append(oid)
    return damaged


def _list_files(output: Output) -> Iterator[tuple[Path, str]]:
    """Every file of an output, with the hash that DVC has of it."""
    root = Path(output.fs_path)
    if not output.hash_info.isdir:
        yield root, output.hash_info.value
        return
    for key, _, oid in output.get_obj() or ():
        yield root.joinpath(*key), oid.value
