"""Every classifier torchvision has, as blocks: complete, in order, and the same
function as the stock network.
"""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer

from pipeline.errors import BackboneError, ConfigError
from pipeline.models.network import state_to_save
from pipeline.models.providers.torchvision import blocks, torchvision_models
from pipeline.models.providers.torchvision.blocks import TorchvisionNetwork
from quick_weights import build_quickly

# One of each family, with an input side that it accepts.
FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 64,
    "inception_v3": 80,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vit_b_32": 224,
}
LARGE = ("maxvit_t", "vit_b_32")


def _busy(model: TorchvisionNetwork) -> TorchvisionNetwork:
    """Makes outputs depend on everything: some heads start at zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return model


def _side(name: str) -> int:
    return 224 if name.startswith(("vit_", "maxvit_", "vgg")) else 96


def _check_same_function(name: str, side: int) -> None:
    model = _busy(build_quickly(name, 5)).eval()
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.stock(x)
        middle = len(model.blocks) // 2
        assert expected.std() > 0
        assert torch.equal(model(x), expected)
        assert torch.equal(model.run(model.run(x, stop=middle), start=middle), expected)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param(name, side, marks=[pytest.mark.slow] if name in LARGE else [])
        for name, side in FAMILIES.items()
    ],
)
def test_the_blocks_in_order_equal_the_stock_forward_to_the_bit(
    name: str, side: int
) -> None:
    _check_same_function(name, side)


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_classifiers_blocks_equal_its_stock_forward_to_the_bit() -> None:
    for name in torchvision_models.list_architectures():
        if name not in FAMILIES:
            _check_same_function(name, _side(name))


@pytest.mark.slow
def test_the_blocks_of_every_classifier_hold_every_parameter_and_buffer_once() -> None:
    assert len(torchvision_models.list_architectures()) >= 80
    for name in torchvision_models.list_architectures():
        model = blocks.build_network(name, 5, meta=True)
        names = Counter(
            key
            for block in model.blocks
            for key, _ in [*block.named_parameters(), *block.named_buffers()]
        )
        assert set(names) == set(model.stock.state_dict()), name
        assert set(names.values()) == {1}, name
        assert model.names[-1] == "head", name
        assert len(set(model.names)) == len(model.names), name
        assert len(model.names) >= 8, name
        assert all(parameter.is_meta for parameter in model.parameters()), name


def _check_head(name: str) -> None:
    head = {
        key
        for key, _ in blocks.build_network(name, 5, meta=True)
        .blocks[-1]
        .named_parameters()
    }
    auxiliary = {
        key
        for key in torchvision_models.class_dependent_names(name)
        if key.startswith("AuxLogits")
    }
    assert head == torchvision_models.class_dependent_names(name) - auxiliary, name
    assert any(key.endswith("weight") for key in head), name


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_is_the_layer_whose_outputs_are_the_classes_and_nothing_else(
    name: str,
) -> None:
    _check_head(name)


@pytest.mark.full
def test_every_classifiers_head_is_its_class_layer_and_nothing_else() -> None:
    for name in torchvision_models.list_architectures():
        _check_head(name)


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("resnet50", ["conv1", "layer1.0", "layer4.2"]),
        ("vgg16", ["features.0", "features.28", "classifier.0", "classifier.3"]),
        ("inception_v3", ["Conv2d_1a_3x3", "Mixed_6e", "Mixed_7c"]),
        ("mobilenet_v2", ["features.0", "features.18"]),
        ("efficientnet_b0", ["features.0", "features.4.2", "features.8"]),
        ("vit_b_16", ["conv_proj", "encoder.layers.encoder_layer_11"]),
        ("swin_t", ["features.0", "features.5.3", "features.6"]),
        (
            "densenet121",
            [
                "features.conv0",
                "features.transition3",
                "features.denseblock4.denselayer16",
            ],
        ),
        ("regnet_y_400mf", ["stem", "trunk_output.block4.block4-5"]),
    ],
)
def test_blocks_are_named_by_their_place_in_the_stock_network(
    name: str, some: list[str]
) -> None:
    names = blocks.build_network(name, 2, meta=True).names
    assert [found for found in names if found in some] == some


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"), [item for item in FAMILIES.items() if item[0] not in LARGE]
)
def test_no_block_writes_into_its_input(name: str, side: int) -> None:
    model = build_quickly(name, 5).train()
    x = torch.randn(2, 3, side * 2, side * 2)
    with torch.no_grad():
        for block in model.blocks:
            before = x.clone()
            after = block(x)
            assert torch.equal(x, before), block.name
            x = after


def test_what_a_frozen_block_gives_is_not_random() -> None:
    # VGG has dropouts between its linear layers: each belongs to the block after it.
    model = build_quickly("alexnet", 5).train()
    model.blocks[-1].eval()
    x = torch.randn(2, 3, 64, 64)
    body = len(model.blocks) - 1
    for block in model.blocks[:body]:
        block.eval()
    assert torch.equal(model(x), model(x))
    model.blocks[-2].train()
    assert not torch.equal(model(x), model(x)), "a dropout in training should show"


def test_a_block_switches_just_its_own_modules() -> None:
    model = blocks.build_network("mobilenet_v2", 5, meta=True).eval()
    model.blocks[-2].train()
    training = {name for name, module in model.stock.named_modules() if module.training}
    assert training
    assert all(name.startswith("features.18") for name in training)


def _small_transformer() -> TorchvisionNetwork:
    network = VisionTransformer(
        32,
        patch_size=16,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=8,
        num_classes=3,
    )
    return _busy(TorchvisionNetwork("vit", 3, network, {}))


def test_a_copied_model_is_independent() -> None:
    for model in (
        _busy(build_quickly("densenet121", 3)).eval(),
        _small_transformer().eval(),
    ):
        x = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            before = model(x)
            twin = copy.deepcopy(model)
            for parameter in twin.parameters():
                parameter.zero_()
            assert torch.equal(model(x), before)
            assert not twin(x).any()


class TestAuxiliary:
    """Inception's second classifier counts while the block it reads is in training."""

    @pytest.mark.slow
    def test_it_is_what_the_stock_network_gives_in_training(self) -> None:
        model = build_quickly("inception_v3", 5).train()
        x = torch.randn(2, 3, 299, 299)
        twin = copy.deepcopy(model)
        with torchvision_models.seed_generator(0):
            expected = twin.stock(x)
        with torchvision_models.seed_generator(0):
            logits, extra = model.outputs(x)
        assert torch.equal(logits, expected.logits)
        assert [weight for weight, _ in extra] == [0.4]
        assert torch.equal(extra[0][1], expected.aux_logits)

    @pytest.mark.slow
    def test_it_is_silent_unless_its_block_trains(self) -> None:
        model = build_quickly("inception_v3", 5).eval()
        x = torch.randn(2, 3, 299, 299)
        assert model.outputs(x)[1] == []
        model.blocks[-1].train()
        assert model.outputs(x)[1] == []
        next(block for block in model.blocks if block.name == "Mixed_6e").train()
        assert len(model.outputs(x)[1]) == 1
        start = model.names.index("Mixed_7a")
        assert model.outputs(torch.randn(2, 768, 17, 17), start)[1] == []

    def test_a_small_input_goes_without(self) -> None:
        logits, extra = (
            build_quickly("inception_v3", 5)
            .train()
            .outputs(torch.randn(2, 3, 160, 160))
        )
        assert logits.shape == (2, 5)
        assert extra == []

    def test_other_networks_have_none(self) -> None:
        logits, extra = (
            blocks.build_network("squeezenet1_1", 5)
            .train()
            .outputs(torch.randn(1, 3, 64, 64))
        )
        assert logits.shape == (1, 5)
        assert extra == []


