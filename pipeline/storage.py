"""Files on a disk that may be full, over quota or read-only: written so that this is an
error, and said with its room.

A sparse file under a writable memory map takes its disk when a page of it is first
touched, and where there is none left the process is ended by SIGBUS without a word. So
files of Thaw's own are written by calls, which fail with an OSError, and mapped for
reading alone.
"""

from __future__ import annotations

import errno
import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StorageError, ThawError
from pipeline.files import FULL, apply_umask

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_SAID = {  # by libraries that hand a refusal on as words
    "no space left on device": errno.ENOSPC,
    "disk is full": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "readonly database": errno.EROFS,
    "disk i/o error": errno.EIO,
    "file too large": errno.EFBIG,
}
# A network or a signal, not a disk.
_ELSEWHERE = (ConnectionError, TimeoutError, InterruptedError, BlockingIOError)

_MENDS = {
    errno.ENOSPC: "make room there, or: thaw clean --yes; then run it again: what is finished is not done again",
    errno.EDQUOT: "make room within the quota, or: thaw clean --yes; then run it again",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f), then run it again",
    errno.EROFS: "mount it so that it can be written, then run it again",
    errno.EACCES: "chown or chmod it, then run it again",
    errno.EPERM: "chown or chmod it, then run it again",
    errno.EMFILE: "raise the limit on open files (ulimit -n), then run it again",
    errno.EIO: "look at the disk's health and the system's log",
}


class PositionedFile:
    """A file written at positions, by several threads at once; closed when nobody holds
    it any more.

    Args:
        path: made where it is missing; what it holds is kept.

    Raises:
        OSError: it cannot be opened or made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, self._descriptor)

    def write(self, values: NDArray[Any], offset: int) -> None:
        """Writes an array's bytes; raises OSError where the disk does not take all of
        them.
        """
        import numpy as np

        unwritten = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        while unwritten:
            written = os.pwrite(self._descriptor, unwritten, offset)
            unwritten = unwritten[written:]
            offset += written

    def sync(self) -> None:
        """Returns when the disk has what was written; some file systems only say here
        that it is full.
        """
        os.fsync(self._descriptor)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes tensors as a safetensors file.

    Raises:
        OSError: the disk is full or read-only; names the file, which the library's own
            error does not.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as fault:
        number = _full_or_read_only(fault)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from fault
    apply_umask(path)


class Refused(Exception):
    """What a disk refused to a cache that one can do without."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@contextmanager
def refusals() -> Iterator[None]:
    """Tells a disk's refusal inside the block from an OSError of the work around it.

    Raises:
        Refused: in place of an OSError.
    """
    try:
        yield
    except OSError as fault:
        raise Refused(fault) from fault


@contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """What a disk refuses inside the block becomes an error that names the path and the
    room there.

    Args:
        root: named where the fault itself names no path.

    Raises:
        StorageError: in place of an OSError of a disk, and of any error that a full
            disk caused.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as fault:
        error = to_storage_error(fault, root)
        if error is None:
            raise
        raise error from fault


def to_storage_error(fault: BaseException, root: Path) -> StorageError | None:
    """The error to be told for a fault that a disk is the cause of; None where it is
    not.
    """
    full = to_full_disk_error(fault, root)
    if full is not None:
        return full
    if isinstance(fault, ThawError):  # it says better what is wrong
        return None
    if isinstance(fault, OSError) and _is_of_a_disk(fault):
        return _error(fault, fault.errno or 0, root)
    return None


def to_full_disk_error(fault: BaseException, near: Path) -> StorageError | None:
    """The error to be told for a fault that a full or read-only disk is the cause of;
    None where none is.

    Args:
        near: named where the fault itself names no path.
    """
    for cause in _causes(fault):
        number = _full_or_read_only(cause)
        if number is not None:
            return _error(cause, number, near)
    return None


def describe(fault: OSError, near: Path) -> str:
    """What was refused and where, and the room there, on one line."""
    path = _path(fault, near)
    reason = _reason(fault, fault.errno or 0)
    return f"{reason}: {path} ({room(path)})"


def room(path: Path) -> str:
    """The free disk at a path, or at the nearest folder above it that exists, in words."""
    for folder in (path, *path.absolute().parents):
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        return f"{usage.free / 1e6:,.1f} of {usage.total / 1e6:,.1f} MB free"
    return "free disk unknown"


def _causes(fault: BaseException) -> Iterator[BaseException]:
    """The fault, what it was raised from, and so on."""
    seen: set[int] = set()
    current: BaseException | None = fault
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )


def _full_or_read_only(fault: BaseException) -> int | None:
    """The errno of a disk that takes nothing, also where a library hands it on as
    words; else None.
    """
    if isinstance(fault, OSError) and fault.errno is not None:
        if fault.errno in FULL or fault.errno == errno.EROFS:
            return fault.errno
        return None
    if isinstance(fault, ThawError):
        return None
    message = str(fault).lower()
    return next((number for words, number in _SAID.items() if words in message), None)


def _is_of_a_disk(fault: OSError) -> bool:
    if isinstance(fault, _ELSEWHERE) or fault.errno is None:
        return False
    return fault.filename is not None or fault.errno in _MENDS


def _error(fault: BaseException, number: int, root: Path) -> StorageError:
    path = _path(fault, root)
    hint = _MENDS.get(
        number, "see that it is there and may be read and written, then run it again"
    )
    return StorageError(
        str(path),
        found=f"{_reason(fault, number)}; {room(path)}",
        expected="a file that can be written",
        hint=hint,
    )


def _reason(fault: BaseException, number: int) -> str:
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    return os.strerror(number)


def _path(fault: BaseException, near: Path) -> Path:
    named = getattr(fault, "filename", None)
    if getattr(fault, "errno", None) in {*FULL, errno.EROFS}:
        # Of a copy, the file that was read comes first; it is the other that lacks room.
        named = getattr(fault, "filename2", None) or named
    if isinstance(named, bytes):
        named = os.fsdecode(named)
    if isinstance(named, str) and named:
        return near / named
    return near
