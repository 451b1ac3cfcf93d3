"""`thaw up`: a Prefect server and an MLflow server for this workspace, on loopback, until interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows import settings
from flows.servers import HOST, Server, free_port, new_secret, stop
from flows.tether import SECONDS_TO_END
from pipeline import files
from pipeline.errors import WorkspaceError
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from flows.processes import ProcessIdentity

# Without it MLflow opens its pages about language models, which hide the registry.
TRAININGS = "/#/experiments?workflowType=machine_learning"

TETHERED = (sys.executable, "-P", "-m", "flows.tether")


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
    prefect = Server(
        "Prefect", port, "/api/health", [*TETHERED, *argv], env, logs / "prefect.log", workspace.root, secret=secret
    )
    port = free_port(mlflow_port, taken=[prefect.port])
    argv, env = server_command(workspace, HOST, port)
    mlflow = Server(
        "MLflow", port, "/health", [*TETHERED, *argv], env, logs / "mlflow.log", workspace.root, page=TRAININGS
    )
    return [prefect, mlflow], secret


def up(
    workspace: Workspace,
    prefect_port: int,
    mlflow_port: int,
    ready: Callable[[list[Server], str], None],
    info: Callable[[str], None] = lambda line: None,
) -> None:
    """Runs both servers, calls `ready` when both answer, and returns when interrupted; then both are gone.

    Should this process be killed, its servers end by themselves; what is left of them all the same is ended by the
    next `thaw up`.

    Args:
        say: told what is not as it was asked for.

    Raises:
        WorkspaceError: this workspace's servers run already, or one of them dies; its log is named.
    """
    with _only_one(workspace):
        if _end_leftovers(workspace.scratch):
            info("ended servers that an earlier thaw up left behind")
        servers, secret = plan(workspace, prefect_port, mlflow_port)
        for server, wanted in zip(servers, (prefect_port, mlflow_port), strict=True):
            if wanted not in (0, server.port):
                info(f"port {wanted} is in use by another program: {server.name} gets {server.port}")
        _run(workspace, servers, secret, ready)


def _run(workspace: Workspace, servers: list[Server], secret: str, ready: Callable[[list[Server], str], None]) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    note = workspace.scratch / settings.SERVERS
    try:
        for server in servers:
            processes.append(server.start())
        for server, process in zip(servers, processes, strict=True):
            server.wait(process)
        _publish(note, servers, secret, processes)
        ready(servers, secret)
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
        dead = [s.name for s, p in zip(servers, processes, strict=True) if p.poll() is not None]
        raise WorkspaceError(f"{' and '.join(dead)} ended", found=f"see {servers[0].log.parent}", hint="thaw up, again")
    finally:
        note.unlink(missing_ok=True)
        stop(processes)


@contextmanager
def _only_one(workspace: Workspace) -> Iterator[None]:
    """Keeps a second `thaw up` of the workspace out; a killed one lets go of the lock by dying.

    Raises:
        WorkspaceError: there is one already; it is named, with its servers as soon as they are known.
    """
    from filelock import FileLock, Timeout

    workspace.scratch.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace.scratch / "up.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as fault:
        known = settings.noted_servers(workspace.scratch)
        found = "another one that is just starting"
        if known is not None:
            found = f"servers already at {known['prefect_ui']} and {known['mlflow']}, of process {known.get('pid')}"
        raise WorkspaceError(
            "thaw up", found=found, expected="one pair of servers a workspace",
            hint="use them, or end the other `thaw up` first",
        ) from fault  # fmt: skip
    try:
        yield
    finally:
        lock.release()


def _publish(
    note: Path, servers: Sequence[Server], secret: str, processes: Sequence[subprocess.Popen[bytes]] = ()
) -> None:
    prefect, mlflow = servers
    values = {
        "prefect": f"{prefect.url}/api", "prefect_ui": prefect.url, "prefect_auth": secret, "mlflow": mlflow.url,
        "pid": os.getpid(), "processes": _identities(processes),
    }  # fmt: skip
    files.replace_text(note, json.dumps(values), private=True)


def _identities(processes: Sequence[subprocess.Popen[bytes]]) -> list[ProcessIdentity]:
    """The servers' processes, their workers among them."""
    import psutil

    from flows.processes import ProcessIdentity

    found: list[ProcessIdentity] = []
    for process in processes:
        with suppress(psutil.Error):
            own = psutil.Process(process.pid)
            found += [ProcessIdentity.of(each) for each in (own, *own.children(recursive=True))]
    return found


def _end_leftovers(scratch: Path) -> bool:
    """Ends what the last `thaw up` noted and left running; returns whether there was any."""
    import psutil

    from flows.processes import ProcessIdentity, find

    known = settings.noted_servers(scratch) or {}
    noted = [find(ProcessIdentity(*values)) for values in known.get("processes", ())]
    left = [process for process in noted if process is not None]
    for process in left:
        with suppress(psutil.Error):
            process.terminate()
    for process in psutil.wait_procs(left, timeout=SECONDS_TO_END)[1]:
        with suppress(psutil.Error):
            process.kill()
    (scratch / settings.SERVERS).unlink(missing_ok=True)
    return bool(left)
