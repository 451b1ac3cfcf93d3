"""The log of answers: JSON lines, appended by whole lines, rotated by size."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MAX_BYTES = 64 * 2**20
LOGGED = ("label", "score", "truncated_tokens")  # of an answer that is a class


class AnswerLog:
    """Appends to one file; what cannot be written is counted and ends nothing.

    Args:
        path: the file; when it is full it becomes `NAME.1`, in place of an earlier one.
        max_bytes: from which on it is full.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.failures = 0
        self.fault = ""

    def append(
        self, version: str, ids: Sequence[str], answers: Sequence[Mapping[str, Any]]
    ) -> None:
        """Logs one line for each answer."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = []
        for example, answer in zip(ids, answers, strict=True):
            row = {
                "time": time,
                "id": example,
                "version": version,
                **_summarize(answer),
            }
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        try:
            self._write("".join(lines).encode())
            self.fault = ""
        except OSError as fault:
            self.failures += len(lines)
            self.fault = f"log {self.path}: {fault.strerror or fault}"

    def _write(self, content: bytes) -> None:
        """Appends all of it or nothing.

        Raises:
            OSError: the disk does not take it.
        """
        if self.path.exists() and self.path.stat().st_size >= self.max_bytes:
            earlier = self.path.with_name(f"{self.path.name}.1")
            self.path.replace(earlier)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(self.path, flags, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            written = os.write(descriptor, content)
            if written < len(content):
                os.ftruncate(descriptor, size)
                raise OSError(None, f"{written} of {len(content)} bytes were taken")
        finally:
            os.close(descriptor)


def _summarize(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Label and score, and of a text what was cut off; of boxes and masks how many
    there are.
    """
    if "label" in answer:
        return {name: answer[name] for name in LOGGED if name in answer}
    counts = {}
    for name, value in answer.items():
        if isinstance(value, list):
            counts[name] = len(value)
    return {"label": None, "score": None, **counts}
