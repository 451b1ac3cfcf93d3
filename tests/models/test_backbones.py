"""Which file a weights reference means, and whether it is the file it should be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline import files
from pipeline.config import BackboneConfig
from pipeline.context import Context
from pipeline.errors import BackboneError, ConfigError
from pipeline.models import backbone_lock, fetch
from pipeline.models.network import state_to_save
from pipeline.models.providers import catalog
from pipeline.models.providers.torchvision import backbones, blocks, torchvision_models
from pipeline.models.references import WeightsFile
from pipeline.models.weights import WeightsContent
from weights_server import WeightsServer, serving, whole

NAME = "torchvision/shufflenet_v2_x0_5"


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("THAW_OFFLINE", raising=False)
    root = tmp_path / "workspace"
    root.mkdir()
    return Context(root, root / "data", root / ".thaw", root / ".thaw/runs/1/backbone")


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A weights file."""
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(state_to_save(blocks.build_network("shufflenet_v2_x0_5", 3)), path)
    return path.read_bytes()


def config(**settings: Any) -> BackboneConfig:
    return BackboneConfig(**{"name": NAME, **settings})


def pin(settings: BackboneConfig, context: Context, found: WeightsFile) -> None:
    backbone_lock.pin_file(settings, context.root, found.sha256, found.stat.size)


def fault(settings: BackboneConfig, context: Context) -> BackboneError:
    with pytest.raises(BackboneError) as caught:
        backbones.resolve_weights(
            settings, context, fetch.RetryPolicy(attempts=1, pause=0, stall=2, total=5)
        )
    return caught.value


class TestNames:
    def test_an_unknown_architecture_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="did you mean mobilenet_v2"):
            backbones.find_architecture(config(name="torchvision/mobilnet_v2"))

    def test_an_unknown_provider_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="did you mean torchvision/resnet18"):
            catalog.find("torchvison/resnet18")
        with pytest.raises(ConfigError, match="one of torchvision"):
            catalog.find("acme/resnet18")


