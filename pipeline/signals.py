"""How a program ends when it is told to from outside."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]

CTRL_C = signal.SIGINT
ENDING = (signal.SIGTERM, signal.SIGHUP)  # asked to end; the terminal is gone


@contextmanager
def handled(numbers: Sequence[signal.Signals], handler: Handler) -> Iterator[None]:
    """Handles these signals within the block; the former handlers are back after it.

    Python allows that in the main thread only; in another thread the block changes
    nothing. SIGHUP stays ignored where it was: that is how `nohup` says that the
    program is to outlive its terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    chosen = [number for number in numbers if number != signal.SIGHUP or not outlives]
    former = {number: signal.signal(number, handler) for number in chosen}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


@contextmanager
def ending() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP end the work as Ctrl-C does, so that
    everything is left in order.

    The first of them does; those that come while things are put in order do not disturb
    that (a closed terminal sends two).

    Raises:
        SystemExit: such a signal ended the block; the status is 128 + its number, as a
            shell has it.
    """
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    with handled(ENDING, end):
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as fault:
            if received:
                raise SystemExit(128 + received[0]) from fault
            raise
