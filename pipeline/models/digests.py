"""The sha256 of large files, remembered with what the file system says of them: an unchanged file is read once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipeline import files

SETTLED_SECONDS = 2.0  # a file changed as recently as this could change again without its times showing it


class FileStat(NamedTuple):
    """What tells one version of a file from another without reading it.

    The time of change (`st_ctime_ns`) is among it: programs can set the time of modification back, never that one.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """What the file system says of a file now."""
        facts = path.stat()
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)

    def seconds_since_change(self) -> float:
        """How long ago the file was written to, in seconds."""
        last_change = max(self.modified, self.changed) / 1e9
        return time.time() - last_change


class KnownFile(BaseModel):
    """A file that was hashed."""

    model_config = ConfigDict(frozen=True)

    path: Path
    stat: FileStat
    sha256: str


_KNOWN_FILES = TypeAdapter(dict[str, KnownFile])


class DigestCache:
    """Files by a name of the caller's, kept in one JSON file; a cache that cannot be read is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file_of(self, name: str) -> Path | None:
        """The file that the name meant when it was last hashed."""
        known = self._read().get(name)
        if known is None:
            return None
        return known.path

    def sha256(self, name: str, file: Path) -> str:
        """The sha256 of a file, which is read only where it may differ from the last time."""
        stat = FileStat.of(file)
        known = self._read().get(name)
        if known is not None and known.path == file and known.stat == stat:
            return known.sha256
        digest = files.sha256(file)
        self.remember(name, file, stat, digest)
        return digest

    def remember(self, name: str, file: Path, stat: FileStat, sha256: str) -> None:
        """Keeps what a file was found to be, unless it changed too recently to be told from its next version."""
        if stat.seconds_since_change() < SETTLED_SECONDS:
            return
        known_files = self._read()
        known_files[name] = KnownFile(path=file, stat=stat, sha256=sha256)
        text = _KNOWN_FILES.dump_json(known_files, indent=2).decode()
        files.replace_text(self.path, text + "\n")

    def _read(self) -> dict[str, KnownFile]:
        try:
            return _KNOWN_FILES.validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return {}
