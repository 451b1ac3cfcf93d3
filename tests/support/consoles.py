"""A console that keeps what it is told."""

from __future__ import annotations

from pipeline.context import SilentConsole


class RecordingConsole(SilentConsole):
    """Keeps the lines; `"text" in console` asks whether one of them holds the text."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self.lines)
