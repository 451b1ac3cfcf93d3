"""The sha256 of large files, remembered with what the file system says of them: an unchanged file is read once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipeline.files import replace_text
from pipeline.models.fetch import sha256

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
        facts = path.stat()
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


class KnownFile(BaseModel):
    """A file that was hashed."""

    model_config = ConfigDict(frozen=True)

    path: Path
    stat: FileStat
    sha256: str


_KNOWN = TypeAdapter(dict[str, KnownFile])


class DigestCache:
    """Files by a name of the caller's, kept in one JSON file; a cache that cannot be read is as good as none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file_of(self, name: str) -> Path | None:
        """The file that the name meant when it was last hashed."""
        known = self._read().get(name)
        return known.path if known else None

    def sha256(self, name: str, file: Path) -> str:
        """The sha256 of a file, which is read only where it may differ from the last time."""
        stat = FileStat.of(file)
        known = self._read().get(name)
        if known and (known.path, known.stat) == (file, stat):
            return known.sha256
        found = sha256(file)
        self.remember(name, file, stat, found)
        return found

    def remember(self, name: str, file: Path, stat: FileStat, found: str) -> None:
        """Keeps what a file was found to be, unless it changed too recently to be told from its next version."""
        if time.time() - max(stat.modified, stat.changed) / 1e9 < SETTLED_SECONDS:
            return
        known = {**self._read(), name: KnownFile(path=file, stat=stat, sha256=found)}
        replace_text(self.path, _KNOWN.dump_json(known, indent=2).decode() + "\n")

    def _read(self) -> dict[str, KnownFile]:
        try:
            return _KNOWN.validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return {}
