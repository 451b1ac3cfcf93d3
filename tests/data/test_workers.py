"""However a scan ends, its worker processes end with it, and say nothing of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.data.workers import _deaf
from pipeline.examples import ExampleFault, MeasuredExample

pytestmark = pytest.mark.slow

SCAN = """
import sys
from functools import partial
from pathlib import Path
import test_workers
from pipeline.context import SilentConsole
from pipeline.data.scan_cache import ScanCache
from pipeline.data.scan import scan
from pipeline.signals import ending
root = Path(sys.argv[1])
with ending():
    paths = [str(number) for number in range(10_000)]
    scan(root, paths, partial(test_workers.slow, root), ScanCache(root / "memory", "k"), SilentConsole(), workers=2)
"""


def slow(root: Path, path: str) -> MeasuredExample | ExampleFault:
    """Says that it has begun, and takes its time as a large picture does."""
    (root / "begun").touch()
    time.sleep(0.2)
    return ExampleFault(path, "slow", "", "", "")


Scanning = tuple[subprocess.Popen[str], list[psutil.Process]]


@contextmanager
def scanning(
    folder: Path, begun: Callable[[psutil.Process], bool]
) -> Iterator[Scanning]:
    """A scan in a process group of its own, as a terminal has it, and its workers, once
    it has begun.
    """
    scan = subprocess.Popen(
        [sys.executable, "-c", SCAN, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    own = psutil.Process(scan.pid)
    wait_for(lambda: begun(own))
    workers = workers_of(own)
    try:
        yield scan, workers
    finally:
        for process in (own, *workers):
            if process.is_running():
                process.kill()


def workers_of(own: psutil.Process) -> list[psutil.Process]:
    return [
        child
        for child in own.children(recursive=True)
        if "spawn_main" in command_of(child)
    ]


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def to_group(scan: subprocess.Popen[str], number: signal.Signals) -> None:
    """As a terminal sends it: to all processes of the command."""
    os.killpg(scan.pid, number)


def to_process(scan: subprocess.Popen[str], number: signal.Signals) -> None:
    """As `kill` sends it."""
    scan.send_signal(number)


@pytest.mark.parametrize(
    ("number", "send", "status"),
    [
        (signal.SIGINT, to_group, -signal.SIGINT),
        (signal.SIGHUP, to_group, 129),
        (signal.SIGTERM, to_group, 143),
        (signal.SIGTERM, to_process, 143),
        (signal.SIGKILL, to_process, -signal.SIGKILL),
    ],
)
def test_the_workers_end_with_the_scan(
    tmp_path: Path, number: signal.Signals, send: Callable[..., None], status: int
) -> None:
    with scanning(tmp_path, lambda _: (tmp_path / "begun").exists()) as (scan, workers):
        assert len(workers) == 2
        send(scan, number)
        said, _ = scan.communicate(timeout=60)
        assert scan.returncode == status, said
        wait_for(lambda: not any(worker.is_running() for worker in workers))
    own = said.count("Traceback")
    # The command says it in a word; this script does not.
    assert own == (1 if number == signal.SIGINT else 0), said
    assert "Process SpawnProcess" not in said


def test_ctrl_c_while_the_workers_start_is_quiet_too(tmp_path: Path) -> None:
    with scanning(tmp_path, lambda own: bool(workers_of(own))) as (scan, workers):
        os.killpg(scan.pid, signal.SIGINT)
        said, _ = scan.communicate(timeout=60)
        wait_for(lambda: not any(worker.is_running() for worker in workers))
    assert said.count("Traceback") == 1, said


def test_a_ctrl_c_that_another_thread_receives_waits_until_a_worker_is_started() -> (
    None
):
    over = threading.Event()
    other = threading.Thread(target=over.wait)  # of a library: it blocks no signal
    other.start()
    steps = []

    def start_while_interrupted() -> None:
        with _deaf():
            assert other.ident is not None
            signal.pthread_kill(other.ident, signal.SIGINT)
            time.sleep(0.1)
            steps.append("started")
        steps.append("went on")

    try:
        with pytest.raises(KeyboardInterrupt):
            start_while_interrupted()
    finally:
        over.set()
        other.join()
    assert steps == ["started"]
