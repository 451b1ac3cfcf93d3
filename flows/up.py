"""`thaw up`: a Prefect server and an MLflow server for this workspace, on loopback, until interrupted."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows import settings
from pipeline.errors import WorkspaceError
from pipeline.workspace import Workspace

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """One server to be run."""

    name: str
    url: str
    health: str
    argv: Sequence[str]
    env: Mapping[str, str]


def free_port(wanted: int) -> int:
    """`wanted` where nobody listens there, else any free port on loopback."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    raise WorkspaceError("no free port on 127.0.0.1", mend="close a program that listens there")


def plan(workspace: Workspace, prefect_port: int, mlflow_port: int) -> tuple[list[Server], str]:
    """The two servers, and the secret Prefect's asks for."""
    from pipeline.tracking import server_command

    secret = f"thaw:{secrets.token_urlsafe(18)}"
    port = free_port(prefect_port)
    env = {
        "PREFECT_SERVER_API_AUTH_STRING": secret, "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",
        "PREFECT_API_DATABASE_CONNECTION_URL": settings.prefect_database(workspace.scratch),
        "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api", "PREFECT_API_URL": f"http://{HOST}:{port}/api",
    }  # fmt: skip
    argv = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    prefect = Server("Prefect", f"http://{HOST}:{port}", f"http://{HOST}:{port}/api/health", argv, env)
    port = free_port(mlflow_port)
    command, env = server_command(workspace, HOST, port)
    mlflow = Server("MLflow", f"http://{HOST}:{port}", f"http://{HOST}:{port}/health", command, env)
    return [prefect, mlflow], secret


def up(workspace: Workspace, prefect_port: int, mlflow_port: int, ready: Callable[[list[Server], str], None]) -> None:
    """Runs both servers, calls `ready` when both answer, and returns when interrupted; then both are gone.

    Raises:
        WorkspaceError: this workspace's servers run already, or one of them dies; its log is named.
    """
    running = settings.servers(workspace.scratch)
    if running:
        raise WorkspaceError(
            "thaw up", found=f"servers already at {running['prefect_ui']} and {running['mlflow']}",
            expected="one pair of servers a workspace", mend="use them, or end the other `thaw up` first",
        )  # fmt: skip
    servers, secret = plan(workspace, prefect_port, mlflow_port)
    logs = workspace.scratch / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    processes: list[subprocess.Popen[bytes]] = []
    note = workspace.scratch / settings.SERVERS
    try:
        for server in servers:
            processes.append(_start(server, logs, workspace.root))
        for server, process in zip(servers, processes, strict=True):
            _wait(server, process, logs)
        _publish(note, servers, secret)
        ready(servers, secret)
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
        dead = [s.name for s, p in zip(servers, processes, strict=True) if p.poll() is not None]
        raise WorkspaceError(f"{' and '.join(dead)} ended", found=f"see {logs}", mend="thaw up, again")
    finally:
        note.unlink(missing_ok=True)
        _stop(processes)


def _publish(note: Path, servers: Sequence[Server], secret: str) -> None:
    prefect, mlflow = servers
    values = {
        "prefect": f"{prefect.url}/api", "prefect_ui": prefect.url, "prefect_auth": secret, "mlflow": mlflow.url,
        "pid": os.getpid(),
    }  # fmt: skip
    with open(os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:  # noqa: PTH123
        json.dump(values, stream)


def _start(server: Server, logs: Path, cwd: Path) -> subprocess.Popen[bytes]:
    with (logs / f"{server.name.lower()}.log").open("wb") as log:
        return subprocess.Popen(
            server.argv, env={**os.environ, **settings.QUIET, **server.env}, cwd=cwd, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def _wait(server: Server, process: subprocess.Popen[bytes], logs: Path, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(server.health, timeout=2):
                return
        except urllib.error.HTTPError as fault:
            if fault.code in (401, 403):  # it is there, and asks who we are
                return
        except OSError:
            pass
        time.sleep(0.3)
    log = logs / f"{server.name.lower()}.log"
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing in its log"]
    raise WorkspaceError(
        f"{server.name}'s server", found=last[0], expected=f"an answer at {server.health} within {seconds:.0f} s",
        mend=f"read {log}",
    )  # fmt: skip


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends each server with all its workers: each leads a process group of its own."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
