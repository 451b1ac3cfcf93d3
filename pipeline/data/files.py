"""Which files of a data folder may be touched at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

from pipeline.manifest import real_path

_NO_PATH = (
    "path",
    "a path that no file can have",
    "a path below the data folder",
    "correct the path",
)
_PATH_LEADS_OUT = (
    "outside",
    "a path that leads out of the data folder",
    "a path below it",
    "correct the path",
)
_LINK_LEADS_OUT = (
    "outside",
    "a link that leads out of the data folder",
    "a file in it",
    "replace the link by a copy",
)
# That a file is missing is another fault.
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def outside(root: Path, path: str) -> tuple[str, str, str, str] | None:
    """Why a path does not name something below the data folder: code, found, expected
    and hint; None if it does.

    Args:
        root: the data folder.
        path: as the manifest writes it.
    """
    pure = PurePosixPath(path)
    if "\0" in path or not pure.parts:
        return _NO_PATH
    if pure.is_absolute() or ".." in pure.parts:
        return _PATH_LEADS_OUT
    try:
        top = os.path.realpath(root, strict=True)
        real = os.path.realpath(real_path(root, path), strict=True)
    except OSError as fault:
        return _describe_unresolved(fault)
    if os.path.commonpath([top, real]) != top:
        return _LINK_LEADS_OUT
    return None


def _describe_unresolved(fault: OSError) -> tuple[str, str, str, str] | None:
    """Why a path's links cannot be followed."""
    if fault.errno in _MISSING:
        return None
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
