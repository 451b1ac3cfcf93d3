"""Canaries in every setting that takes a URL, and in the environment: no file, database
or stream ever has one.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from commands import change, run_thaw
from flows.servers import free_port
from pipeline.workspace import Workspace
from store_helpers import flaky_server

pytestmark = pytest.mark.full

USER = "lab"
# By what asks for it; what must be percent-encoded in a URL is among them.
PASSWORDS = {
    "weights": "w8s/Canary&1",
    "token": "T0ken-Canary-2",
    "mlflow": "ml?Canary#3",
    "prefect": "pre+Canary-4",
    "remote": "rem@Canary-5",
    "proxy": "pro:Canary-6",
    "elsewhere": "else-Canary-7",
}


def login(of: str) -> str:
    return f"{USER}:{quote(PASSWORDS[of], safe='')}"


def basic(of: str) -> str:
    return base64.b64encode(f"{USER}:{PASSWORDS[of]}".encode()).decode()


def canaries() -> dict[bytes, str]:
    """Every writing of every secret, and whose it is."""
    found = {}
    for name, secret in PASSWORDS.items():
        forms = (
            secret,
            quote(secret, safe=""),
            quote(secret),
            quote_plus(secret),
            basic(name).rstrip("="),
        )
        found.update({form.encode(): name for form in forms})
    return found


@dataclass
class Guarded:
    """A web server that serves files to whoever logs in, and keeps what it was asked
    for.
    """

    password: str
    files: dict[str, bytes]
    # path, and whether the login was right.
    asked: list[tuple[str, bool]] = field(default_factory=list)
    port: int = 0


@contextmanager
def guarded(server: Guarded) -> Iterator[Guarded]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = (
                self.headers.get("Authorization") == f"Basic {basic(server.password)}"
            )
            server.asked.append((self.path, allowed))
            body = server.files.get(self.path.partition("?")[0]) if allowed else None
            self.send_response(401 if not allowed else 200 if body else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.port = listening.server_address[1]
        thread = Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """A Prefect server that asks for a login; its database lies in `folder`."""
    port = free_port(0)
    folder.mkdir()
    env = {
        **os.environ,
        "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{PASSWORDS['prefect']}",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_HOME": str(folder),
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db",
    }
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.temporary", str(port)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    address = f"127.0.0.1:{port}/api"
    request = urllib.request.Request(
        f"http://{address}/health",
        headers={"Authorization": f"Basic {basic('prefect')}"},
    )
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until:
            assert process.poll() is None, (folder / "server.log").read_text()
            try:
                urllib.request.urlopen(request, timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://{login('prefect')}@{address}"
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def asks_for_login(app: Callable[..., Any]) -> Callable[..., Any]:
    """A WSGI application behind a login."""

    def guard(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ.get("HTTP_AUTHORIZATION") == f"Basic {basic('mlflow')}":
            return app(environ, start_response)
        start_response("401 UNAUTHORIZED", [("Content-Type", "text/plain")])
        return [b"log in"]

    return guard


def told(folders: list[Path], printed: list[str], given: set[Path]) -> list[str]:
    """Where canaries are, by file or stream; `given` are the files a user put them
    into.
    """
    found = []
    wanted = canaries()
    for number, text in enumerate(printed):
        found += [
            f"run {number} printed the {name}'s"
            for form, name in wanted.items()
            if form in text.encode()
        ]
    for path in sorted(file for folder in folders for file in folder.rglob("*")):
        if path.is_file() and path not in given:
            content = path.read_bytes()
            found += [
                f"{path}: the {name}'s"
                for form, name in wanted.items()
                if form in content
            ]
            found += [
                f"{path}: its name" for form in wanted if form in os.fsencode(path.name)
            ]
    return found


def test_no_canary_leaves_after_good_and_failed_runs(
    finished: Path, tmp_path: Path
) -> None:
    weights = (
        resources.files("pipeline.models")
        / "shipped"
        / "mobilenet_v3_small.safetensors"
    )
    server = Guarded("weights", {"/net.safetensors": weights.read_bytes()})
    remote = Guarded("remote", {})
    with (
        pytest.MonkeyPatch.context() as patch,
        guarded(server),
        guarded(remote),
        prefect_server(tmp_path / "prefect") as prefect,
        flaky_server(Workspace(finished), patch) as mlflow,
    ):
        mlflow.app = asks_for_login(mlflow.app)
        home = tmp_path / "home"
        env = {
            "WEIGHTS_LOGIN": login("weights"),
            "WEIGHTS_TOKEN": PASSWORDS["token"],
            "PREFECT_API_URL": prefect,
            "PREFECT_HOME": str(home / "prefect"),
            "THAW_CACHE": str(home / "thaw"),
            "no_proxy": "127.0.0.1,localhost",
            "https_proxy": f"http://{login('proxy')}@127.0.0.1:9",
            "OTHER_SERVICE_PASSWORD": PASSWORDS["elsewhere"],
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": PASSWORDS["mlflow"],
        }
        address = f"127.0.0.1:{server.port}/net.safetensors"
        config = finished / ".dvc" / "config"
        settings = config.read_text()
        assert "url = storage" in settings
        config.write_text(
            settings.replace(
                "url = storage",
                f"url = http://{login('remote')}@127.0.0.1:{remote.port}/store",
            )
        )
        tracking = mlflow.url.replace("://", f"://{login('mlflow')}@")
        change(finished, "uri: null", f'uri: "{tracking}"')
        change(
            finished,
            'weights: "shipped"',
            f'weights: "http://{login("weights")}@{address}"',
        )

        printed: list[str] = []

        def run(*arguments: str, code: int | None, **changed: str) -> str:
            done = run_thaw(
                *arguments, cwd=finished, check=False, env={**env, **changed}
            )
            printed.append(done.stdout + done.stderr)
            assert code in (None, done.returncode), printed[-1]
            return printed[-1]

        # A password in a setting that DVC copies is refused.
        assert "dvc.lock" in run("run", code=2)
        change(finished, f"{login('weights')}@", "${WEIGHTS_LOGIN}@")
        change(finished, "net.safetensors", "net.safetensors?token=${WEIGHTS_TOKEN}")
        assert "HTTP 401" in run("run", code=2, WEIGHTS_LOGIN=f"{login('elsewhere')}")
        assert "http://***@" in run(
            "run", code=2, PREFECT_API_URL=f"http://{login('prefect')}@127.0.0.1:9/api"
        )
        assert "registered as" in run("run", code=0)
        assert (f"/net.safetensors?token={PASSWORDS['token']}", True) in server.asked
        run("doctor", code=None)
        assert "register  fresh" in run("status", code=0)
        data = finished / "data"
        data.rename(tmp_path / "moved")
        for name in ("files", "runs"):
            (finished / ".dvc" / "cache" / name).rename(tmp_path / f"cache-{name}")
        assert "data.dvc tracks" in run("run", code=2)
        assert remote.asked, "the DVC remote was never asked"

    given = {finished / "params.yaml", config}
    told_by_the_user = told([finished], [], set())
    assert {line.partition(":")[0] for line in told_by_the_user} == set(
        map(str, given)
    ), "the search finds nothing"
    assert told([finished, tmp_path], printed, given) == []
