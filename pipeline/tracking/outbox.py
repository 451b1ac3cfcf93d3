"""Writes that the tracking store has not confirmed yet, kept on disk so that neither an
outage nor a kill loses them.

Files are kept by their content: what lies at a path may be another run's by the time
the store can take it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import replace_text, sha256

Write = dict[str, Any]
# Name below the artifact's folder, path it was found at, sha256 of its content.
KeptFile = dict[str, str]

OUTBOX_FOLDER = "outbox"
EARLIER_FOLDER = "spool"  # what earlier versions called it
# Suffix of the folder beside an outbox that holds the contents of its files.
CONTENTS = ".files"
SPARE_BYTES = 64 << 20  # of disk, left free
CHUNK_BYTES = 1 << 20


class Outbox:
    """The unconfirmed writes of one run, in order: one JSON object a line, and beside
    it the files they send.

    A write is on disk before the store is asked and is dropped when the store has it,
    so whatever the file holds after a crash is to be sent again; sending twice does no
    harm. One thread may append while another sends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._contents = path.with_suffix(CONTENTS)
        self._lock = threading.Lock()
        self.writes: list[Write] = _read_writes(path)

    def append(self, write: Write) -> None:
        """Adds a write; on a full disk it is kept in memory alone, since training must
        not end for it.
        """
        with self._lock:
            self.writes.append(write)
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as stream:
                    stream.write(_to_line(write))

    def drop(self, count: int) -> None:
        """Forgets the first `count` writes, and the files that no other write sends:
        the store has them.
        """
        with self._lock:
            sent_files = any("files" in write for write in self.writes[:count])
            del self.writes[:count]
            with contextlib.suppress(OSError):
                self._save()
            if sent_files or not self.writes:
                self._remove_unneeded_contents()

    def keep(self, path: Path, name: str) -> tuple[KeptFile, OSError | None]:
        """Copies a file's content, so that it can be sent whatever becomes of the file.

        Returns:
            The file as an `artifact` write lists it, and why its content could not be
            kept, if so: it is sent from its path then, as long as that holds the same.

        Raises:
            OSError: the file cannot be read.
        """
        fault = None
        try:
            digest = self._copy_content(path)
        except OSError as refused:
            fault = refused
            digest = sha256(path)
        return {"name": name, "path": str(path.absolute()), "sha256": digest}, fault

    @contextlib.contextmanager
    def lay_out(self, files: Sequence[KeptFile]) -> Iterator[tuple[Path, list[str]]]:
        """A folder with the files under their names, and the names of those whose
        content is lost.
        """
        folder = self._contents / "sending"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        lost = []
        try:
            for file in files:
                content = self._find_content(file)
                if content is None:
                    lost.append(file["name"])
                    continue
                link = folder / file["name"]
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(content.absolute())
            yield folder, lost
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _save(self) -> None:
        if not self.writes:
            self.path.unlink(missing_ok=True)
            return
        lines = [_to_line(write) for write in self.writes]
        replace_text(self.path, "".join(lines))

    def _find_content(self, file: KeptFile) -> Path | None:
        content = self._contents / file["sha256"]
        if content.is_file():
            return content
        original = Path(file["path"])
        with contextlib.suppress(OSError):
            if sha256(original) == file["sha256"]:
                return original
        return None

    def _copy_content(self, path: Path) -> str:
        """Copies a file under the sha256 of what was copied: no link, since the file
        may be written over in place.
        """
        self._contents.mkdir(parents=True, exist_ok=True)
        needed = path.stat().st_size + SPARE_BYTES
        if shutil.disk_usage(self._contents).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # Not `files.replacing`: the name is the digest, which is known when all is
        # copied.
        part = self._contents / f"{secrets.token_hex(4)}.part"
        digest = hashlib.sha256()
        try:
            with path.open("rb") as source, part.open("wb") as target:
                chunk = source.read(CHUNK_BYTES)
                while chunk:
                    digest.update(chunk)
                    target.write(chunk)
                    chunk = source.read(CHUNK_BYTES)
            part.replace(self._contents / digest.hexdigest())
        finally:
            part.unlink(missing_ok=True)
        return digest.hexdigest()

    def _remove_unneeded_contents(self) -> None:
        needed = set()
        for write in self.writes:
            for file in write.get("files", ()):
                needed.add(file["sha256"])
        if not needed:
            shutil.rmtree(self._contents, ignore_errors=True)
            return
        with contextlib.suppress(OSError):
            for path in self._contents.iterdir():
                if path.name not in needed:
                    path.unlink()


def remove_orphaned_contents(folder: Path, keys: set[str]) -> None:
    """Removes contents that no outbox sends, such as a kill leaves between a file's
    copy and its write.

    Args:
        folder: of the outboxes.
        keys: of the runs with unconfirmed writes.
    """
    for path in folder.glob(f"*{CONTENTS}"):
        if path.stem not in keys:
            shutil.rmtree(path, ignore_errors=True)


def adopt_earlier_writes(scratch: Path) -> None:
    """Moves what an earlier version of Thaw left unconfirmed to where this one looks
    for it.

    Args:
        scratch: the workspace's `.thaw`.
    """
    earlier = scratch / EARLIER_FOLDER
    if not earlier.is_dir():
        return
    folder = scratch / OUTBOX_FOLDER
    folder.mkdir(exist_ok=True)
    for path in sorted(earlier.iterdir()):
        target = folder / path.name
        if not target.exists():
            path.rename(target)
        elif path.is_dir():
            for content in path.iterdir():
                content.replace(target / content.name)
        else:
            newer = target.read_text(encoding="utf-8")
            replace_text(target, path.read_text(encoding="utf-8") + newer)
    shutil.rmtree(earlier)


def _to_line(write: Write) -> str:
    return json.dumps(write) + "\n"


def _read_writes(path: Path) -> list[Write]:
    """The writes a file holds; a last line cut short by a kill was never asked of the
    store, and is left out.
    """
    writes: list[Write] = []
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return writes
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            writes.append(json.loads(line))
    return writes