class TestRandomWeights:
    def test_the_seed_decides_and_the_global_state_stays(self) -> None:
        torch.manual_seed(7)
        before = torch.get_rng_state()
        one, same, other = (
            state_to_save(blocks.build_network("shufflenet_v2_x0_5", 3, seed=s))
            for s in (1, 1, 2)
        )
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert not torch.equal(one["fc.weight"], other["fc.weight"])

    def test_so_for_a_new_head(self) -> None:
        source = state_to_save(blocks.build_network("shufflenet_v2_x0_5", 9))
        before = torch.get_rng_state()
        heads = []
        for seed in (1, 1, 2):
            model = blocks.build_network("shufflenet_v2_x0_5", 3, meta=True)
            blocks.load_pretrained(model, source, seed=seed)
            heads.append(model.stock.get_parameter("fc.weight"))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(heads[0], heads[1])
        assert not torch.equal(heads[0], heads[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        "squeezenet1_1",
        "densenet121",
        "mnasnet0_5",
        "inception_v3",
    ],
)
def test_pretrained_weights_all_arrive_but_the_heads(name: str, tmp_path: Path) -> None:
    source = state_to_save(blocks.build_network(name, 7, seed=1))
    save_file(source, tmp_path / "weights.safetensors")
    for meta in (True, False):
        model = blocks.build_network(name, 3, meta=meta)
        blocks.load_pretrained(model, tmp_path / "weights.safetensors")
        got, new = state_to_save(model), torchvision_models.class_dependent_names(name)
        assert all(
            torch.equal(got[key], value)
            for key, value in source.items()
            if key not in new
        )
        assert all(
            got[key].shape[0] == 3 and got[key].isfinite().all() and got[key].any()
            for key in new
        )
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_training_does_not_reach_the_weights_that_were_loaded() -> None:
    source = state_to_save(blocks.build_network("squeezenet1_1", 7))
    kept = {key: value.clone() for key, value in source.items()}
    model = blocks.build_network("squeezenet1_1", 7, meta=True)
    blocks.load_pretrained(model, source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(source[key], kept[key]) for key in kept)


