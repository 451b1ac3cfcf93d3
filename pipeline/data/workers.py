"""Worker processes that hear no Ctrl-C and do not outlive this process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, TypeVar

from pipeline.signals import handled

T = TypeVar("T")

# A terminal sends them to every process of a command; the one that is this process's to
# answer is enough.
_FROM_A_TERMINAL = (signal.SIGINT, signal.SIGHUP)


class WorkerPool:
    """A pool of worker processes, to be used as a context.

    Each watches a pipe to this process. It closes when this process ends, however it
    does, and when an exception leaves the context; the workers then end at once, in the
    middle of whatever they do.
    """

    def __init__(self, count: int) -> None:
        # Not forked: the parent may run threads, and a fork copies their locks as they
        # stand.
        context = multiprocessing.get_context("spawn")
        self._watched, self._held = context.Pipe(duplex=False)
        with _deaf():
            self._pool = ProcessPoolExecutor(
                count, context, _end_with, (self._watched,)
            )

    def submit(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """As an executor's `submit`; this is also where processes are started."""
        with _deaf():
            return self._pool.submit(work, *arguments)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if fault is not None:
            self._held.close()
        self._pool.shutdown(cancel_futures=True)
        self._held.close()
        self._watched.close()


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started in the block do not receive what a terminal sends: a signal
    mask is inherited.

    So does the process that keeps count of multiprocessing's semaphores, which starts
    with the first of them. What reaches this process meanwhile, through a thread that a
    library started and that blocks nothing, is answered after the block: a process that
    is half started would print an error of its own.
    """
    heard: list[int] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_A_TERMINAL)
    try:
        with handled(_FROM_A_TERMINAL, lambda number, frame: heard.append(number)):
            resource_tracker.ensure_running()
            # Starting the tracker unblocked some.
            signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_A_TERMINAL)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in heard[:1]:
            signal.raise_signal(number)


def _end_with(watched: Connection) -> None:
    """Ends this process when the other end of the pipe closes."""

    def watch() -> None:
        watched.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
