"""The embedded store served: registering through the server and beside it is one and
the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.predict import predict
from flows.servers import HOST, Server, free_port, stop
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
    port = free_port(0)
    argv, env = server_command(Workspace(done.root), HOST, port)
    log = tmp_path / "log"
    server = Server("MLflow", port, "/health", argv, env, log, tmp_path)
    process = server.start()
    try:
        server.wait(process)
        yield server.url
    finally:
        stop([process])
    assert free_port(port) == port, "a worker still listens"


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