def test_weights_of_another_network_are_refused_with_what_differs() -> None:
    source = state_to_save(blocks.build_network("squeezenet1_0", 3))
    source["features.3.squeeze.bias"] = torch.zeros(5)
    source["extra.weight"] = source.pop("features.4.squeeze.bias")
    model = blocks.build_network("squeezenet1_0", 3, meta=True)
    with pytest.raises(BackboneError) as caught:
        blocks.load_pretrained(model, source)
    assert caught.value.details == (
        "missing (1): features.4.squeeze.bias",
        "unexpected (1): extra.weight",
        "other shape (1): features.3.squeeze.bias is (5,), not (16,)",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "inception_v3", "mnasnet0_5"])
def test_a_finetuned_model_comes_back_exactly_and_loads_without_thaw(
    name: str, tmp_path: Path
) -> None:
    import torchvision
    from safetensors.torch import load_file

    path = tmp_path / "model.safetensors"
    model = blocks.build_network(name, 3, size=64)
    save_file(state_to_save(model), path)
    again = blocks.load_finetuned(name, 3, path)
    assert again.stock_kwargs == model.stock_kwargs
    expected = state_to_save(model)
    assert all(
        torch.equal(value, expected[key]) for key, value in state_to_save(again).items()
    )
    plain = torchvision.models.get_model(
        name, weights=None, num_classes=3, **model.stock_kwargs
    )
    assert set(plain.state_dict()) == set(load_file(path))
    with pytest.raises(BackboneError, match="other shape"):
        blocks.load_finetuned(name, 4, path)


def test_a_state_is_sorted_contiguous_and_its_file_always_the_same(
    tmp_path: Path,
) -> None:
    model = blocks.build_network("shufflenet_v2_x0_5", 3)
    model.stock.to(memory_format=torch.channels_last)
    state = state_to_save(model)
    assert list(state) == sorted(state)
    assert all(value.is_contiguous() for value in state.values())
    for file in ("one", "two"):
        save_file(state_to_save(model), tmp_path / file)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_unknown_architecture_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean resnet50"):
        blocks.build_network("resnet_50", 3)


def test_a_transformer_shown_another_size_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"task\.input\.size"):
        _small_transformer()(torch.zeros(1, 3, 48, 48))


@pytest.mark.slow
def test_maxvit_shown_another_size_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"task\.input\.size"):
        blocks.build_network("maxvit_t", 3, meta=True)(torch.zeros(1, 3, 256, 256))
    assert blocks.build_network("maxvit_t", 3, size=448, meta=True).stock_kwargs == {
        "input_size": [448, 448]
    }


@pytest.mark.parametrize(("name", "size"), [("maxvit_t", 96), ("vit_b_32", 100)])
def test_a_size_that_a_transformer_cannot_be_built_for_is_named(
    name: str, size: int
) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.size"):
        blocks.build_network(name, 3, size=size, meta=True)
