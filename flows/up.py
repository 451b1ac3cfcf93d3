"""`thaw up`: a Prefect server and an MLflow server for this workspace, on loopback,
until interrupted.
"""

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
from pipeline import files
from pipeline.errors import WorkspaceError
from pipeline.tether import SECONDS_TO_END
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from flows.processes import ProcessIdentity

# Without it MLflow opens its pages about language models, which hide the registry.
TRAININGS_PAGE = "/#/experiments?workflowType=machine_learning"

SECONDS_BETWEEN_LOOKS = 0.5
TETHERED = (sys.executable, "-P", "-m", "pipeline.tether")


def plan_servers(
    workspace: Workspace, prefect_port: int, mlflow_port: int
) -> tuple[list[Server], str]:
    """The two servers, and the secret Prefect's asks for."""
    secret = new_secret()
    prefect_free = free_port(prefect_port)
    prefect = _prefect_server(workspace, prefect_free, secret)
    mlflow_free = free_port(mlflow_port, taken=[prefect_free])
    mlflow = _mlflow_server(workspace, mlflow_free)
    return [prefect, mlflow], secret


def _prefect_server(workspace: Workspace, port: int, secret: str) -> Server:
    url = f"http://{HOST}:{port}"
    prefect = [sys.executable, "-P", "-m", "prefect"]
    start = ["server", "start", "--host", HOST, "--port", str(port)]
    environment = {
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,
        "PREFECT_API_DATABASE_CONNECTION_URL": settings.prefect_database(
            workspace.scratch
        ),
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_API_URL": f"{url}/api",
    }
    return Server(
        name="Prefect",
        port=port,
        health="/api/health",
        argv=[*TETHERED, *prefect, *start],
        env=environment,
        log=workspace.scratch / "logs" / "prefect.log",
        cwd=workspace.root,
        secret=secret,
    )


def _mlflow_server(workspace: Workspace, port: int) -> Server:
    from pipeline.tracking import server_command

    command, environment = server_command(workspace, HOST, port)
    return Server(
        name="MLflow",
        port=port,
        health="/health",
        argv=[*TETHERED, *command],
        env=environment,
        log=workspace.scratch / "logs" / "mlflow.log",
        cwd=workspace.root,
        page=TRAININGS_PAGE,
    )


def up(
    workspace: Workspace,
    prefect_port: int,
    mlflow_port: int,
    ready: Callable[[list[Server], str], None],
    info: Callable[[str], None] = lambda line: None,
) -> None:
    """Runs both servers, calls `ready` when both answer, and returns when interrupted;
    then both are gone.

    Should this process be killed, its servers end by themselves; what is left of them
    all the same is ended by the next `thaw up`.

    Args:
        info: told what is not as it was asked for.

    Raises:
        WorkspaceError: this workspace's servers run already, or one of them dies; its
            log is named.
    """
    with _only_one(workspace):
        if _end_leftovers(workspace.scratch):
            info("ended servers that an earlier thaw up left behind")
        servers, secret = plan_servers(workspace, prefect_port, mlflow_port)
        for server, wanted_port in zip(
            servers, (prefect_port, mlflow_port), strict=True
        ):
            if wanted_port not in (0, server.port):
                info(
                    f"port {wanted_port} is in use by another program: {server.name} gets {server.port}"
                )
        _run_servers(workspace, servers, secret, ready)


def _run_servers(
    workspace: Workspace,
    servers: list[Server],
    secret: str,
    ready: Callable[[list[Server], str], None],
) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    note = workspace.scratch / settings.SERVERS
    try:
        for server in servers:
            processes.append(server.start())
        for server, process in zip(servers, processes, strict=True):
            server.wait(process)
        _write_note(note, servers, secret, processes)
        ready(servers, secret)
        while all(process.poll() is None for process in processes):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        ended = []
        for server, process in zip(servers, processes, strict=True):
            if process.poll() is not None:
                ended.append(server.name)
        raise WorkspaceError(
            f"{' and '.join(ended)} ended",
            found=f"see {servers[0].log.parent}",
            hint="thaw up, again",
        )
    finally:
        note.unlink(missing_ok=True)
        stop(processes)


@contextmanager
def _only_one(workspace: Workspace) -> Iterator[None]:
    """Keeps a second `thaw up` of the workspace out; a killed one lets go of the lock
    by dying.

    Raises:
        WorkspaceError: there is one already; it is named, with its servers as soon as
            they are known.
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
            "thaw up",
            found=found,
            expected="one pair of servers a workspace",
            hint="use them, or end the other `thaw up` first",
        ) from fault
    try:
        yield
    finally:
        lock.release()


def _write_note(
    note: Path,
    servers: Sequence[Server],
    secret: str,
    processes: Sequence[subprocess.Popen[bytes]] = (),
) -> None:
    prefect, mlflow = servers
    values = {
        "prefect": f"{prefect.url}/api",
        "prefect_ui": prefect.url,
        "prefect_auth": secret,
        "mlflow": mlflow.url,
        "pid": os.getpid(),
        "processes": _identify(processes),
    }
    files.replace_text(note, json.dumps(values), private=True)


def _identify(processes: Sequence[subprocess.Popen[bytes]]) -> list[ProcessIdentity]:
    """The servers' processes, their workers among them."""
    import psutil

    from flows.processes import ProcessIdentity

    identities: list[ProcessIdentity] = []
    for process in processes:
        with suppress(psutil.Error):
            leader = psutil.Process(process.pid)
            for member in (leader, *leader.children(recursive=True)):
                identities.append(ProcessIdentity.of(member))
    return identities


def _end_leftovers(scratch: Path) -> bool:
    """Ends what the last `thaw up` noted and left running; returns whether there was
    any.
    """
    import psutil

    from flows.processes import ProcessIdentity, find

    known = settings.noted_servers(scratch) or {}
    leftovers = []
    for values in known.get("processes", ()):
        running = find(ProcessIdentity(*values))
        if running is not None:
            leftovers.append(running)
    for process in leftovers:
        with suppress(psutil.Error):
            process.terminate()
    _, still_running = psutil.wait_procs(leftovers, timeout=SECONDS_TO_END)
    for process in still_running:
        with suppress(psutil.Error):
            process.kill()
    (scratch / settings.SERVERS).unlink(missing_ok=True)
    return bool(leftovers)
