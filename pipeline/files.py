"""Files: put in place whole, with the permissions they should have; their digests and
versions; caches of them in a limited size.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

# What a disk that takes no more answers.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# A file changed as recently as this could change again without its times showing it.
SETTLED_SECONDS = 2.0
_OF_ITS_OWNER, _AS_THE_UMASK_SAYS = 0o600, 0o666


# --- put in place whole ---------------------------------------------------------------


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path beside `path` to write a file at, which is renamed to `path` when the
    block ends without an error.

    Whoever opens `path` meanwhile sees the old file. The name is one that no other
    process or thread writes at, and what lies there is removed where the block raises.
    A read-only file, or a link into a cache, is replaced and not written to.

    Args:
        durable: after a power cut, too, `path` is wholly the old file or wholly the new
            one, and the new one once the block has ended. It takes milliseconds, and
            longer on a busy disk.

    Raises:
        OSError: the file cannot be put there, or the block wrote none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path)
    try:
        yield part
        if durable:
            sync(part)
        part.replace(path)
    except OSError as fault:
        if fault.errno in FULL and fault.filename is None:
            fault.filename = str(path)  # a write names no file
        raise
    finally:
        part.unlink(missing_ok=True)
    if durable:
        sync(path.parent)


def replace_text(
    path: Path, text: str, *, private: bool = False, durable: bool = False
) -> None:
    """Puts a text file in place whole: whoever opens it meanwhile sees the old one.

    Args:
        private: readable by its owner alone from the moment it is made; else its mode
            is what the umask says, whatever the mode of the file it replaces.
        durable: see `replacing`.

    Raises:
        OSError: it cannot be put there; the old one stays.
    """
    with replacing(path, durable=durable) as part:
        descriptor = _create(part, _OF_ITS_OWNER if private else _AS_THE_UMASK_SAYS)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)


def replace_json(path: Path, values: object, *, ensure_ascii: bool = True) -> None:
    """Puts values in place whole, as JSON that people can read; see `replace_text`."""
    text = json.dumps(values, indent=2, ensure_ascii=ensure_ascii)
    replace_text(path, text + "\n")


def sync(path: Path) -> None:
    """Returns when the disk has a file's content, or a folder's entries.

    Raises:
        OSError: the disk does not take it; some file systems only say here that they
            are full.
    """
    # A folder can be opened, and its entries made durable, only there.
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def apply_umask(path: Path) -> None:
    """Gives a new file the mode that the umask says, where a library made it readable
    by its owner alone.
    """
    # The umask itself cannot be read without changing it for all threads.
    probe = _beside(path)
    descriptor = _create(probe, _AS_THE_UMASK_SAYS)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()
    path.chmod(mode)


def _beside(path: Path) -> Path:
    random = secrets.token_hex(4)
    return path.with_name(f".{path.name}.{random}.part")


def _create(path: Path, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    return os.open(path, flags, mode)


# --- what a file is -------------------------------------------------------------------


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def md5(path: Path) -> str:
    """The MD5 of a file, in hex: what DVC calls content by, and so the id of an example
    that is a file.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, _new_md5).hexdigest()


class FileStat(NamedTuple):
    """What tells one version of the file at a path from another without reading it; DVC
    trusts the like.

    The time of change (`st_ctime_ns`) is among it: programs can set the time of
    modification back, never that one. The device is not: its number may be another each
    time that a file system is mounted.

    Args:
        size: in bytes.
        mtime_ns: when its content was written, in ns since the epoch.
        ctime_ns: when its content, mode or links were changed, in ns since the epoch.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """What the file system says now of a file, or of the one that a link leads to.

        Raises:
            OSError: there is none.
        """
        return cls._from(path.stat())

    @classmethod
    def of_plain_file(cls, path: Path) -> Self | None:
        """The same of a plain file; None for a link, a folder and anything else."""
        try:
            status = path.lstat()
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return cls._from(status)

    def was_settled(self, moment: float) -> bool:
        """Whether the file was written long enough before a moment that a later change
        would show in its times.

        Args:
            moment: in seconds since the epoch, not later than when the file system was
                asked.
        """
        last_change = max(self.mtime_ns, self.ctime_ns) / 1e9
        return last_change < moment - SETTLED_SECONDS

    @classmethod
    def _from(cls, status: os.stat_result) -> Self:
        return cls(
            status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
        )


def expanded(text: str) -> Path:
    """A path, with the home folder for `~`; as it is where no user is called so."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


# --- caches in a limited size ---------------------------------------------------------


class CacheEntry(NamedTuple):
    """What comes and goes whole in a cache.

    Args:
        paths: its files and folders, in the order in which they are removed.
        used_ns: when it was last used, in ns since the epoch.
        size: in bytes.
    """

    paths: tuple[Path, ...]
    used_ns: int
    size: int


def mark_used(path: Path) -> None:
    """Notes in a file's or folder's time of modification that it was used now.

    The time is given: the file system's own clock may tick too slowly to tell two uses
    apart.
    """
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def used_ns(path: Path) -> int:
    """When a file or folder was last used, as `mark_used` noted it, in ns since the
    epoch.
    """
    return path.stat().st_mtime_ns


def folder_size(folder: Path) -> int:
    """Bytes of the files that lie in a folder, without folders below it."""
    total = 0
    for path in folder.iterdir():
        if path.is_file():
            total += path.stat().st_size
    return total


def evict_least_recently_used(
    entries: Iterable[CacheEntry],
    fits: Callable[[int], bool],
    *,
    keep: Collection[Path] = (),
) -> int:
    """Removes entries, least recently used first, until what is left fits.

    Args:
        entries: all of a cache.
        fits: whether the cache may hold this many bytes; asked before each removal.
        keep: an entry with one of these paths stays.

    Returns:
        Bytes of the entries that are left, whether or not they fit.
    """
    by_use = sorted(entries, key=lambda entry: entry.used_ns)
    held_bytes = sum(entry.size for entry in by_use)
    for entry in by_use:
        if fits(held_bytes):
            break
        if any(path in keep for path in entry.paths):
            continue
        for path in entry.paths:
            _remove(path)
        held_bytes -= entry.size
    return held_bytes


def _remove(path: Path) -> None:
    """Removes a file or a folder; what another process removes meanwhile is no error."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _new_md5() -> hashlib._Hash:
    # So that it is to be had where security policies forbid it.
    return hashlib.md5(usedforsecurity=False)
