"""Whether a registered version can be served: MLflow's own scoring server, in a process
of its own, is asked as a client would ask it.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import loopback
from pipeline.errors import ServingError
from pipeline.tracking.store import QUIET

if TYPE_CHECKING:
    import pandas as pd

HOST = "127.0.0.1"
# It imports for 20 seconds of a processor, which a busy machine has in minutes; a server
# that ends is not waited for.
SECONDS_TO_START = 240.0
# Large pictures in tiles take minutes, of which MLflow's server gives one by itself.
SECONDS_TO_ANSWER = 900
SECONDS_TO_END = 15.0
PAUSE = 0.2
MALFORMED = (b"{", b"{}", b'{"dataframe_records": [{"no such column": 1}]}')
MOST_OF_LOG = 300  # characters of the server's last words


def ask_served(
    folder: Path, requests: pd.DataFrame, title: str
) -> list[dict[str, Any]]:
    """The answers of a served model, by column.

    Args:
        folder: the model's files.
        requests: a row for each example.
        title: the version, as errors name it.

    Raises:
        ServingError: it does not start within a minute, does not answer, or answers
            what is malformed with anything but a client's error.
    """
    with (
        tempfile.TemporaryDirectory(prefix="thaw-serve-") as scratch,
        socket.socket() as reserved,
    ):
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((HOST, 0))
        port = int(reserved.getsockname()[1])
        reserved.close()
        log = Path(scratch) / "log"
        server = _start(folder, port, log)
        try:
            _wait_until_up(server, port, log, title)
            answers = _ask(port, requests, title)
            _send_malformed(port, title)
        finally:
            _end(server)
    return answers


def _start(folder: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """The server, tethered to this process: it ends when this one does, however that
    ends.
    """
    serve = [sys.executable, "-P", "-m", "mlflow", "models", "serve", "-m", str(folder)]
    serve += [
        "--env-manager",
        "local",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command = [sys.executable, "-P", "-m", "pipeline.tether", *serve]
    beside_python = str(Path(sys.executable).parent)  # where MLflow finds uvicorn
    path = os.pathsep.join([beside_python, os.environ.get("PATH", "")])
    patience = {"MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(SECONDS_TO_ANSWER)}
    environment = {**os.environ, **QUIET, **patience, "PATH": path}
    with log.open("wb") as stream:
        return subprocess.Popen(
            command,
            cwd=log.parent,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            # A kill of this process's whole group would else end the tether, and leave
            # the server.
            start_new_session=True,
        )


def _end(server: subprocess.Popen[bytes]) -> None:
    """Lets go of the tether, upon which the server ends."""
    assert server.stdin is not None
    server.stdin.close()
    try:
        server.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _wait_until_up(
    server: subprocess.Popen[bytes], port: int, log: Path, title: str
) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until:
        if server.poll() is not None:
            last_words = " ".join(
                log.read_text(encoding="utf-8", errors="replace").split()
            )[-MOST_OF_LOG:]
            raise _error(title, f"its server ended: {last_words}")
        if loopback.status(f"http://{HOST}:{port}/ping") == 200:
            return
        time.sleep(PAUSE)
    raise ServingError(
        title,
        found=f"its server was not up after {SECONDS_TO_START:.0f} s",
        expected="a version that `mlflow models serve` serves",
        hint="it is not promoted; try again when this machine is less busy",
    )


def _ask(port: int, requests: pd.DataFrame, title: str) -> list[dict[str, Any]]:
    records = []
    for row in requests.to_dict(orient="records"):
        records.append({str(name): _to_json(value) for name, value in row.items()})
    body = json.dumps({"dataframe_records": records})
    status, text = _post(port, body.encode())
    beginning = text[:MOST_OF_LOG]
    if status != 200:
        raise _error(title, f"HTTP {status}: {beginning}")
    try:
        answers: list[dict[str, Any]] = json.loads(text)["predictions"]
    except (ValueError, KeyError) as fault:
        raise _error(title, f"no predictions in {beginning}") from fault
    return answers


def _send_malformed(port: int, title: str) -> None:
    for body in MALFORMED:
        status, _ = _post(port, body)
        if not 400 <= status < 500:
            raise _error(
                title, f"HTTP {status} in answer to the malformed {body.decode()}"
            )


def _post(port: int, body: bytes) -> tuple[int, str]:
    """Status and text of an answer; 0 where there is none."""
    request = urllib.request.Request(
        f"http://{HOST}:{port}/invocations",
        body,
        {"Content-Type": "application/json"},
        method="POST",
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=SECONDS_TO_ANSWER) as answer:
            return int(answer.status), answer.read().decode("utf-8", errors="replace")
    except urllib.error.HTTPError as fault:
        with fault:
            return fault.code, fault.read().decode("utf-8", errors="replace")
    except OSError as fault:
        return 0, str(fault)


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def _error(title: str, found: str) -> ServingError:
    return ServingError(
        title,
        found=found,
        expected="a version that `mlflow models serve` serves",
        hint="it is not promoted; thaw run --force register, and report it if it stays",
    )


def read_input_example(folder: Path, title: str) -> pd.DataFrame:
    """The input that a saved model shows how to ask it by.

    Raises:
        ServingError: it shows none.
    """
    from pipeline.tracking import packaging

    try:
        example = packaging.read_input_example(folder)
    except Exception as fault:
        # The files of another version of Thaw or of MLflow may be anything.
        raise _error(
            title, f"its input example cannot be read ({type(fault).__name__}: {fault})"
        ) from fault
    if example is None:
        raise _error(title, "it has no input example")
    return example
