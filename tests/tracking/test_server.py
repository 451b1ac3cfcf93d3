"""The embedded store served: registering through the server and beside it is one and
the same.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.predict import predict
from pipeline.config import Config, RegisterConfig, TrackingConfig, to_yaml
from pipeline.tracking import registered, server_command
from pipeline.workspace import Workspace
from registry_helpers import Finished, lay_finished

pytestmark = pytest.mark.full


@pytest.fixture
def done(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return lay_finished(tmp_path / "some insects", tmp_path_factory)


@pytest.fixture
def url(done: Finished, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv, env = server_command(Workspace(done.root), "127.0.0.1", port)
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            argv,
            env={**os.environ, **env},
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.3)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "a worker still listens"


def test_with_and_without_the_server_it_is_one_store(
    done: Finished, url: str, tmp_path: Path
) -> None:
    beside = Config(
        register=RegisterConfig(name="insects", thresholds={"accuracy": 0.5}),
        tracking=TrackingConfig(experiment="all"),
    )  # type: ignore[call-arg]
    through = beside.model_copy(
        update={"tracking": TrackingConfig(uri=url, experiment="all")}
    )
    done.config = through
    first = done.register()
    assert (first.version, first.tracking_uri) == ("1", url)
    assert done.promote().champion == "1"
    done.config = beside
    assert done.register().run_id == first.run_id
    done = done.retrained(seed=4)
    assert done.register().version == "2"
    place = Workspace(done.root)
    (done.root / "dvc.yaml").write_text("")
    for config in (beside, through):
        assert [one.version for one in registered(config, place)] == ["2", "1"]
        (done.root / "params.yaml").write_text(to_yaml(config))
        assert [row.error for row in predict(done.files[:2], None, place)] == ["", ""]
    assert not (tmp_path / "mlruns").exists()
