"""The servers of `thaw up`: who answers is made sure, nobody is left behind, and no
proxy comes between.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from commands import THAW
from flows import settings, up
from flows.servers import free_port
from pipeline import loopback
from pipeline.errors import WorkspaceError
from pipeline.workspace import Workspace

SECRET = "thaw:canary"


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    (tmp_path / ".thaw").mkdir()
    return Workspace(tmp_path)


def note(place: Workspace, port: int, **more: object) -> None:
    """What an earlier `thaw up` left written."""
    url = f"http://127.0.0.1:{port}"
    values = {
        "prefect": f"{url}/api",
        "prefect_ui": url,
        "prefect_auth": SECRET,
        "mlflow": url,
        "pid": 1,
        **more,
    }
    (place.scratch / settings.SERVERS).write_text(json.dumps(values))


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


# --- who answers ----------------------------------------------------------------------
class Stranger(http.server.BaseHTTPRequestHandler):
    """A program that has the port now: it says yes to everything."""

    heard: list[str]

    def do_GET(self) -> None:
        self.heard.append(self.headers.get("Authorization") or "")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def stranger() -> Iterator[tuple[int, list[str]]]:
    handler = type("Handler", (Stranger,), {"heard": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, handler.heard  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def test_a_stranger_at_the_noted_port_is_not_taken_for_our_server(
    place: Workspace, stranger: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, heard = stranger
    note(place, port)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "")
    settings.prepare(place.scratch)
    assert "PREFECT_API_URL" not in os.environ
    assert heard == [""], "it was told the secret"


def test_nor_is_one_that_does_not_speak_http(place: Workspace) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        note(place, listener.getsockname()[1])

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert settings.servers(place.scratch) is None
        thread.join()


@pytest.mark.parametrize("text", ["", "[]", '{"prefect": 3}', "{", "\xff"])
def test_a_damaged_note_is_ignored(place: Workspace, text: str) -> None:
    (place.scratch / settings.SERVERS).write_bytes(text.encode("latin-1"))
    assert settings.servers(place.scratch) is None
    assert up._end_leftovers(place.scratch) is False


# --- what is left behind --------------------------------------------------------------
@pytest.mark.parametrize(("off", "ended"), [(0.0, True), (-3600.0, False)])
def test_leftovers_are_known_by_their_start_not_by_their_number_alone(
    place: Workspace, off: float, ended: bool
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"]
    ) as process:
        try:
            started = psutil.Process(process.pid).create_time() + off
            note(place, free_port(0), processes=[[process.pid, started]])
            assert up._end_leftovers(place.scratch) is ended
            assert (process.poll() is not None) is ended
            assert not (place.scratch / settings.SERVERS).exists()
        finally:
            process.kill()


def test_a_second_one_names_the_first(place: Workspace) -> None:
    note(place, 4321)
    with (
        up._only_one(place),
        pytest.raises(WorkspaceError, match=r"4321.*process 1"),
        up._only_one(place),
    ):
        pytest.fail("there are two")


def test_what_ignores_a_request_to_end_is_killed_with_its_guard(tmp_path: Path) -> None:
    stubborn = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print(os.getpid(), flush=True); time.sleep(600)"
    )
    code = f"import sys; from pipeline import tether; tether.SECONDS_TO_END = 0.2; sys.exit(tether.run({[sys.executable, '-c', stubborn]!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as guard:
        assert guard.stdin is not None
        assert guard.stdout is not None
        server = psutil.Process(int(guard.stdout.readline()))
        guard.stdin.close()
        assert guard.wait(60) != 0
    assert not server.is_running()


# --- ports ----------------------------------------------------------------------------
def test_a_taken_port_is_not_chosen_nor_one_meant_for_another() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        taken = listener.getsockname()[1]
        assert free_port(taken) != taken
    free = free_port(0)
    assert free_port(free) == free
    assert free_port(free, taken=[free]) != free


def test_a_port_whose_last_connection_is_closing_is_free() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        with closing(socket.create_connection(("127.0.0.1", port))) as client:
            listener.accept()[0].close()  # the side that closes first waits
            client.recv(1)
    assert free_port(port) == port


# --- proxies --------------------------------------------------------------------------
@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.setenv(name, "")  # so that what is set below is undone too
        monkeypatch.setenv(name.upper(), "")
        monkeypatch.delenv(name)
        monkeypatch.delenv(name.upper())
    return monkeypatch


@pytest.mark.parametrize(
    ("known", "then"),
    [
        ("", "127.0.0.1,localhost,::1"),
        ("example.org, localhost", "example.org,localhost,127.0.0.1,::1"),
        ("*", "*"),
    ],
)
def test_loopback_is_excepted_from_a_proxy(
    no_proxies: pytest.MonkeyPatch, known: str, then: str
) -> None:
    no_proxies.setenv("HTTPS_PROXY", "http://192.0.2.1:3128")
    if known:
        no_proxies.setenv("no_proxy", known)
    loopback.bypass_proxies()
    assert os.environ["no_proxy"] == then


def test_without_a_proxy_nothing_is_changed(no_proxies: pytest.MonkeyPatch) -> None:
    loopback.bypass_proxies()
    assert "no_proxy" not in os.environ


# --- from beginning to end ------------------------------------------------------------
@contextmanager
def started(
    place: Workspace, *arguments: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """`thaw up`; what it started is gone afterwards by itself, or the test fails and it
    is gone too.
    """
    process = subprocess.Popen(
        [str(THAW), "up", *arguments],
        cwd=place.root,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    family = [psutil.Process(process.pid)]
    try:
        # Two guards and two servers.
        wait_for(lambda: len(family[0].children(recursive=True)) >= 4)
        family += family[0].children(recursive=True)
        yield process
        wait_for(lambda: not any(member.is_running() for member in family[1:]))
    finally:
        for member in family:
            if member.is_running():
                member.kill()
        process.communicate()


def until_ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    printed = []
    while not printed or "Ctrl-C" not in printed[-1]:
        printed.append(process.stdout.readline())
        assert printed[-1], "".join(printed)
    return "".join(printed)


@pytest.mark.slow
def test_killed_and_hung_up_it_leaves_no_server_and_starts_again_behind_a_dead_proxy(
    place: Workspace,
) -> None:
    # accepts, and never answers.
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        taken = silent.getsockname()[1]
        proxy = f"http://127.0.0.1:{taken}"
        proxies = {
            "http_proxy": proxy,
            "https_proxy": proxy,
            "no_proxy": "",
            "NO_PROXY": "",
        }
        with started(
            place, "--prefect-port", str(taken), "--mlflow-port", "0", **proxies
        ) as process:
            assert f"port {taken} is in use by another program" in until_ready(process)
            known = settings.servers(place.scratch)
            assert known is not None
            assert known["pid"] == process.pid
            again = subprocess.run(
                [THAW, "up"],
                cwd=place.root,
                capture_output=True,
                text=True,
                check=False,
            )
            assert again.returncode == 2
            assert f"process {process.pid}" in again.stderr
            servers = psutil.Process(process.pid).children(recursive=True)
            assert len(servers) >= 5, "MLflow's worker is one of them"
            process.kill()
            process.wait()
            wait_for(lambda: not any(server.is_running() for server in servers))
        assert (place.scratch / settings.SERVERS).exists(), (
            "a killed process cannot have removed it"
        )
        assert settings.servers(place.scratch) is None
    with started(place, "--prefect-port", "0", "--mlflow-port", "0") as process:
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 128 + signal.SIGHUP
    assert not (place.scratch / settings.SERVERS).exists()
