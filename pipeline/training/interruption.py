"""Stopping on SIGTERM, SIGINT and SIGHUP without losing work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import Interrupted
from pipeline.signals import CTRL_C, ENDING, handled


class StopSignal:
    """Whether the run was asked to end.

    While `deferred`, a signal only raises the flag, and the training looks at it after
    every batch; elsewhere (decoding, measuring) nothing needs saving and the signal
    ends the work at once.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.reason = "asked to stop"
        self._deferred = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals raise the flag only, until the end of the block."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler; a second signal does not wait, but for the two that a
        closed terminal sends.
        """
        again = self.asked.is_set() and number != signal.SIGHUP
        self.reason = f"{signal.Signals(number).name} received"
        self.asked.set()
        if again or not self._deferred:
            raise Interrupted(
                self.reason, found="nothing is lost", hint="thaw run goes on from here"
            )


@contextmanager
def interruptible() -> Iterator[StopSignal]:
    """Handles SIGTERM, SIGINT and SIGHUP within the block; the former handlers are back
    after it.

    In another thread than the main one the block changes nothing: a signal then ends
    the process as its owner has it, and the newest checkpoint is what the next run goes
    on from.
    """
    stop = StopSignal()
    with handled((CTRL_C, *ENDING), stop.handle):
        yield stop
