"""What a data folder must not hold, since DVC cannot hash it: found before DVC is asked, and named."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DataError

NAMED = 20


def check(folder: Path) -> None:
    """Refuses pipes, devices, links that lead nowhere, names that are not UTF-8 and what cannot be read.

    DVC would wait for ever for a pipe's other end, and end with a traceback on the others.

    Raises:
        DataError: names them.
    """
    found = sorted(_unusable(folder))
    if found:
        more = [f"and {len(found) - NAMED} more"] if len(found) > NAMED else []
        raise DataError(
            f"data folder {folder}", found=f"{len(found)} entries that DVC cannot keep",
            expected="readable files and folders with names in UTF-8", hint="remove or rename them",
            details=[*found[:NAMED], *more],
        )  # fmt: skip


def _unusable(folder: Path) -> Iterator[str]:
    pending = [os.fspath(folder)]
    while pending:
        where = pending.pop()
        try:
            with os.scandir(where) as entries:
                for entry in entries:
                    why = _why(entry)
                    if why:
                        yield f"{_shown(os.path.relpath(entry.path, folder))}: {why}"
                    elif entry.is_dir():
                        pending.append(entry.path)
        except OSError as fault:
            yield f"{_shown(os.path.relpath(where, folder))}: {fault.strerror}"


def _why(entry: os.DirEntry[str]) -> str:
    if _shown(entry.name) != entry.name:
        return "its name is not UTF-8"
    try:
        mode = entry.stat().st_mode  # of what a link leads to
    except OSError as fault:
        return "a link that leads nowhere" if entry.is_symlink() else fault.strerror or "cannot be read"
    if stat.S_ISDIR(mode):
        return "a link to a folder above it" if entry.is_symlink() and _above(entry) else ""
    if not stat.S_ISREG(mode):
        return "neither a file nor a folder"
    return "" if os.access(entry.path, os.R_OK) else "cannot be read"


def _above(entry: os.DirEntry[str]) -> bool:
    return Path(entry.path).parent.resolve().is_relative_to(Path(entry.path).resolve())


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
