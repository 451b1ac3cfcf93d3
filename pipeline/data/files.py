"""Which files of a data folder may be touched at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

from pipeline.manifest import real_path


def outside(root: Path, path: str) -> tuple[str, str, str, str] | None:
    """Why a path does not name something below the data folder: code, found, expected
    and hint; None if it does.

    Args:
        root: the data folder.
        path: as the manifest writes it.
    """
    pure = PurePosixPath(path)
    if "\0" in path or not pure.parts:
        return (
            "path",
            "a path that no file can have",
            "a path below the data folder",
            "correct the path",
        )
    if pure.is_absolute() or ".." in pure.parts:
        return (
            "outside",
            "a path that leads out of the data folder",
            "a path below it",
            "correct the path",
        )
    try:
        top = os.path.realpath(root, strict=True)
        real = os.path.realpath(real_path(root, path), strict=True)
    except FileNotFoundError:
        return None  # that it is missing is another fault
    except OSError as fault:
        if fault.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):
            return None  # so is this
        if fault.errno == errno.ELOOP:
            return (
                "link-loop",
                fault.strerror or "a loop of links",
                "a file",
                "replace the link by the file",
            )
        return (
            "unreadable",
            fault.strerror or "cannot be read",
            "a readable file",
            "check its permissions",
        )
    if os.path.commonpath([top, real]) != top:
        return (
            "outside",
            "a link that leads out of the data folder",
            "a file in it",
            "replace the link by a copy",
        )
    return None
