"""A Prefect server for one run, where none is configured: on loopback, and gone with the run however that ends.

Prefect's own temporary server would be ended by the Ctrl-C that is meant for the run, in the middle of the run's
last words to it, and would outlive a run that is killed. This one is the same application in a process group of its
own, asks for a secret, and ends when the pipe to the run closes. It also starts while the run is still importing.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import settings
from flows.up import HOST, free_port
from pipeline.errors import ThawError

SECONDS_TO_START = 300
SECONDS_TO_END = 10


@contextmanager
def server(scratch: Path, meanwhile: Callable[[], None]) -> Iterator[None]:
    """Prefect's settings lead to a server inside the block: the configured one, or one that lives as long as it.

    Args:
        scratch: the workspace's `.thaw`: the server's log goes there.
        meanwhile: done while the server starts.

    Raises:
        ThawError: the server does not start; its log is named.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        meanwhile()
        yield
        return
    port, secret = free_port(0), f"thaw:{secrets.token_urlsafe(18)}"
    log = scratch / "logs" / "prefect-temporary.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.temporary", str(port)], stdin=subprocess.PIPE, stdout=stream,
            stderr=stream, env={**os.environ, **_environment(secret)}, start_new_session=True,
        )  # fmt: skip
    try:
        meanwhile()
        _wait(process, port, log)
        updates = {PREFECT_API_URL: f"http://{HOST}:{port}/api", PREFECT_API_AUTH_STRING: secret}
        with temporary_settings(updates=updates):
            try:
                yield
            finally:
                _last_words()
    finally:
        _end(process)


def _last_words() -> None:
    """Sends what Prefect's workers in this process still hold; else they ask for minutes for a server that is gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=SECONDS_TO_END)


def _environment(secret: str) -> dict[str, str]:
    return {
        **settings.QUIET, "PREFECT_SERVER_API_AUTH_STRING": secret, "PREFECT_SERVER_UI_ENABLED": "false",
        # As Prefect marks its own: no scheduler and no other service that only a lasting server needs.
        "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1",
    }  # fmt: skip


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/api/health", timeout=5):
                return
        except urllib.error.HTTPError:  # it is there, and asks who we are
            return
        except OSError:
            time.sleep(0.1)
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing in its log"]
    raise ThawError(
        "Prefect's temporary server", found=last[0], expected=f"an answer within {SECONDS_TO_START} s",
        mend=f"read {log}, or set PREFECT_API_URL to a server of yours",
    )  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(port: int) -> None:
    """Runs the server until standard input ends."""
    import uvicorn

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app", factory=True, host=HOST, port=port, log_level="error", lifespan="on"
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]))
