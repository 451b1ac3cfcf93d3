"""Runs a server that ends with the process that asked for it: `python -P -m
pipeline.tether COMMAND …`.

Standard input is a pipe from that process, which closes when it ends, even by SIGKILL.
The server then ends with all its workers, which are one process group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from pipeline.signals import ending

SECONDS_TO_END = 10
_PAUSE = 0.1


def run(command: Sequence[str]) -> int:
    """Runs a command until it ends or standard input does; returns its exit status."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    ended = threading.Event()

    def watch(wait: Callable[[], object]) -> None:
        wait()
        ended.set()

    for wait in (server.wait, wait_for_end_of_input):
        threading.Thread(target=watch, args=(wait,), daemon=True).start()
    try:
        ended.wait()
    finally:
        end_group(server.pid)
    return server.wait()


def wait_for_end_of_input() -> None:
    """Returns when standard input ends. Not read through `sys.stdin`, whose lock a
    thread may not hold at exit.
    """
    while os.read(0, 1):
        pass


def end_group(group: int) -> None:
    """Ends a process group: asked first, then killed if anything of it is left after
    some seconds.
    """
    for number, seconds in ((signal.SIGTERM, SECONDS_TO_END), (signal.SIGKILL, 1)):
        until = time.monotonic() + seconds
        if not _send(group, number):
            return
        while time.monotonic() < until and _send(group, 0):
            time.sleep(_PAUSE)


def _send(group: int, number: int) -> bool:
    """Whether there was anybody to receive it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # macOS: not permitted where only zombies are left.
        return False
    return True


if __name__ == "__main__":
    with ending():
        sys.exit(run(sys.argv[1:]))
