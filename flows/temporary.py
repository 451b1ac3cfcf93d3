"""A Prefect server for one run, where none is configured: on loopback, and gone with
the run however that ends.

Prefect's own temporary server would be ended by the Ctrl-C that is meant for the run,
in the middle of the run's last words to it, and would outlive a run that is killed.
This one is the same application in a process group of its own, asks for a secret, and
ends when the pipe to the run closes. It also starts while the run is still importing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import servers
from flows.servers import HOST, Server, free_port, new_secret
from pipeline.tether import SECONDS_TO_END, wait_for_end_of_input

SECONDS_TO_START = 300


@contextmanager
def server(scratch: Path, meanwhile: Callable[[], None]) -> Iterator[None]:
    """Prefect's settings lead to a server inside the block: the configured one, or one
    that lives as long as it.

    Args:
        scratch: the workspace's `.thaw`: the server's log goes there.
        meanwhile: done while the server starts.

    Raises:
        WorkspaceError: the server does not start; its log is named.
    """
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        temporary_settings,
    )

    if PREFECT_API_URL.value():
        meanwhile()
        yield
        return
    port = free_port(0)
    secret = new_secret()
    ours = _temporary_server(scratch, port, secret)
    process = ours.start()
    try:
        meanwhile()
        ours.wait(process)
        updates = {PREFECT_API_URL: f"{ours.url}/api", PREFECT_API_AUTH_STRING: secret}
        with temporary_settings(updates=updates):
            try:
                yield
            finally:
                _send_pending()
    finally:
        servers.stop([process])


def _temporary_server(scratch: Path, port: int, secret: str) -> Server:
    environment = {
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_SERVER_UI_ENABLED": "false",
        # As Prefect marks its own: no scheduler and no other service that only a
        # lasting server needs.
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    return Server(
        name="Prefect",
        port=port,
        health="/api/health",
        argv=[sys.executable, "-P", "-m", "flows.temporary", str(port)],
        env=environment,
        log=scratch / "logs" / "prefect-temporary.log",
        cwd=Path.cwd(),
        secret=secret,
        seconds=SECONDS_TO_START,
        hint=", or set PREFECT_API_URL to a server of yours",
    )


def _send_pending() -> None:
    """Sends what Prefect's workers in this process still hold; else they ask for
    minutes for a server that is gone.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=SECONDS_TO_END)


def serve(port: int) -> None:
    """Runs the server until standard input ends."""
    import uvicorn

    def watch() -> None:
        wait_for_end_of_input()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host=HOST,
        port=port,
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]))
