"""Networks from a hub: pinned by revision and digests, whole or not at all, and from
the cache where it has them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub_server import FIRST, SECOND, HubServer, serving
from pipeline.config import BackboneConfig
from pipeline.context import Context
from pipeline.errors import BackboneError
from pipeline.models import references
from pipeline.models.providers import catalog
from pipeline.records import BackboneRecord
from transformer_families import write_folder

pytestmark = pytest.mark.slow

REPOSITORY = "someone/tiny-bert"
NAME = f"transformers/{REPOSITORY}"
PROVIDER = catalog.find(NAME)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_folder(tmp_path_factory.mktemp("published") / "net")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(
    published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A hub with one network, and an empty cache."""
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "cache"))
    for name in ("THAW_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with serving(REPOSITORY) as server:
        server.revisions[FIRST] = {
            **published,
            "README.md": b"of no use here",
            "pytorch_model.bin": b"a pickle",
        }
        yield server


def settings(hub: HubServer, **values: Any) -> BackboneConfig:
    return BackboneConfig(**{"name": NAME, "mirror": hub.url, **values})


def fetch(config: BackboneConfig, root: Path) -> BackboneRecord:
    out = root / "backbone"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return PROVIDER.fetch(
        config, out, Context(root, root / "data", root / ".thaw", root / ".thaw/run")
    )


def refused(config: BackboneConfig, root: Path) -> BackboneError:
    with pytest.raises(BackboneError) as caught:
        fetch(config, root)
    return caught.value


def lock_entry(root: Path) -> dict[str, Any]:
    entries: dict[str, dict[str, Any]] = json.loads(
        (root / "backbone.lock").read_text(encoding="utf-8")
    )
    return entries[f"{NAME} default"]


def cached_weights(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "cache").rglob("model.safetensors")
    return found


def test_a_network_is_fetched_by_name_and_pinned(
    hub: HubServer, tmp_path: Path
) -> None:
    record = fetch(settings(hub), tmp_path)
    assert record.source == f"{hub.url}/{REPOSITORY}"
    assert record.files == ("config.json", "tokenizer.json")
    entry = lock_entry(tmp_path)
    assert entry["revision"] == FIRST
    assert entry["files"]["model.safetensors"] == record.sha256
    asked = [
        request
        for request in hub.requests
        if request.startswith("GET") and "/resolve/" in request
    ]
    assert len(asked) == 3
    assert not [request for request in asked if request.endswith((".bin", ".md"))]


def test_the_environment_may_name_the_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert (
        fetch(BackboneConfig(name=NAME), tmp_path).source == f"{hub.url}/{REPOSITORY}"
    )


def test_what_was_pinned_comes_again_although_the_hub_went_on(
    hub: HubServer, published: dict[str, bytes], tmp_path: Path
) -> None:
    first = fetch(settings(hub), tmp_path)
    hub.revisions[SECOND] = {
        **published,
        "config.json": published["config.json"].replace(b"gelu", b"relu"),
    }
    hub.newest = SECOND
    shutil.rmtree(tmp_path / "cache")
    assert fetch(settings(hub), tmp_path).digest == first.digest
    assert lock_entry(tmp_path)["revision"] == FIRST
    other = fetch(settings(hub), tmp_path / "other workspace")
    assert lock_entry(tmp_path / "other workspace")["revision"] == SECOND
    assert b"relu" in (other.folder / "config.json").read_bytes()


def test_what_the_cache_has_is_not_asked_for_again(
    hub: HubServer, tmp_path: Path
) -> None:
    first = fetch(settings(hub), tmp_path)
    hub.requests.clear()
    assert fetch(settings(hub), tmp_path).digest == first.digest
    assert hub.requests == []


def test_a_transfer_that_breaks_off_goes_on(
    hub: HubServer, published: dict[str, bytes], tmp_path: Path
) -> None:
    hub.cuts = 1
    fetch(settings(hub), tmp_path)
    assert cached_weights(tmp_path).read_bytes() == published["model.safetensors"]
    asked = [
        request
        for request in hub.requests
        if request.startswith("GET") and "safetensors" in request
    ]
    assert len(asked) == 2


class TestOffline:
    def test_the_cache_is_enough(
        self, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = fetch(settings(hub), tmp_path)
        hub.requests.clear()
        assert fetch(settings(hub, offline=True), tmp_path).digest == first.digest
        monkeypatch.setenv("THAW_OFFLINE", "1")
        assert fetch(settings(hub), tmp_path).digest == first.digest
        assert "cache" in PROVIDER.check_reachable(settings(hub), tmp_path)
        assert hub.requests == []

    def test_without_a_copy_the_error_says_what_to_bring(
        self, hub: HubServer, tmp_path: Path
    ) -> None:
        fault = refused(settings(hub, offline=True), tmp_path)
        assert "switched off" in fault.found
        assert "model.safetensors" in fault.expected
        assert "backbone.weights" in fault.hint
        with pytest.raises(BackboneError, match="switched off"):
            PROVIDER.check_reachable(settings(hub, offline=True), tmp_path)
        assert hub.requests == []

    def test_a_network_that_was_fetched_before_needs_no_hub_that_answers(
        self, hub: HubServer, tmp_path: Path
    ) -> None:
        first = fetch(settings(hub), tmp_path)
        assert (
            fetch(settings(hub, mirror="http://127.0.0.1:9"), tmp_path).sha256
            == first.sha256
        )


class TestRefusals:
    def test_a_hub_that_does_not_answer(self, hub: HubServer, tmp_path: Path) -> None:
        fault = refused(settings(hub, mirror="http://127.0.0.1:9"), tmp_path)
        assert "Connect" in fault.found
        with pytest.raises(BackboneError, match="127"):
            PROVIDER.check_reachable(
                settings(hub, mirror="http://127.0.0.1:9"), tmp_path
            )

    def test_a_name_that_the_hub_does_not_have(
        self, hub: HubServer, tmp_path: Path
    ) -> None:
        config = settings(hub, name="transformers/someone/tiny-bort")
        assert "no network of this name" in refused(config, tmp_path).found
        with pytest.raises(BackboneError, match="no network of this name"):
            PROVIDER.check_reachable(config, tmp_path)

    def test_a_network_published_as_a_pickle_alone(
        self, hub: HubServer, tmp_path: Path
    ) -> None:
        del hub.revisions[FIRST]["model.safetensors"]
        assert "pickles are never opened" in refused(settings(hub), tmp_path).hint
        with pytest.raises(BackboneError, match=r"no model\.safetensors"):
            PROVIDER.check_reachable(settings(hub), tmp_path / "other")

    def test_a_revision_that_is_gone(self, hub: HubServer, tmp_path: Path) -> None:
        fetch(settings(hub), tmp_path)
        hub.revisions = {SECOND: hub.revisions[FIRST]}
        hub.newest = SECOND
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(BackboneError, match=r"backbone\.lock"):
            PROVIDER.check_reachable(settings(hub), tmp_path)

    def test_a_copy_that_is_not_what_was_pinned_is_deleted_and_fetched_anew(
        self, hub: HubServer, tmp_path: Path
    ) -> None:
        first = fetch(settings(hub), tmp_path)
        content = cached_weights(tmp_path).resolve()
        content.write_bytes(content.read_bytes()[:-4] + b"\x00\x00\x00\x00")
        fault = refused(settings(hub), tmp_path)
        assert "deleted" in fault.found
        assert not content.exists()
        assert fetch(settings(hub), tmp_path).digest == first.digest

    def test_such_a_copy_is_found_before_anything_is_asked_what_is_fresh(
        self, hub: HubServer, tmp_path: Path
    ) -> None:
        fetch(settings(hub), tmp_path)
        content = cached_weights(tmp_path).resolve()
        content.write_bytes(content.read_bytes()[:-4] + b"\x00\x00\x00\x00")
        lock = lock_entry(tmp_path)
        known = references.open_digest_cache(tmp_path / ".thaw")
        key = references.folder_key(f"{NAME} default", "model.safetensors")
        if known.file_of(key) is None:  # a file that has just changed is not remembered
            return
        with pytest.raises(BackboneError, match=lock["sha256"]):
            references.refuse_changed_file(settings(hub), tmp_path, tmp_path / ".thaw")


def test_reachable_says_where_from_and_fetches_nothing(
    hub: HubServer, tmp_path: Path
) -> None:
    assert PROVIDER.check_reachable(settings(hub), tmp_path) == f"{NAME}, {hub.url}"
    assert not [request for request in hub.requests if "/resolve/" in request]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_mirror_may_be_a_folder(published: dict[str, bytes], tmp_path: Path) -> None:
    place = tmp_path / "mirror" / REPOSITORY
    place.mkdir(parents=True)
    for name, content in published.items():
        (place / name).write_bytes(content)
    for mirror in ("mirror", str(tmp_path / "mirror"), f"file://{tmp_path}/mirror"):
        config = BackboneConfig(name=NAME, mirror=mirror)
        assert fetch(config, tmp_path).source == "mirror"
        assert str(place) in PROVIDER.check_reachable(config, tmp_path)
    (place / "tokenizer.json").unlink()
    with pytest.raises(BackboneError, match="tokenizer"):
        PROVIDER.check_reachable(BackboneConfig(name=NAME, mirror="mirror"), tmp_path)
