"""The sha256 of large files, remembered with what the file system says of them: an
unchanged file is read once.
"""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipeline import files
from pipeline.files import FileStat


class KnownFile(BaseModel):
    """A file that was hashed."""

    model_config = ConfigDict(frozen=True)

    path: Path
    stat: FileStat
    sha256: str


_KNOWN_FILES = TypeAdapter(dict[str, KnownFile])


class DigestCache:
    """Files by a name of the caller's, kept in one JSON file; a cache that cannot be
    read is ignored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def file_of(self, name: str) -> Path | None:
        """The file that the name meant when it was last hashed."""
        known = self._read().get(name)
        if known is None:
            return None
        return known.path

    def sha256(self, name: str, file: Path) -> str:
        """The sha256 of a file, which is read only where it may differ from the last
        time.
        """
        stat = FileStat.of(file)
        known = self._read().get(name)
        if known is not None and known.path == file and known.stat == stat:
            return known.sha256
        digest = files.sha256(file)
        self.remember(name, file, stat, digest)
        return digest

    def remember(self, name: str, file: Path, stat: FileStat, sha256: str) -> None:
        """Keeps what a file was found to be, unless it changed too recently to be told
        from its next version.
        """
        if not stat.was_settled(time.time()):
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
