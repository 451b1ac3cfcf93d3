"""`mlflow models serve` of a model in a process of its own, and questions to it over
HTTP.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.servers import HOST, Server, free_port, stop


@contextmanager
def mlflow_serving(
    model: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address of the server, on a free loopback port; it is ended by its process
    group.
    """
    port = free_port(0)
    command = [sys.executable, "-P", "-m", "mlflow", "models", "serve", "-m", model]
    command += ["--env-manager", "local", "--host", HOST, "--port", str(port)]
    # Where MLflow looks for uvicorn.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = {**(environment or {}), "PATH": path}
    log = folder / "log"
    server = Server("MLflow", port, "/ping", command, env, log, folder, seconds=240)
    process = server.start()
    try:
        server.wait(process)
        yield server.url
    finally:
        stop([process])


def post(url: str, body: Any) -> tuple[int, str]:
    """Status and text of the answer to a body: bytes as they are, else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{url}/invocations", data, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as fault:
        return fault.code, fault.read().decode()
