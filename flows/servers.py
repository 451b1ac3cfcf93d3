"""A server of Thaw's own: started on loopback, waited for, and ended with all its
workers.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows import settings
from pipeline import loopback, storage
from pipeline.errors import WorkspaceError
from pipeline.tether import SECONDS_TO_END

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """One server to be run. Its standard input is a pipe to this process, at whose end
    it is to end too.

    Args:
        health: path at which it answers once it is there.
        log: where what it says goes.
        cwd: the folder it runs in.
        secret: what a Prefect server asks for; with it, that it is this one that
            answers is made sure.
        seconds: it has to answer at `health`.
        hint: what to do where it does not, besides reading its log.
        page: behind its url, to be opened first.
    """

    name: str
    port: int
    health: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    cwd: Path
    secret: str = ""
    seconds: float = 90
    hint: str = ""
    page: str = ""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it in a process group of its own: a Ctrl-C meant for this process does
        not reach it.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            return subprocess.Popen(
                self.argv,
                env={**os.environ, **settings.QUIET, **self.env},
                cwd=self.cwd,
                stdout=log,
                stderr=log,
                stdin=subprocess.PIPE,
                start_new_session=True,
            )

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Waits until it answers.

        Raises:
            WorkspaceError: it ended, or did not answer in time; its log is named.
        """
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline and process.poll() is None:
            if self._answers():
                return
            time.sleep(0.1)
        logged = self.log.read_text(errors="replace").strip().splitlines()
        last_line = logged[-1] if logged else "nothing in its log"
        raise WorkspaceError(
            f"{self.name}'s server",
            found=f"{last_line} ({storage.room(self.log)})",
            expected=f"an answer at {self.url}{self.health} within {self.seconds:.0f} s",
            hint=f"read {self.log}{self.hint}",
        )

    def _answers(self) -> bool:
        if self.secret:
            return settings.is_prefect_with(f"{self.url}/api", self.secret)
        return loopback.status(self.url + self.health) == 200


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends servers with all their workers: each leads a process group of its own."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()
        try:
            # What it runs is killed after SECONDS_TO_END.
            process.wait(SECONDS_TO_END + 5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def find_prefect_fault() -> Exception | None:
    """Why the Prefect server that the settings lead to does not answer; None where it
    does.
    """
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            return client.api_healthcheck()
    except Exception as fault:
        return fault


def new_secret() -> str:
    """What a Prefect server is to ask for: name and password."""
    return f"thaw:{secrets.token_urlsafe(18)}"


def free_port(wanted: int, taken: Collection[int] = ()) -> int:
    """`wanted` where nobody listens there, else any free port on loopback.

    Args:
        taken: ports that are free still but meant for others.
    """
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As servers do: a port whose last connections are only just closing is
            # free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            if chosen not in taken:
                return chosen
    raise WorkspaceError(
        "no free port on 127.0.0.1", hint="close a program that listens there"
    )
