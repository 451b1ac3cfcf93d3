"""Stopping on SIGTERM and SIGINT without losing work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeline.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether the run was asked to end.

    While `deferred`, a signal only raises the flag, and the training looks at it after every batch; elsewhere
    (decoding, measuring) nothing needs saving and the signal ends the work at once.
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
        """The signal handler; a second signal does not wait."""
        again = self.asked.is_set()
        self.reason = f"{signal.Signals(number).name} received"
        self.asked.set()
        if again or not self._deferred:
            raise Interrupted(self.reason, found="nothing is lost", mend="thaw run goes on from here")


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Handles SIGTERM and SIGINT within the block; the former handlers are back after it.

    Python allows that in the main thread only. In another thread the block changes nothing: a signal then ends the
    process as its owner has it, and the newest checkpoint is what the next run goes on from.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former: dict[int, Callable[..., Any] | int | None] = {s: signal.signal(s, stop.handle) for s in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
