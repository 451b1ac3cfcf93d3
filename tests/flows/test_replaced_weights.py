"""Backbone weights that were replaced: refused by name until backbone.lock lets go of
the old ones, then trained from.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from commands import change, run_thaw
from pipeline import files, setup
from pipeline.config import parse
from pipeline.errors import BackboneError
from pipeline.models import references
from pipeline.models.network import state_to_save
from pipeline.models.providers.torchvision import blocks
from pipeline.records import BackboneRecord
from pipeline.workspace import Workspace
from weights_server import WeightsServer, serving, whole

NAME = "torchvision/squeezenet1_1"
FILE = "net.safetensors"


def weights_bytes(seed: int, metadata: dict[str, str] | None = None) -> bytes:
    """A weights file of the tests' architecture; every seed gives as many bytes."""
    from safetensors.torch import save

    return save(
        state_to_save(blocks.build_network("squeezenet1_1", 3, seed=seed)), metadata
    )


OLD, NEW = weights_bytes(1), weights_bytes(2)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose weights are a file in it, after its first run of the backbone
    step.
    """
    base = tmp_path_factory.mktemp("replaced")
    source = base / "pictures"
    source.mkdir()
    Image.new("RGB", (20, 20)).save(source / "one.png")
    config = parse(
        {"backbone": {"name": NAME, "weights": FILE}, "tracking": {"enabled": False}},
        "test",
    )
    setup.init(base / "place", source=source, config=config)
    made = Workspace(base / "place")
    (made.root / FILE).write_bytes(OLD)
    assert run(made) == "done"
    assert run(made) == "unchanged"
    return made.root


@pytest.fixture
def place(made_once: Path, tmp_path: Path) -> Workspace:
    """A copy of that workspace."""
    copied = shutil.copytree(made_once, tmp_path / "place", symlinks=True)
    return Workspace(Path(copied))


def run(place: Workspace) -> str:
    """What the flow makes of the backbone step: done, restored or unchanged."""
    # Prefect takes a second, which is no concern of processes that run other tests.
    from flows.retrain import begin_run
    from flows.step_task import run_or_restore

    running = begin_run(place)
    run_or_restore(running, "backbone")
    return running.outcomes[-1].how


def record(place: Workspace) -> BackboneRecord:
    return BackboneRecord.load(place.output("backbone"))


def trains_from(place: Workspace) -> bytes:
    """One tensor of the weights that a training would begin with."""
    state = load_file(record(place).weights)
    return bytes(state["features.0.weight"].numpy().tobytes())


def tensor(content: bytes) -> bytes:
    from safetensors.torch import load

    return bytes(load(content)["features.0.weight"].numpy().tobytes())


def refusal(place: Workspace) -> BackboneError:
    with pytest.raises(BackboneError) as caught:
        run(place)
    return caught.value


def unlock(place: Workspace) -> None:
    """What the refusal says: takes the entry out of backbone.lock."""
    path = place.root / "backbone.lock"
    entries = json.loads(path.read_text())
    del entries[f"{NAME} {FILE}"]
    path.write_text(json.dumps(entries))


def test_a_replaced_file_is_refused_by_name_and_trains_once_the_lock_lets_go(
    place: Workspace,
) -> None:
    (place.root / FILE).write_bytes(NEW)
    for _ in range(2):
        said = refusal(place)
        assert str(place.root / FILE) in said.subject
        assert "backbone.lock" in said.expected
        assert f"'{NAME} {FILE}'" in said.hint
        assert trains_from(place) == tensor(OLD)
    unlock(place)
    assert run(place) == "done"
    assert trains_from(place) == tensor(NEW)
    assert run(place) == "unchanged"


def test_a_file_replaced_in_place_with_the_same_size_and_time_is_noticed(
    place: Workspace,
) -> None:
    path = place.root / FILE
    before = path.stat()
    with path.open("r+b") as stream:
        stream.write(NEW)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )
    assert "backbone.lock" in refusal(place).expected


@pytest.mark.slow
def test_a_lock_that_was_deleted_takes_the_file_that_is_there(place: Workspace) -> None:
    (place.root / FILE).write_bytes(NEW)
    (place.root / "backbone.lock").unlink()
    assert run(place) == "done"
    assert trains_from(place) == tensor(NEW)
    (place.root / FILE).write_bytes(OLD)
    (place.root / "backbone.lock").unlink()
    assert run(place) == "done"
    assert trains_from(place) == tensor(OLD)


@pytest.mark.slow
def test_a_sha256_in_the_settings_is_compared_too(place: Workspace) -> None:
    (place.root / FILE).write_bytes(NEW)
    sha = files.sha256(place.root / FILE)
    change(place.root, "sha256: null", f"sha256: {sha}")
    assert "backbone.lock" in refusal(place).expected
    unlock(place)
    assert run(place) == "done"
    (place.root / FILE).write_bytes(OLD)
    unlock(place)
    assert "backbone.sha256" in refusal(place).expected


def test_the_same_weights_presented_otherwise_are_other_weights(
    place: Workspace,
) -> None:
    (place.root / FILE).write_bytes(weights_bytes(1, {"size": "64"}))
    assert "backbone.lock" in refusal(place).expected
    unlock(place)
    assert run(place) == "done"
    assert record(place).input.size == 64


def test_shipped_weights_that_another_version_brings_are_refused(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "SHIPPED", tmp_path / "shipped")
    shipped = tmp_path / "shipped" / "squeezenet1_1.safetensors"
    shipped.parent.mkdir()
    shipped.write_bytes(OLD)
    change(place.root, f'weights: "{FILE}"', 'weights: "shipped"')
    assert run(place) == "done"
    shipped.write_bytes(NEW)
    said = refusal(place)
    assert "version of Thaw" in said.hint
    assert f"'{NAME} shipped'" in said.hint


def test_a_file_that_is_not_here_is_its_lock(place: Workspace) -> None:
    (place.root / FILE).unlink()
    assert run(place) == "unchanged"
    shutil.rmtree(place.output("backbone"))
    assert run(place) == "restored"


def test_a_lock_of_someone_elses_is_refused_where_the_file_here_is_another(
    place: Workspace,
) -> None:
    path = place.root / "backbone.lock"
    entries: dict[str, Any] = json.loads(path.read_text())
    entries[f"{NAME} {FILE}"]["sha256"] = "0" * 64
    path.write_text(json.dumps(entries))
    assert "bring the right file" in refusal(place).hint


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with serving() as running:
        running.script = [whole(OLD)]
        yield running


@pytest.mark.slow
def test_a_changed_copy_of_a_url_is_refused_and_fetched_anew(
    place: Workspace,
    server: WeightsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WEIGHTS_TOKEN", "s3cret")
    url = f"{server.url}?token=${{WEIGHTS_TOKEN}}"
    change(place.root, f'weights: "{FILE}"', f'weights: "{url}"')
    assert run(place) == "done"
    assert "s3cret" not in (place.root / "backbone.lock").read_text()
    (copy,) = (tmp_path / "cache").rglob(FILE)
    copy.write_bytes(NEW)
    assert "deleted" in refusal(place).found
    assert not copy.exists()
    assert run(place) == "unchanged", "what was fetched before has not changed"
    copy.write_bytes(NEW)
    (place.root / "backbone.lock").unlink()
    assert run(place) == "done"
    assert trains_from(place) == tensor(NEW)


def test_credentials_that_an_earlier_version_wrote_into_the_lock_are_taken_out(
    place: Workspace,
) -> None:
    path = place.root / "backbone.lock"
    entries = json.loads(path.read_text())
    entries[f"{NAME} https://someone:s3cret@example.org/net.pth?token=s3cret"] = {
        "sha256": "0" * 64,
        "size": 1,
    }
    path.write_text(json.dumps(entries))
    run(place)
    assert "s3cret" not in path.read_text()
    assert f"{NAME} https://example.org/net.pth" in json.loads(path.read_text())


def test_an_unchanged_file_is_not_read_again(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.root / FILE
    long_ago = path.stat().st_mtime - 3600
    os.utime(path, (long_ago, long_ago))
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    read: list[Path] = []
    hashed = files.sha256

    def counted(file: Path) -> str:
        read.append(file)
        return hashed(file)

    monkeypatch.setattr(files, "sha256", counted)
    assert [run(place) for _ in range(3)] == ["unchanged"] * 3
    assert read == [path]


@pytest.mark.slow
def test_the_commands_refuse_too_and_dvc_alone_trains_from_the_new_file(
    place: Workspace,
) -> None:
    (place.root / FILE).write_bytes(NEW)
    done = run_thaw("run", cwd=place.root, check=False)
    assert done.returncode == 2
    assert FILE in done.stderr
    assert "Traceback" not in done.stderr
    said = run_thaw("status", cwd=place.root).stdout
    assert "backbone.lock" in said
    unlock(place)
    dvc = Path(sys.executable).with_name("dvc")
    environment = {**os.environ, "PATH": f"{dvc.parent}:{os.environ['PATH']}"}
    subprocess.run(
        [dvc, "repro", "backbone"],
        cwd=place.root,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert trains_from(place) == tensor(NEW)
    assert run(place) == "unchanged"