class TestReferences:
    def test_a_file_is_found_from_the_workspace(
        self, context: Context, body: bytes
    ) -> None:
        (context.root / "mine.safetensors").write_bytes(body)
        for reference in ("mine.safetensors", str(context.root / "mine.safetensors")):
            found = backbones.resolve_weights(
                config(weights=reference, offline=True), context
            )
            assert found.path == context.root / "mine.safetensors"
            assert found.source == "file"

    def test_a_file_url_is_a_file(self, context: Context, body: bytes) -> None:
        (context.root / "mine.safetensors").write_bytes(body)
        found = backbones.resolve_weights(
            config(weights=f"file://{context.root}/mine.safetensors"), context
        )
        assert found.path == context.root / "mine.safetensors"

    def test_a_missing_file_is_named(self, context: Context) -> None:
        assert (
            str(context.root / "none.pth")
            in fault(config(weights="none.pth"), context).subject
        )

    def test_a_url_is_fetched(
        self, context: Context, server: WeightsServer, body: bytes
    ) -> None:
        server.script = [whole(body)]
        found = backbones.resolve_weights(config(weights=server.url), context)
        assert found.path.read_bytes() == body
        assert found.source == server.url

    def test_published_weights_come_from_the_mirror(
        self,
        context: Context,
        server: WeightsServer,
        body: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        copy = context.root / "copy"
        copy.write_bytes(body)
        name = f"net-{files.sha256(copy)[:8]}.pth"
        monkeypatch.setattr(
            backbones, "published_url", lambda _: f"https://away.invalid/models/{name}"
        )
        server.script = [whole(body)]
        mirror = server.url.rpartition("/")[0] + "/"
        assert (
            backbones.resolve_weights(config(mirror=mirror), context).source
            == mirror + name
        )
        (context.root / "mirror").mkdir()
        copy.rename(context.root / "mirror" / name)
        assert (
            backbones.resolve_weights(config(mirror="mirror"), context).path
            == context.root / "mirror" / name
        )

    def test_published_weights_offline_say_how_to_bring_them(
        self, context: Context
    ) -> None:
        said = fault(config(offline=True), context)
        assert backbones.published_url("shufflenet_v2_x0_5") in said.hint
        assert str(fetch.cache_folder()) in said.hint

    def test_the_environment_switches_the_network_off(
        self, context: Context, server: WeightsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("THAW_OFFLINE", "1")
        assert "switched off" in fault(config(weights=server.url), context).found
        assert server.requests == []

    def test_shipped_weights_that_do_not_exist_name_those_that_do(
        self, context: Context
    ) -> None:
        said = fault(config(name="torchvision/vgg16", weights="shipped"), context)
        assert "ships none" in said.found


class TestPins:
    def test_the_first_use_is_pinned_and_another_file_refused(
        self, context: Context, body: bytes
    ) -> None:
        path = context.root / "mine.safetensors"
        path.write_bytes(body)
        found = backbones.resolve_weights(config(weights="mine.safetensors"), context)
        pin(config(weights="mine.safetensors"), context, found)
        locked = json.loads((context.root / "backbone.lock").read_text())
        assert locked == {
            f"{NAME} mine.safetensors": {"sha256": found.sha256, "size": len(body)}
        }
        assert (
            backbones.resolve_weights(config(weights="mine.safetensors"), context)
            == found
        )
        path.write_bytes(body[:-1] + b"\x01")
        said = fault(config(weights="mine.safetensors"), context)
        assert found.sha256 in said.expected
        assert "backbone.lock" in said.expected
        assert path.exists(), "a file of the user's is never deleted"

    def test_other_references_are_pinned_beside(
        self, context: Context, body: bytes
    ) -> None:
        for name in ("one", "two"):
            (context.root / name).write_bytes(body)
            settings = config(weights=name)
            pin(settings, context, backbones.resolve_weights(settings, context))
        assert len(json.loads((context.root / "backbone.lock").read_text())) == 2
        assert [path.name for path in context.root.glob("backbone.lock*")] == [
            "backbone.lock"
        ]

    def test_a_fetched_file_of_the_right_size_and_wrong_hash_is_deleted(
        self, context: Context, server: WeightsServer, body: bytes
    ) -> None:
        server.script = [whole(body[:-1] + b"\x01"), whole(body)]
        (context.root / "good").write_bytes(body)
        settings = config(
            weights=server.url, sha256=files.sha256(context.root / "good").upper()
        )
        said = fault(settings, context)
        assert "deleted" in said.found
        assert "backbone.sha256" in said.expected
        assert not fetch.cached_path(server.url).exists()
        assert backbones.resolve_weights(settings, context).path.read_bytes() == body

    def test_a_cached_file_that_went_bad_is_deleted(
        self, context: Context, server: WeightsServer, body: bytes
    ) -> None:
        server.script = [whole(body)]
        settings = config(weights=server.url)
        found = backbones.resolve_weights(settings, context)
        pin(settings, context, found)
        found.path.write_bytes(body[:-1] + b"\x01")
        assert "deleted" in fault(settings, context).found
        assert backbones.resolve_weights(settings, context).path.read_bytes() == body

    def test_published_weights_must_match_their_name(
        self,
        context: Context,
        server: WeightsServer,
        body: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        url = server.url.replace("net.safetensors", "net-0123abcd.pth")
        monkeypatch.setattr(backbones, "published_url", lambda _: url)
        server.script = [whole(body)]
        said = fault(config(), context)
        assert "0123abcd, by its name" in said.expected
        assert not fetch.cached_path(url).exists()

    @pytest.mark.parametrize("text", ["<<<<<<< HEAD", "[]", '{"a": 1}'])
    def test_a_damaged_lock_stops(
        self, context: Context, body: bytes, text: str
    ) -> None:
        (context.root / "mine").write_bytes(body)
        (context.root / "backbone.lock").write_text(text)
        assert "backbone.lock" in fault(config(weights="mine"), context).subject


class TestFit:
    def test_another_architectures_weights_are_recognised(self) -> None:
        state = state_to_save(blocks.build_network("squeezenet1_1", 3))
        with pytest.raises(BackboneError) as caught:
            backbones.fit_network(
                "squeezenet1_0", WeightsContent(state, {}), "the file"
            )
        assert "looks like squeezenet1_1" in caught.value.found
        assert caught.value.hint == "backbone.name: torchvision/squeezenet1_1"
        assert any("other shape" in detail for detail in caught.value.details)

    def test_an_unknown_networks_weights_are_listed(self) -> None:
        with pytest.raises(BackboneError) as caught:
            backbones.fit_network(
                "squeezenet1_0", WeightsContent({"w": torch.zeros(2)}, {}), "the file"
            )
        assert "looks like" not in caught.value.found
        assert "unexpected (1): w" in caught.value.details

    def test_the_files_own_word_is_believed(self) -> None:
        with pytest.raises(BackboneError, match="weights of resnet18"):
            backbones.fit_network(
                "squeezenet1_0",
                WeightsContent({}, {"architecture": "resnet18"}),
                "the file",
            )

    def test_googlenets_untrained_auxiliary_heads_are_left_out(self) -> None:
        import torchvision

        full = torchvision.models.googlenet(
            weights=None, aux_logits=True, init_weights=False
        ).state_dict()
        assert any(key.startswith("aux1.") for key in full)
        model = backbones.fit_network("googlenet", WeightsContent(full, {}), "the file")
        assert model.classes == 1000
        assert not any(key.startswith("aux") for key in state_to_save(model))

    def test_a_transformer_trained_at_another_size(self) -> None:
        shapes = blocks.build_network(
            "vit_b_32", 4, size=64, meta=True
        ).stock.state_dict()
        state = {key: torch.zeros(value.shape) for key, value in shapes.items()}
        model = backbones.fit_network("vit_b_32", WeightsContent(state, {}), "the file")
        assert model.stock_kwargs == {"image_size": 64}
        spec = backbones.derive_input_spec(
            config(), "vit_b_32", WeightsContent(state, {}), "the file"
        )
        assert spec.size == 64
        with pytest.raises(ConfigError, match=r"backbone\.size"):
            backbones.derive_input_spec(
                config(size=96), "vit_b_32", WeightsContent(state, {}), "the file"
            )


class TestInput:
    def spec(
        self, name: str, metadata: dict[str, str] | None = None, **settings: Any
    ) -> Any:
        return backbones.derive_input_spec(
            config(**settings), name, WeightsContent({}, metadata or {}), "the file"
        )

    def test_every_classifiers_published_input_is_known_offline(self) -> None:
        for name in torchvision_models.list_architectures():
            spec = self.spec(name)
            assert 224 <= spec.size <= spec.resize, name
            assert backbones.published_url(name).startswith("https://"), name

    @pytest.mark.parametrize(
        ("name", "size", "resize", "interpolation"),
        [
            ("resnet50", 224, 232, "bilinear"),
            ("inception_v3", 299, 342, "bilinear"),
            ("efficientnet_b3", 300, 320, "bicubic"),
        ],
    )
    def test_the_published_preprocessing(
        self, name: str, size: int, resize: int, interpolation: str
    ) -> None:
        spec = self.spec(name)
        assert (spec.size, spec.resize, spec.interpolation) == (
            size,
            resize,
            interpolation,
        )

    def test_inception_is_fed_as_inside_torchvision(self) -> None:
        """Torchvision normalises with ImageNet's statistics and then converts, in the
        network, to [-1, 1].
        """
        import torchvision

        spec = self.spec("inception_v3")
        network = torchvision.models.inception_v3(
            weights=None, init_weights=False, transform_input=True
        )
        preset = torchvision.models.Inception_V3_Weights.DEFAULT.transforms()
        pixels = torch.rand(1, 3, 8, 8)
        column = lambda values: torch.tensor(values).view(1, 3, 1, 1)  # noqa: E731
        theirs = network._transform_input(
            (pixels - column(preset.mean)) / column(preset.std)
        )
        ours = (pixels - column(spec.mean)) / column(spec.std)
        torch.testing.assert_close(ours, theirs)

    def test_the_files_metadata_comes_before_the_providers(self) -> None:
        spec = self.spec(
            "resnet18",
            {"size": "96", "mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]"},
        )
        assert (spec.size, spec.resize) == (96, 96)
        assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))

    def test_the_settings_come_before_everything(self) -> None:
        spec = self.spec(
            "resnet18",
            {"size": "96", "mean": "[0.1, 0.2, 0.3]"},
            size=64,
            mean=(0.7, 0.8, 0.9),
        )
        assert (spec.size, spec.resize, spec.mean) == (64, 64, (0.7, 0.8, 0.9))
        spec = self.spec("resnet18", size=112)
        assert (spec.size, spec.resize) == (112, 128)

    @pytest.mark.parametrize(
        "metadata",
        [{"size": "big"}, {"mean": "0.5"}, {"std": "[1]"}, {"mean": "nonsense"}],
    )
    def test_metadata_that_cannot_be_read_is_a_fault(
        self, metadata: dict[str, str]
    ) -> None:
        with pytest.raises(BackboneError, match="metadata"):
            self.spec("resnet18", metadata)
