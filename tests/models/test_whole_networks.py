"""torchvision's detectors and segmenters by name: their published weights, all but the layers that depend on classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config_section import TaskConfig
from pipeline.errors import BackboneError, ConfigError
from pipeline.models.providers.torchvision import backbones, dense_network, whole_weights
from pipeline.models.providers.torchvision.dense_network import DenseNetwork
from pipeline.models.providers.torchvision.whole_networks import WHOLE_NETWORKS
from pipeline.models.weights import WeightsContent
from pipeline.objectives.pixel_loss import PixelLoss
from pipeline.records import BackboneRecord, ImageInputSpec
from pipeline.serving import feature_maps, pixel_head
from pipeline.tasks import catalog
from pipeline.tasks.semantic_segmentation.settings import SemanticSegmentationConfig
from pipeline.tensors import TensorGroup, single_tensor
from whole_networks import CLASSES, fetch, save_published, stock_network, used_weights

SIDE = 64
LABELS = ("background", "one", "two")
LIGHT_SEGMENTERS = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")
DILATED_SEGMENTERS = ("deeplabv3_resnet50", "fcn_resnet50")
LARGE_SEGMENTERS = ("deeplabv3_resnet101", "fcn_resnet101")


def pictures(count: int = 2, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def design_of(record: BackboneRecord, task: str, config: TaskConfig, side: int = SIDE) -> dict[str, Any]:
    """What the task makes of a backbone; as it is saved, it is JSON."""
    train: Any = None  # a network that is used whole asks nothing of the training data
    spec = ImageInputSpec(size=side, resize=side)
    design = catalog.find(task).network.design(train, LABELS, spec, config, record)
    assert json.loads(json.dumps(design)) == design
    return design


def segmenter_of(record: BackboneRecord, **options: Any) -> DenseNetwork:
    design = design_of(record, "semantic-segmentation", SemanticSegmentationConfig())
    network: Any = catalog.find("semantic-segmentation").network.build(record, LABELS, design=design, **options)
    network.stock.eval()
    return network


def fill_whole(network: DenseNetwork, stock: nn.Module) -> None:
    """Gives a network, which has as many classes, all of torchvision's weights."""
    whole = WHOLE_NETWORKS[network.architecture]
    state = {whole.rename(name): value for name, value in used_weights(stock).items()}
    network.stock.load_state_dict(state, strict=True)


def check_weights(network: DenseNetwork, stock: nn.Module) -> None:
    """What belongs to no class is the published network's; what belongs to one is not."""
    whole = WHOLE_NETWORKS[network.architecture]
    state = network.stock.state_dict()
    published = {whole.rename(name): value for name, value in used_weights(stock).items()}
    assert set(published) == set(state)
    for name, value in published.items():
        if name in network.class_rows:
            assert state[name].shape[0] == network.class_rows[name].count(network.classes)
        else:
            assert torch.equal(state[name], value), name
    assert network.class_rows


def check_segmenter(architecture: str, tmp_path: Path) -> None:
    stock = stock_network(architecture)
    record = fetch(architecture, save_published(stock, tmp_path / "published.pth"), tmp_path)
    assert record.classes == CLASSES
    assert record.architecture == architecture
    network = segmenter_of(record)
    assert tuple(network.names) == record.blocks
    check_weights(network, stock)
    owned = [name for block in network.blocks for name, _ in block.named_parameters()]
    assert sorted(owned) == sorted(name for name, _ in network.stock.named_parameters())

    design = dense_network.find_whole_design(architecture, SIDE)
    whole: Any = dense_network.build_network(design, CLASSES, pixel_head.build_head, lambda head: head, seed=0)  # type: ignore[arg-type, return-value]
    fill_whole(whole, stock)
    whole.stock.eval()
    x = pictures()
    with torch.inference_mode():
        expected = stock(x.clone())["out"]
        assert (single_tensor(whole.run(x.clone())) - expected).abs().max() < 1e-5
        assert expected.abs().max() > 1e-2


