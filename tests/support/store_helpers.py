"""Stores for tests: an empty embedded one, laid out once a session, and a real server
that can be made to fail.
"""

from __future__ import annotations

import importlib
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import TrackingConfig
from pipeline.tracking import open_tracker
from pipeline.tracking.runs import MlflowTracker
from pipeline.tracking.store import find
from pipeline.workspace import Workspace


@cache
def _empty(base: Path) -> Path:
    """MLflow takes seconds to lay out a database."""
    workspace = Workspace(base / "empty-store")
    find(TrackingConfig(), workspace).client.search_experiments()
    return workspace.mlflow


def lay_store(root: Path, factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with an empty embedded store."""
    shutil.copytree(_empty(factory.getbasetemp()), root / "mlflow")
    return Workspace(root)


def tracker(
    workspace: Workspace, console: Any = None, **settings: Any
) -> MlflowTracker:
    """A tracker as a new process opens it."""
    made = open_tracker(
        TrackingConfig(**{"system_metrics": False, **settings}),
        workspace,
        console=console,
    )
    assert isinstance(made, MlflowTracker)
    return made


class Flaky:
    """MLflow's own server on loopback, in this process, whose faults are switched on
    and counted.

    `mode`: "ok"; "500" (refuses before doing anything); "404" (as a proxy in front of
    it answers); "lost" (does it, and the answer comes too late).
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app, self.mode, self.fired, self.delay = app, "ok", 0, 3.0
        self.url = ""

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Any:
        if self.mode == "404":
            self.fired += 1
            start_response("404 NOT FOUND", [("Content-Type", "text/html")])
            return [b"<html>no such page</html>"]
        if self.mode == "500":
            self.fired += 1
            start_response(
                "500 INTERNAL SERVER ERROR", [("Content-Type", "text/plain")]
            )
            return [b"broken on purpose"]
        answer = self.app(environ, start_response)
        if self.mode == "lost" and environ["PATH_INFO"].endswith("log-batch"):
            self.fired += 1
            time.sleep(self.delay)
        return answer


@contextmanager
def flaky_server(workspace: Workspace, patch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    """Serves the workspace's embedded store."""
    from werkzeug.serving import make_server

    patch.setenv(
        "_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{workspace.mlflow / 'mlflow.db'}"
    )
    patch.setenv(
        "_MLFLOW_SERVER_ARTIFACT_ROOT", (workspace.mlflow / "artifacts").as_uri()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what its server is made of
        # Which the first request would import.
        importlib.import_module("mlflow.server.fastapi_app")
        from mlflow.server import app, handlers

    patch.setattr(handlers, "_tracking_store", None)
    patch.setattr(handlers, "_model_registry_store", None)
    flaky = Flaky(app)
    server = make_server("127.0.0.1", 0, flaky, threaded=True)
    flaky.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield flaky
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
