"""Frozen blocks in fewer operations: the same function, the network's own modules
untouched, and nothing assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.models.providers.torchvision import fused
from pipeline.models.providers.torchvision.blocks import (
    SequentialBlock,
    TorchvisionNetwork,
)
from pipeline.models.providers.torchvision.forward_steps import Step
from quick_weights import build_quickly

NORMED = [
    "densenet121",
    "efficientnet_b0",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "shufflenet_v2_x0_5",
    pytest.param("vgg11_bn", marks=pytest.mark.slow),
]
SIDES = {"inception_v3": 80, "vgg11_bn": 224}


def network(name: str) -> TorchvisionNetwork:
    """As if it had seen data, so that every norm does something."""
    model = build_quickly(name, 3).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return model


def images(side: int = 64, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def normed() -> Iterator[Callable[[TorchvisionNetwork], list[str]]]:
    """Has norms remember that they ran; returns the names of those that did."""
    ran: list[nn.Module] = []
    handles = []

    def watch(model: TorchvisionNetwork) -> list[str]:
        if not handles:
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    handles.append(
                        module.register_forward_hook(
                            lambda module, *_: ran.append(module)
                        )
                    )
        names = [
            name
            for name, module in model.stock.named_modules()
            if any(module is r for r in ran)
        ]
        ran.clear()
        return names

    yield watch
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", NORMED)
@pytest.mark.parametrize("activations", [False, True])
def test_fused_blocks_give_what_the_blocks_give(name: str, activations: bool) -> None:
    model, stop = network(name), -1
    x = images(SIDES.get(name, 64))
    with torch.inference_mode():
        expected = model.run(x, 0, stop)
        model.fuse(
            images(x.shape[-1], 1), [len(model.blocks) + stop], activations=activations
        )
        found = model.run(x, 0, stop)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert not torch.equal(found, expected), "nothing was fused"


def test_no_norm_runs_in_a_fused_prefix_and_all_of_them_behind_it(
    normed: Callable[[TorchvisionNetwork], list[str]],
) -> None:
    model = network("resnet18")
    model.fuse(images(), [5], activations=True)
    normed(model)
    model(images())
    below = tuple(f"{path}." for block in model.blocks[5:] for path in block.owns)
    every = [
        name
        for name, module in model.stock.named_modules()
        if isinstance(module, _BatchNorm)
    ]
    assert normed(model) == [name for name in every if name.startswith(below)] != []


def test_the_network_itself_stays_as_it_was(
    normed: Callable[[TorchvisionNetwork], list[str]],
) -> None:
    model, x = network("mobilenet_v2"), images()
    with torch.inference_mode():
        expected = model(x)
    before = {name: tensor.clone() for name, tensor in model.stock.state_dict().items()}
    parameters = [id(parameter) for parameter in model.parameters()]
    normed(model)
    model.fuse(x, [len(model.blocks) - 1], activations=True)
    assert all(
        torch.equal(tensor, before[name])
        for name, tensor in model.stock.state_dict().items()
    )
    assert [id(parameter) for parameter in model.parameters()] == parameters
    model.unfuse()
    with torch.inference_mode():
        assert torch.equal(model(x), expected)
    assert normed(model)


def test_what_trains_behind_the_prefix_gets_its_gradients() -> None:
    model, x = network("resnet18"), images()
    stop = len(model.blocks) - 2
    for block in model.blocks[:stop]:
        block.requires_grad_(False)
    model.fuse(x, [stop], activations=True)
    logits, _ = model.outputs(x)
    logits.sum().backward()  # type: ignore[no-untyped-call]
    assert all(
        p.grad is not None for block in model.blocks[stop:] for p in block.parameters()
    )
    assert all(
        p.grad is None for block in model.blocks[:stop] for p in block.parameters()
    )


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_input_is_as_broken_behind_the_prefix(
    activations: bool, broken: float
) -> None:
    """A fused ReLU alone makes 0 of NaN: the training would go on with an example that
    means nothing.
    """
    model, x = network("resnet18"), images()
    model.fuse(x, [len(model.blocks) - 1], activations=activations)
    x[1, 0, 5, 5] = broken
    with torch.inference_mode():
        assert model(x).isfinite().all(dim=1).tolist() == [True, False]


# --- blocks that must stay as they are ------------------------------------------------
class Unit(nn.Module):
    """A convolution, its norm, and what a test has happen between and after them."""

    def __init__(
        self, way: Callable[[Unit, Tensor], Tensor], norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(3)
        if getattr(self.norm, "running_mean", None) is not None:
            nn.init.constant_(self.norm.running_mean, 0.5)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def one(*units: nn.Module) -> TorchvisionNetwork:
    """A network of one block, or of a block for each unit."""
    model = TorchvisionNetwork.__new__(TorchvisionNetwork)
    nn.Module.__init__(model)
    named = {f"unit{n}": unit for n, unit in enumerate(units)}
    model.stock = nn.ModuleDict(named)
    model.blocks = [
        SequentialBlock(name, [Step(name, unit, (name,))], model.stock)
        for name, unit in named.items()
    ]
    model.unfuse()
    return model


def plain(unit: Unit, x: Tensor) -> Tensor:
    result: Tensor = unit.norm(unit.conv(x)).relu()
    return result


def by_type(unit: Unit, x: Tensor) -> Tensor:
    return (
        unit.norm(unit.conv(x))
        if isinstance(x, Tensor)
        else unit.norm(unit.conv(x)) + 1
    )


def by_value(unit: Unit, x: Tensor) -> Tensor:
    return unit.norm(unit.conv(x)) if x.sum() > 0 else unit.conv(x)


def used_twice(unit: Unit, x: Tensor) -> Tensor:
    y = unit.conv(x)
    return unit.norm(y) + y


def run_twice(unit: Unit, x: Tensor) -> Tensor:
    return unit.norm(unit.conv(unit.conv(x)))


def norm_first(unit: Unit, x: Tensor) -> Tensor:
    return unit.conv(unit.norm(x))


def test_a_unit_of_the_usual_form_is_fused() -> None:
    model = one(Unit(plain)).eval()
    model.fuse(images(8), [1])
    assert model._segments[0].calls[0] is not model.blocks[0]


@pytest.mark.parametrize(
    "unit",
    [
        Unit(by_type),
        Unit(by_value),
        Unit(used_twice),
        Unit(run_twice),
        Unit(norm_first),
        Unit(plain, nn.BatchNorm2d(3, track_running_stats=False)),
        Unit(plain, nn.GroupNorm(1, 3)),
    ],
    ids=[
        "branches by type",
        "branches by value",
        "output used twice",
        "convolution run twice",
        "norm first",
        "norm by the batch",
        "another norm",
    ],
)
def test_what_cannot_be_fused_safely_runs_as_it_did(unit: Unit) -> None:
    model, x = one(unit).eval(), images(8)
    with torch.inference_mode():
        expected = model.run(x)
        model.fuse(x, [1])
        assert torch.equal(model.run(x), expected)
    assert model._segments[0].calls[0] is model.blocks[0]


def test_one_block_that_cannot_be_fused_does_not_hold_up_the_others(
    normed: Callable[[TorchvisionNetwork], list[str]],
) -> None:
    model, x = one(Unit(plain), Unit(by_value), Unit(plain)).eval(), images(8)
    with torch.inference_mode():
        expected = model.run(x)
        normed(model)
        model.fuse(x, [3])
        normed(model)
        torch.testing.assert_close(model.run(x), expected)
    assert normed(model) == ["unit1.norm"]
    assert model._segments[0].calls[1] is model.blocks[1]


def test_only_the_whole_prefix_runs_fused() -> None:
    model, x = network("resnet18"), images()
    model.fuse(x, [5], activations=True)
    with torch.inference_mode():
        halfway = model.run(x, 0, 3)
        assert torch.equal(
            halfway, model.blocks[2](model.blocks[1](model.blocks[0](x)))
        )
        torch.testing.assert_close(
            model.run(halfway, 3, 6), model.run(x, 0, 6), rtol=1e-3, atol=1e-4
        )


def test_a_norm_in_training_is_left_alone() -> None:
    model, x = one(Unit(plain)), images(8)
    model.fuse(x, [1])
    assert model._segments[0].calls[0] is model.blocks[0]


def test_a_convolution_padded_with_its_own_edge_is_left_alone() -> None:
    unit = Unit(plain)
    unit.conv = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
    model, x = one(unit).eval(), images(8)
    with torch.inference_mode():
        expected = model.run(x)
        model.fuse(x, [1], activations=True)
        assert torch.equal(model.run(x), expected)


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish(), nn.GELU(), nn.Sigmoid()],
)
def test_an_activation_fused_or_not_is_the_same_one(activation: nn.Module) -> None:
    model, x = one(nn.Sequential(nn.Conv2d(3, 5, 1), activation)).eval(), 4 * images(8)
    with torch.inference_mode():
        expected = model.run(x)
        model.fuse(x[:1], [1], activations=True)
        assert torch.allclose(model.run(x), expected, rtol=1e-4, atol=1e-5)
    known = isinstance(activation, (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish))
    assert (model._segments[0].calls[0] is not model.blocks[0]) == known


def test_agreement_is_of_shape_and_values() -> None:
    x = images(4)
    assert fused.is_equivalent(lambda x: 1.0001 * x, x, x)
    assert not fused.is_equivalent(lambda x: 1.1 * x, x, x)
    assert not fused.is_equivalent(lambda x: x[:1], x, x)
    assert not fused.is_equivalent(lambda x: x * float("nan"), x, x)
    assert not fused.is_equivalent(lambda x: x @ torch.ones(7), x, x)
