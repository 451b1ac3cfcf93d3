"""Commands on a pseudo-terminal, and what a person sees there: pyte is the terminal, so
what is asserted is the screen.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte

from commands import REPOSITORY, THAW

HEIGHT = 60
_CHUNK = 65536


class PseudoTerminal:
    """A command on a terminal of its own, as a shell starts one: Ctrl-C reaches it, and
    it may ask for the size.

    Args:
        columns: the terminal's width in characters.
        environment: added to this process's own.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        cwd: Path,
        columns: int = 120,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._screen = pyte.HistoryScreen(columns, HEIGHT, history=10_000, ratio=1.0)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self._pending: list[bytes] = []
        self._master, slave = os.openpty()
        fcntl.ioctl(
            slave, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, columns, 0, 0)
        )
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, "TERM": "xterm-256color", **(environment or {})},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    def send(self, keys: bytes) -> None:
        """Types; b"\\x03" is Ctrl-C."""
        os.write(self._master, keys)

    def wait(
        self, seconds: float = 540, until: Callable[[], bool] | None = None
    ) -> int | None:
        """Reads until the command ends, or `until` holds; returns the exit status, None
        while it runs.

        `until` is asked after every redrawn line, however much comes at once.
        """
        deadline = time.monotonic() + seconds
        while until is None or not until():
            if self._draw():
                continue
            assert time.monotonic() < deadline, (
                "the command did not get there:\n" + "\n".join(self.lines())
            )
            if not self._read():
                return self._process.wait(timeout=30)
        return None

    def lines(self) -> list[str]:
        """All lines shown, those that scrolled away first, as they stand on the screen
        now.
        """
        columns = range(self._screen.columns)
        scrolled = [
            "".join(row[column].data for column in columns)
            for row in self._screen.history.top
        ]
        shown = [line.rstrip() for line in (*scrolled, *self._screen.display)]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    def text(self) -> str:
        """All that is shown on one line, wherever the terminal's width broke it."""
        return " ".join(" ".join(self.lines()).split())

    @property
    def cursor_hidden(self) -> bool:
        return bool(self._screen.cursor.hidden)

    @property
    def coloured(self) -> bool:
        """Whether a colour was asked for, at any time."""
        return any(f"\x1b[{code}".encode() in self.raw for code in ("3", "9"))

    def close(self) -> None:
        """Ends the command where it still runs, and the terminal."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> bool:
        """Takes what came; False at the end."""
        ready, _, _ = select.select([self._master], [], [], 0.2)
        if not ready:
            return True
        try:
            data = os.read(self._master, _CHUNK)
        except OSError:  # Linux's way to say that the other side is closed
            return False
        self.raw += data
        self._pending += data.split(b"\r")
        return bool(data)

    def _draw(self) -> bool:
        """Shows the next piece of what came, up to where the cursor went back; False
        where there is none.
        """
        if not self._pending:
            return False
        piece = self._pending.pop(0)
        self._stream.feed(piece + b"\r" if self._pending else piece)
        return True


def _take_terminal() -> None:
    """In the new process: a session of its own, with standard input as its terminal."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def thaw_on_terminal(
    *arguments: str | Path,
    cwd: Path,
    columns: int = 120,
    environment: Mapping[str, str] | None = None,
) -> PseudoTerminal:
    """`thaw ARGUMENTS` on a terminal."""
    return PseudoTerminal([THAW, *arguments], cwd, columns, environment)


def python_on_terminal(
    code: str,
    cwd: Path = REPOSITORY,
    columns: int = 120,
    environment: Mapping[str, str] | None = None,
) -> PseudoTerminal:
    """A few lines of Python on a terminal."""
    return PseudoTerminal([sys.executable, "-c", code], cwd, columns, environment)
