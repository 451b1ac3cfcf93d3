"""The networks of the textbooks, through the command a user types, from a weights file
made here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from commands import Thaw
from pipeline.data.sample import generate
from pipeline.records import BackboneRecord, FinetuneRecord

pytestmark = [pytest.mark.slow, pytest.mark.full]

SETTINGS = {
    "epochs: 15": "epochs: 3",
    "views: 8": "views: 1",
    'baseline: "first"': 'baseline: "never"',
    "worst: 12": "worst: 0",
}


@pytest.mark.parametrize(
    ("name", "size", "extra"),
    [
        ("resnet50", 224, {}),
        ("vgg16", 224, {}),
        ("inception_v3", 299, {"init_weights": False}),
    ],
)
def test_a_large_backbone_is_fine_tuned_by_the_same_command(
    name: str, size: int, extra: dict[str, bool], tmp_path: Path, thaw: Thaw
) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, **extra)
    save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
    generate(tmp_path / "photographs", parts=32)
    place = tmp_path / "place"
    thaw(
        "init",
        place,
        "--data",
        tmp_path / "photographs",
        "--backbone",
        f"torchvision/{name}",
        "--weights",
        tmp_path / f"{name}.safetensors",
        "--recipe",
        "gradual",
        cwd=tmp_path,
    )
    params = place / "params.yaml"
    text = params.read_text()
    for old, new in {
        **SETTINGS,
        "table: null": "table: metadata.csv",
        "min_per_class: 10": "min_per_class: 3",
    }.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    params.write_text(text)
    done = thaw("run", cwd=place)
    backbone = BackboneRecord.load(place / "artifacts/backbone")
    candidate = FinetuneRecord.load(place / "artifacts/finetune").candidate()
    assert backbone.input.size == candidate.input.size == size
    assert [stage.name for stage in candidate.stages] == ["head", "top", "deep"]
    assert all(stage.freeze_digest for stage in candidate.stages[:2])
    assert candidate.steps >= 6
    trained = [len(stage.trained) for stage in candidate.stages]
    assert trained == sorted(trained)
    assert re.search(r"registered as place v1 \(challenger", done.stdout)
