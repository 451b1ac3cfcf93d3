"""Processes told apart by number and start: a number alone may be another program's
later.
"""

from __future__ import annotations

from typing import NamedTuple

import psutil

# Seconds by which a start may seem to differ where the clock was set meanwhile.
SAME_START = 2.0


class ProcessIdentity(NamedTuple):
    """A process of this machine.

    Args:
        started: seconds since 1970.
    """

    pid: int
    started: float

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessIdentity:
        return cls(process.pid, process.create_time())


def find(identity: ProcessIdentity) -> psutil.Process | None:
    """The process, where it still runs."""
    try:
        process = psutil.Process(identity.pid)
        if abs(process.create_time() - identity.started) < SAME_START:
            return process
    except psutil.Error:
        pass
    return None
