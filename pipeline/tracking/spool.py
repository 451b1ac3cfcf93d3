"""Writes that the tracking store has not confirmed yet, kept on disk so that neither an outage nor a kill loses them."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

Op = dict[str, Any]


class Spool:
    """The unconfirmed writes of one run, in order: one JSON object a line.

    A write is on disk before the store is asked and is dropped when the store has it, so whatever the file holds
    after a crash is to be sent again; sending twice does no harm. One thread may append while another sends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.ops: list[Op] = _read(path)

    def append(self, op: Op) -> None:
        """Adds a write; on a full disk it is kept in memory alone, since training must not end for it."""
        with self._lock:
            self.ops.append(op)
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(op) + "\n")

    def drop(self, count: int) -> None:
        """Forgets the first `count` writes: the store has them."""
        with self._lock:
            del self.ops[:count]
            with contextlib.suppress(OSError):
                if not self.ops:
                    self.path.unlink(missing_ok=True)
                    return
                temporary = self.path.with_suffix(".tmp")
                temporary.write_text("".join(json.dumps(op) + "\n" for op in self.ops), encoding="utf-8")
                temporary.replace(self.path)


def _read(path: Path) -> list[Op]:
    """The writes a file holds; a last line cut short by a kill was never asked of the store, and is left out."""
    ops: list[Op] = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                ops.append(json.loads(line))
    return ops
