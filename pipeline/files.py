"""Files put in place whole, with the permissions they should have."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from pathlib import Path

_OF_ITS_OWNER, _AS_THE_UMASK_SAYS = 0o600, 0o666


def replace_text(path: Path, text: str, *, private: bool = False) -> None:
    """Puts a text file in place whole: whoever opens it meanwhile sees the old one.

    Args:
        private: readable by its owner alone from the moment it is made; else its mode is what the umask says, whatever
            the mode of the file it replaces.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path)
    try:
        descriptor = _create(part, _OF_ITS_OWNER if private else _AS_THE_UMASK_SAYS)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def expanded(text: str) -> Path:
    """A path, with the home folder for `~`; as it is where no user is called so."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def apply_umask(path: Path) -> None:
    """Gives a new file the mode that the umask says, where a library made it readable by its owner alone."""
    probe = _beside(path)  # the umask itself cannot be read without changing it for all threads
    descriptor = _create(probe, _AS_THE_UMASK_SAYS)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()
    path.chmod(mode)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _create(path: Path, mode: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
