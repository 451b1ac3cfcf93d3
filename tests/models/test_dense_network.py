"""Classifiers as bodies: their maps, their blocks, and what is served of them."""

from __future__ import annotations

import pytest
import torch

from dense_networks import SIDE, detector, segmenter
from pipeline.errors import ConfigError
from pipeline.models.providers.torchvision import dense_network
from pipeline.serving.feature_maps import build_body, order_maps
from pipeline.tensors import TensorGroup

QUICK = ("mobilenet_v2", "resnet18")
FAMILIES = (
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "regnet_y_400mf",
    "densenet121",
    "vgg11_bn",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
)
LARGE = ("resnet50", "swin_t", "googlenet", "resnext50_32x4d", "efficientnet_v2_s")


def pictures(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def check_family(architecture: str) -> None:
    network = segmenter(architecture)
    design = dense_network.find_design(architecture, SIDE, (4, 8, 16, 32))
    strides = [one["stride"] for one in design["maps"]]
    assert strides == sorted(strides)
    assert len(strides) >= 3
    owned = [name for block in network.blocks for name, _ in block.named_parameters()]
    assert sorted(owned) == sorted(name for name, _ in network.stock.named_parameters())
    x = pictures()
    with torch.inference_mode():
        maps = network.maps(x.clone())
        served = build_body(design).eval()
        served.load_state_dict(
            network.stock.get_submodule("body").state_dict(), strict=True
        )
        for one, expected, found in zip(
            design["maps"],
            order_maps(served(x.clone()), design["maps"]),
            maps,
            strict=True,
        ):
            assert found.shape[1] == one["channels"]
            assert found.shape[-1] == SIDE // one["stride"]
            assert torch.equal(found, expected), f"{architecture}: {one['path']}"


@pytest.mark.parametrize("architecture", QUICK)
def test_a_familys_maps_are_those_of_torchvisions_own_extractor(
    architecture: str,
) -> None:
    check_family(architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", FAMILIES)
def test_so_are_those_of_every_other_family(architecture: str) -> None:
    check_family(architecture)


@pytest.mark.full
@pytest.mark.parametrize("architecture", LARGE)
def test_so_are_those_of_larger_ones(architecture: str) -> None:
    check_family(architecture)


@pytest.mark.parametrize("make", [segmenter, detector])
def test_cut_at_any_block_the_network_answers_the_same(make: object) -> None:
    network = make("mobilenet_v2")  # type: ignore[operator]
    x = pictures()
    with torch.inference_mode():
        whole = network.run(x)
        kept = x
        for stop in range(1, len(network.blocks)):
            kept = network.run(kept, stop - 1, stop)
            assert torch.equal(network.run(kept, stop), whole), stop


def test_up_to_the_first_map_one_tensor_crosses_and_behind_it_the_maps() -> None:
    network = detector("mobilenet_v2")
    x = pictures()
    first_map = network.names.index("features.6") + 1
    with torch.inference_mode():
        assert isinstance(network.run(x, 0, first_map), torch.Tensor)
        behind = network.run(x, 0, first_map + 1)
        assert isinstance(behind, TensorGroup)
        assert set(behind.tensors) == {"features.6", "current"}
        whole_body = network.run(x, 0, len(network.blocks) - 1)
        assert isinstance(whole_body, TensorGroup)
        assert set(whole_body.tensors) == {"features.6", "features.13", "features.18"}


def test_a_network_without_maps_of_several_resolutions_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="feature maps at strides none") as caught:
        dense_network.find_design("vit_b_16", 224, (8, 16, 32))
    assert "vit_b_16" in str(caught.value)


def test_random_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    one = segmenter("mobilenet_v2", seed=3).stock.state_dict()
    torch.manual_seed(6)
    same = segmenter("mobilenet_v2", seed=3).stock.state_dict()
    other = segmenter("mobilenet_v2", seed=4).stock.state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
