"""The server that shows how a version is served ends with whoever asked for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flows.servers import free_port
from pipeline.tracking import serve_check


def test_a_kill_of_the_whole_group_spares_what_ends_the_server(tmp_path: Path) -> None:
    server = serve_check._start(tmp_path, free_port(0), tmp_path / "log")
    try:
        assert os.getpgid(server.pid) != os.getpgid(0)
    finally:
        serve_check._end(server)
    assert server.returncode is not None


def test_the_server_is_given_as_long_as_its_answer_is_waited_for(
    tmp_path: Path,
) -> None:
    """By itself MLflow's ends a request after a minute: large pictures take longer."""
    server = serve_check._start(tmp_path, free_port(0), tmp_path / "log")
    try:
        environment = _read_environment(server.pid)
    finally:
        serve_check._end(server)
    seconds = f"{serve_check.SECONDS_TO_ANSWER}"
    assert f"MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT={seconds}\0" in environment


def _read_environment(pid: int) -> str:
    """What a process was started with; nothing is there for a moment at its start."""
    until = time.monotonic() + 10
    environment = ""
    while not environment and time.monotonic() < until:
        environment = Path(f"/proc/{pid}/environ").read_text()
    return environment
