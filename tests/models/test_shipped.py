"""The shipped weights are small, stock and as their card says, and the script that made
them still does.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import pipeline.models.shipped
from pipeline.models.shipped import patterns, pretrain

FOLDER = Path(pipeline.models.shipped.__path__[0])
REPOSITORY = FOLDER.parents[2]
FILES = sorted(FOLDER.glob("*.safetensors"))
KEYS = {
    "format_version",
    "architecture",
    "classes",
    "size",
    "mean",
    "std",
    "made_by",
    "task",
    "recipe",
}


def load(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """The stock network with the weights of a file, in eval mode, and the file's
    metadata.
    """
    import torchvision

    with safe_open(path, "pt") as file:
        about = file.metadata()
        state: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    model = torchvision.models.get_model(
        about["architecture"], weights=None, num_classes=int(about["classes"])
    )
    model.load_state_dict(
        {
            key: value.float() if value.is_floating_point() else value
            for key, value in state.items()
        }
    )
    return model.eval(), about


def test_one_file_ships() -> None:
    assert len(FILES) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_is_small_and_says_what_a_loader_must_know(path: Path) -> None:
    assert path.stat().st_size <= 4_000_000
    _, about = load(path)
    assert set(about) >= KEYS
    assert about["architecture"] == path.stem
    assert int(about["size"]) == 96
    assert len(json.loads(about["mean"])) == len(json.loads(about["std"])) == 3
    assert int(about["classes"]) == patterns.OUTPUTS


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_weights_know_the_patterns_they_were_trained_on(path: Path) -> None:
    model, about = load(path)
    claimed = json.loads(about["held_out_accuracy"])
    found = pretrain.measure(model, int(about["size"]), 320)
    assert found.texture == pytest.approx(claimed["texture"], abs=0.1)
    assert found.mark == pytest.approx(claimed["mark"], abs=0.1)
    assert found.mark > 3 / len(patterns.MARKS), (
        "the weights are hardly better than chance"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_card_is_about_this_very_file(path: Path) -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    assert "pipeline.models.shipped.pretrain" in card


def test_patterns_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    one, labels = patterns.draw(torch.Generator().manual_seed(3), 40, 48)
    again, _ = patterns.draw(torch.Generator().manual_seed(3), 40, 48)
    other, _ = patterns.draw(torch.Generator().manual_seed(4), 40, 48)
    assert one.shape == (40, 3, 48, 48)
    assert one.dtype == torch.uint8
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert labels.min() == 0
    assert labels[:, 0].max() < len(patterns.TEXTURES)
    assert labels[:, 1].max() < len(patterns.MARKS)


@pytest.mark.parametrize("number", range(1, len(patterns.MARKS)))
def test_every_mark_is_to_be_seen(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    strokes, widths, _ = patterns.MARKS[number]
    monkeypatch.setattr(patterns, "TEXTURES", (patterns.plain,))

    def drawn(half_width: tuple[float, float]) -> Tensor:
        monkeypatch.setattr(patterns, "MARKS", ((strokes, half_width, 0.0),))
        return patterns.draw(torch.Generator().manual_seed(0), 16, 64)[0].float()

    changed = ((drawn(widths) - drawn((0, 0))).abs().amax(1) > 8).flatten(1).sum(1)
    assert int((changed > 10).sum()) >= 12  # of 16; some are meant to be faint


@pytest.mark.slow
def test_a_short_pretraining_ends_in_a_file_that_loads_and_repeats(
    tmp_path: Path,
) -> None:
    threads = torch.get_num_threads()
    options = [
        "--steps",
        "4",
        "--round",
        "160",
        "--held-out",
        "160",
        "--threads",
        str(threads),
    ]
    one = pretrain.main(["--out", str(tmp_path / "one"), *options])
    two = pretrain.main(["--out", str(tmp_path / "two"), *options])
    first, about = load(one)
    second, _ = load(two)
    assert json.loads(about["recipe"])["steps"] == 4
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.slow
def test_pretraining_ends_when_its_minutes_are_over(tmp_path: Path) -> None:
    options = [
        "--minutes",
        "0.001",
        "--round",
        "160",
        "--held-out",
        "160",
        "--threads",
        str(torch.get_num_threads()),
    ]
    _, about = load(pretrain.main(["--out", str(tmp_path), *options]))
    assert json.loads(about["recipe"])["steps"] < 10


@pytest.mark.full
def test_transfer_benchmark_runs(tmp_path: Path) -> None:
    options = [
        "--seeds",
        "2",
        "--epochs",
        "1",
        "--threads",
        "2",
        "--json",
        str(tmp_path / "transfer.json"),
    ]
    command = [
        sys.executable,
        "-P",
        str(REPOSITORY / "bench" / "transfer.py"),
        *options,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "transfer.json").read_text())["results"]
    assert {(result["way"], result["seed"]) for result in results} == {
        (way, seed) for way in ("scratch", "full", "head") for seed in (0, 1)
    }
