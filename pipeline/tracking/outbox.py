"""Writes that the tracking store has not confirmed yet, kept on disk so that neither an outage nor a kill loses them.

Files are kept by their content: what lies at a path may be another run's by the time the store can take it.
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

from pipeline.files import sha256

Write = dict[str, Any]
File = dict[str, str]  # name below the artifact's folder, path it was found at, sha256 of its content

CONTENTS = ".files"  # suffix of the folder beside a spool that holds the contents of its files
_SPARE = 64 << 20  # bytes of disk to leave free
_CHUNK = 1 << 20


class Outbox:
    """The unconfirmed writes of one run, in order: one JSON object a line, and beside it the files they send.

    A write is on disk before the store is asked and is dropped when the store has it, so whatever the file holds
    after a crash is to be sent again; sending twice does no harm. One thread may append while another sends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._contents = path.with_suffix(CONTENTS)
        self._lock = threading.Lock()
        self.ops: list[Write] = _read(path)

    def append(self, op: Write) -> None:
        """Adds a write; on a full disk it is kept in memory alone, since training must not end for it."""
        with self._lock:
            self.ops.append(op)
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(op) + "\n")

    def drop(self, count: int) -> None:
        """Forgets the first `count` writes, and the files that no other write sends: the store has them."""
        with self._lock:
            sent_files = any("files" in op for op in self.ops[:count])
            del self.ops[:count]
            with contextlib.suppress(OSError):
                if self.ops:
                    temporary = self.path.with_suffix(".tmp")
                    temporary.write_text("".join(json.dumps(op) + "\n" for op in self.ops), encoding="utf-8")
                    temporary.replace(self.path)
                else:
                    self.path.unlink(missing_ok=True)
            if sent_files or not self.ops:
                self._evict()

    def keep(self, path: Path, name: str) -> tuple[File, OSError | None]:
        """Copies a file's content, so that it can be sent whatever becomes of the file.

        Returns:
            The file as an `artifact` write lists it, and why its content could not be kept, if so: it is sent from
            its path then, as long as that holds the same.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            digest, fault = self._copied(path), None
        except OSError as refused:
            digest, fault = sha256(path), refused
        return {"name": name, "path": str(path.absolute()), "sha256": digest}, fault

    @contextlib.contextmanager
    def laid_out(self, files: Sequence[File]) -> Iterator[tuple[Path, list[str]]]:
        """A folder with the files under their names, and the names of those whose content is not to be had any more."""
        folder = self._contents / "sending"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        lost = []
        try:
            for file in files:
                content = self._find(file)
                if content is None:
                    lost.append(file["name"])
                    continue
                place = folder / file["name"]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(content.absolute())
            yield folder, lost
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _find(self, file: File) -> Path | None:
        kept = self._contents / file["sha256"]
        if kept.is_file():
            return kept
        original = Path(file["path"])
        with contextlib.suppress(OSError):
            if sha256(original) == file["sha256"]:
                return original
        return None

    def _copied(self, path: Path) -> str:
        """Copies a file under the sha256 of what was copied: no link, since the file may be written over in place."""
        self._contents.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._contents).free < path.stat().st_size + _SPARE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = self._contents / f"{secrets.token_hex(4)}.part"
        digest = hashlib.sha256()
        try:
            with path.open("rb") as source, part.open("wb") as target:
                for chunk in iter(lambda: source.read(_CHUNK), b""):
                    digest.update(chunk)
                    target.write(chunk)
            part.replace(self._contents / digest.hexdigest())
        finally:
            part.unlink(missing_ok=True)
        return digest.hexdigest()

    def _evict(self) -> None:
        wanted = {file["sha256"] for op in self.ops for file in op.get("files", ())}
        if not wanted:
            shutil.rmtree(self._contents, ignore_errors=True)
            return
        with contextlib.suppress(OSError):
            for path in self._contents.iterdir():
                if path.name not in wanted:
                    path.unlink()


def sweep(folder: Path, keys: set[str]) -> None:
    """Removes contents that no spool sends, such as a kill leaves between a file's copy and its write."""
    for path in folder.glob(f"*{CONTENTS}"):
        if path.stem not in keys:
            shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> list[Write]:
    """The writes a file holds; a last line cut short by a kill was never asked of the store, and is left out."""
    ops: list[Write] = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                ops.append(json.loads(line))
    return ops
