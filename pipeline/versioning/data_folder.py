"""What a data folder must not hold, since DVC cannot hash it: found before DVC is
asked, and named.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DataError

MAX_NAMED = 20


def refuse_unusable(folder: Path) -> None:
    """Refuses pipes, devices, links that lead nowhere, names that are not UTF-8 and
    what cannot be read.

    DVC would wait for ever for a pipe's other end, and end with a traceback on the
    others.

    Raises:
        DataError: names them.
    """
    unusable = sorted(_find_unusable(folder))
    if not unusable:
        return
    details = unusable[:MAX_NAMED]
    if len(unusable) > MAX_NAMED:
        details.append(f"and {len(unusable) - MAX_NAMED} more")
    raise DataError(
        f"data folder {folder}",
        found=f"{len(unusable)} entries that DVC cannot keep",
        expected="readable files and folders with names in UTF-8",
        hint="remove or rename them",
        details=details,
    )


def _find_unusable(folder: Path) -> Iterator[str]:
    pending = [os.fspath(folder)]
    while pending:
        current = pending.pop()
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    reason = _why_unusable(entry)
                    if reason:
                        yield f"{_escape_name(os.path.relpath(entry.path, folder))}: {reason}"
                    elif entry.is_dir():
                        pending.append(entry.path)
        except OSError as fault:
            yield f"{_escape_name(os.path.relpath(current, folder))}: {fault.strerror}"


def _why_unusable(entry: os.DirEntry[str]) -> str:
    """What is wrong with an entry; empty where nothing is."""
    if _escape_name(entry.name) != entry.name:
        return "its name is not UTF-8"
    try:
        mode = entry.stat().st_mode  # of what a link leads to
    except OSError as fault:
        if entry.is_symlink():
            return "a link that leads nowhere"
        return fault.strerror or "cannot be read"
    if stat.S_ISDIR(mode):
        return "a link to a folder above it" if _links_above(entry) else ""
    if not stat.S_ISREG(mode):
        return "neither a file nor a folder"
    if os.access(entry.path, os.R_OK):
        return ""
    return "cannot be read"


def _links_above(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return False
    target = Path(entry.path).resolve()
    return Path(entry.path).parent.resolve().is_relative_to(target)


def _escape_name(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
