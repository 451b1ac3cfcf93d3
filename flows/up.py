"""`thaw up`: a Prefect server and an MLflow server for this workspace, on loopback, until interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flows import settings
from flows.servers import HOST, Server, free_port, new_secret, stop
from pipeline import files
from pipeline.errors import WorkspaceError
from pipeline.workspace import Workspace

# Without it MLflow opens its pages about language models, which hide the registry.
TRAININGS = "/#/experiments?workflowType=machine_learning"


def plan(workspace: Workspace, prefect_port: int, mlflow_port: int) -> tuple[list[Server], str]:
    """The two servers, and the secret Prefect's asks for."""
    from pipeline.tracking import server_command

    logs, secret = workspace.scratch / "logs", new_secret()
    port = free_port(prefect_port)
    env = {
        "PREFECT_SERVER_API_AUTH_STRING": secret, "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",
        "PREFECT_API_DATABASE_CONNECTION_URL": settings.prefect_database(workspace.scratch),
        "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api", "PREFECT_API_URL": f"http://{HOST}:{port}/api",
    }  # fmt: skip
    argv = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    prefect = Server("Prefect", port, "/api/health", argv, env, logs / "prefect.log", workspace.root)
    port = free_port(mlflow_port)
    command, env = server_command(workspace, HOST, port)
    mlflow = Server("MLflow", port, "/health", command, env, logs / "mlflow.log", workspace.root, page=TRAININGS)
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
    processes: list[subprocess.Popen[bytes]] = []
    note = workspace.scratch / settings.SERVERS
    try:
        for server in servers:
            processes.append(server.start())
        for server, process in zip(servers, processes, strict=True):
            server.wait(process)
        _publish(note, servers, secret)
        ready(servers, secret)
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
        dead = [s.name for s, p in zip(servers, processes, strict=True) if p.poll() is not None]
        raise WorkspaceError(f"{' and '.join(dead)} ended", found=f"see {servers[0].log.parent}", mend="thaw up, again")
    finally:
        note.unlink(missing_ok=True)
        stop(processes)


def _publish(note: Path, servers: Sequence[Server], secret: str) -> None:
    prefect, mlflow = servers
    values = {
        "prefect": f"{prefect.url}/api", "prefect_ui": prefect.url, "prefect_auth": secret, "mlflow": mlflow.url,
        "pid": os.getpid(),
    }  # fmt: skip
    files.replace_text(note, json.dumps(values), private=True)
