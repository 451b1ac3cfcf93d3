"""The backbone step: whatever the source, one verified file in one form, and a record
of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import files
from pipeline.config import BackboneConfig
from pipeline.context import Context
from pipeline.errors import BackboneError
from pipeline.models.network import state_to_save
from pipeline.models.providers.torchvision import blocks
from pipeline.records import BackboneRecord
from pipeline.steps.backbone import backbone
from threads import threads


@pytest.fixture
def context(tmp_path: Path) -> Context:
    root = tmp_path / "workspace"
    root.mkdir()
    return Context(root, root / "data", root / ".thaw", root / ".thaw/runs/1/backbone")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


def run(
    context: Context, name: str, out: str = "out", **settings: Any
) -> BackboneRecord:
    folder = context.root / out
    folder.mkdir()
    return backbone(
        BackboneConfig(name=f"torchvision/{name}", **settings), folder, context
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet50", 224),
        ("inception_v3", 299),
        ("mnasnet0_5", 224),
        pytest.param("vgg16", 224, marks=[pytest.mark.full, pytest.mark.slow]),
    ],
)
def test_a_weights_file_made_locally(context: Context, name: str, size: int) -> None:
    made = state_to_save(blocks.build_network(name, 10))
    save_file(made, context.root / "local.safetensors")
    record = run(context, name, weights="local.safetensors")
    assert BackboneRecord.load(context.root / "out") == record
    assert (record.architecture, record.source, record.classes, record.input.size) == (
        name,
        "file",
        10,
        size,
    )
    assert record.blocks == tuple(blocks.build_network(name, 2, meta=True).names)
    assert record.parameters == sum(
        parameter.numel()
        for parameter in blocks.build_network(name, 10, meta=True).parameters()
    )
    assert record.sha256 == files.sha256(context.root / "local.safetensors")
    assert record.weights_sha256 == files.sha256(record.weights)
    assert str(context.root) not in (context.root / "out" / "record.json").read_text()
    written = load_file(record.weights)
    assert set(written) == set(made)
    assert all(torch.equal(written[key], made[key]) for key in made)
    model = blocks.build_network(name, 4, meta=True)
    blocks.load_pretrained(model, record.weights)


def test_the_same_weights_give_the_same_bytes_from_whatever_form(
    context: Context,
) -> None:
    made = state_to_save(blocks.build_network("shufflenet_v2_x0_5", 10))
    half = {
        key: value.half() if value.is_floating_point() else value
        for key, value in made.items()
    }
    rounded = {
        key: value.float() if value.is_floating_point() else value
        for key, value in half.items()
    }
    save_file(
        half,
        context.root / "half.safetensors",
        {"size": "64", "note": "metadata stays out of the result"},
    )
    torch.save(dict(reversed(rounded.items())), context.root / "rounded.pth")
    one = run(context, "shufflenet_v2_x0_5", "one", weights="half.safetensors")
    two = run(context, "shufflenet_v2_x0_5", "two", weights="rounded.pth")
    assert one.sha256 != two.sha256
    assert one.weights.read_bytes() == two.weights.read_bytes()
    assert (one.input.size, two.input.size) == (64, 224)


def test_weights_are_pinned_once_they_fit(context: Context) -> None:
    save_file(
        state_to_save(blocks.build_network("squeezenet1_1", 3)),
        context.root / "net.safetensors",
    )
    with pytest.raises(BackboneError, match="looks like squeezenet1_1"):
        run(context, "squeezenet1_0", "wrong", weights="net.safetensors")
    assert not (context.root / "backbone.lock").exists()
    run(context, "squeezenet1_1", "right", weights="net.safetensors")
    pinned = (context.root / "backbone.lock").read_text()
    save_file(
        state_to_save(blocks.build_network("squeezenet1_1", 3, seed=1)),
        context.root / "net.safetensors",
    )
    with pytest.raises(BackboneError, match=r"backbone\.lock"):
        run(context, "squeezenet1_1", "changed", weights="net.safetensors")
    assert not (context.root / "changed" / "weights.safetensors").exists()
    assert (context.root / "backbone.lock").read_text() == pinned


def test_the_weights_that_ship_with_thaw(context: Context) -> None:
    record = run(context, "mobilenet_v3_small", weights="shipped", offline=True)
    assert record.source == "shipped"
    assert record.input.size == record.input.resize == 96
    assert (
        "torchvision/mobilenet_v3_small shipped"
        in (context.root / "backbone.lock").read_text()
    )


@pytest.mark.real
def test_published_imagenet_weights(context: Context, real: Path) -> None:
    path = real / "weights" / "mobilenet_v2_imagenet_int8pc_dequant.pth"
    record = run(context, "mobilenet_v2", weights=str(path))
    assert record.classes == 1000
    assert record.parameters == 3_504_872
    assert record.blocks[-2:] == ("features.18", "head")
    kept = torch.load(path, map_location="cpu", weights_only=True)
    written = load_file(record.weights)
    assert all(
        torch.equal(written[key], kept[key].float())
        for key in kept
        if kept[key].is_floating_point()
    )