@pytest.mark.parametrize("architecture", [*LIGHT_SEGMENTERS, *DILATED_SEGMENTERS])
def test_a_segmenter_answers_as_torchvisions_own_until_its_last_layer_is_new(architecture: str, tmp_path: Path) -> None:
    check_segmenter(architecture, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("architecture", LARGE_SEGMENTERS)
def test_so_does_a_larger_one(architecture: str, tmp_path: Path) -> None:
    check_segmenter(architecture, tmp_path)


@pytest.fixture(scope="module")
def lraspp(tmp_path_factory: pytest.TempPathFactory) -> BackboneRecord:
    base = tmp_path_factory.mktemp("lraspp")
    stock = stock_network("lraspp_mobilenet_v3_large")
    return fetch("lraspp_mobilenet_v3_large", save_published(stock, base / "published.pth"), base)


@pytest.fixture(scope="module")
def deeplab(tmp_path_factory: pytest.TempPathFactory) -> BackboneRecord:
    base = tmp_path_factory.mktemp("deeplab")
    stock = stock_network("deeplabv3_mobilenet_v3_large")
    return fetch("deeplabv3_mobilenet_v3_large", save_published(stock, base / "published.pth"), base)


def check_blocks(network: DenseNetwork) -> None:
    """Cut at any block, as a cache cuts it, the network answers the same."""
    x = pictures()
    with torch.inference_mode():
        whole = network.run(x)
        for stop in range(1, len(network.blocks)):
            assert torch.equal(single_tensor(network.run(network.run(x, 0, stop), stop)), single_tensor(whole)), stop


def test_cut_at_any_block_it_answers_the_same(lraspp: BackboneRecord) -> None:
    network = segmenter_of(lraspp)
    check_blocks(network)
    assert network.names == [f"features.{number}" for number in range(17)] + ["head"]
    behind = network.run(pictures(), 0, 17)
    assert isinstance(behind, TensorGroup)
    assert set(behind.tensors) == {"features.4", "features.16"}


def test_random_weights_are_none_of_the_published_ones(lraspp: BackboneRecord) -> None:
    scratch = segmenter_of(lraspp, pretrained=False, seed=3).stock.state_dict()
    again = segmenter_of(lraspp, pretrained=False, seed=3).stock.state_dict()
    published = segmenter_of(lraspp).stock.state_dict()
    assert all(torch.equal(scratch[name], again[name]) for name in scratch)
    convolutions = [name for name in scratch if scratch[name].ndim == 4]
    assert not any(torch.equal(scratch[name], published[name]) for name in convolutions if name.startswith("body"))


def test_new_layers_follow_from_the_seed_and_the_others_do_not(lraspp: BackboneRecord) -> None:
    one = segmenter_of(lraspp, seed=1)
    other = segmenter_of(lraspp, seed=2).stock.state_dict()
    differing = {name for name, value in one.stock.state_dict().items() if not torch.equal(value, other[name])}
    assert differing == set(one.class_rows)


def test_it_is_served_from_its_design_alone(deeplab: BackboneRecord) -> None:
    network = segmenter_of(deeplab)
    design = design_of(deeplab, "semantic-segmentation", SemanticSegmentationConfig())
    body = feature_maps.build_body(design).eval()
    head = pixel_head.build_head(len(LABELS), design).eval()
    body.load_state_dict(network.stock.get_submodule("body").state_dict(), strict=True)
    head.load_state_dict(network.stock.get_submodule("head").state_dict(), strict=True)
    x = pictures()
    with torch.inference_mode():
        maps = feature_maps.order_maps(body(x.clone()), design["maps"])
        assert torch.equal(head(maps), single_tensor(network.run(x.clone())))


def test_a_batch_of_one_picture_can_be_trained(deeplab: BackboneRecord) -> None:
    """PyTorch refuses to normalise one value a channel, which is what DeepLab's pooling to a point leaves of a picture."""
    network = segmenter_of(deeplab)
    network.stock.train()
    loss = PixelLoss()(network, pictures(1), 0, torch.zeros(1, SIDE, SIDE, dtype=torch.uint8))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        stock_network("deeplabv3_mobilenet_v3_large").train()(pictures(1))


def test_dropout_follows_from_the_steps_seed(deeplab: BackboneRecord) -> None:
    network = segmenter_of(deeplab)
    network.blocks[-1].train()
    for module in network.stock.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.training = False
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with torch.inference_mode():
            answers.append(single_tensor(network.run(pictures())))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


class TestRefusals:
    def refusal(self, call: Callable[[], object]) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            call()
        return caught.value

    def test_weights_of_another_network_are_named(self) -> None:
        state = stock_network("lraspp_mobilenet_v3_large").state_dict()
        for architecture in ("deeplabv3_mobilenet_v3_large", "mobilenet_v3_large"):
            with pytest.raises(BackboneError, match="it looks like lraspp_mobilenet_v3_large"):
                backbones.fit_weights(architecture, WeightsContent(state, {}), "file.pth")

    def test_a_picture_that_becomes_a_point_is_too_small(self) -> None:
        fault = self.refusal(lambda: dense_network.find_whole_design("lraspp_mobilenet_v3_large", 16))
        assert fault.subject == "task.input.size"

    def test_the_published_files_name_is_torchvisions(self) -> None:
        for architecture in WHOLE_NETWORKS:
            assert backbones.published_url(architecture).endswith(".pth")
            assert whole_weights.count_classes(architecture, {}) == 2
