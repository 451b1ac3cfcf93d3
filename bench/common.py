"""What every contender of the benchmark shares: the setting they are given and the
result they leave.

A contender is a script of its own, `python bench/NAME.py SETTING.json RESULT.json`, so
that each pays for its own imports and memory. Its clock starts after the imports, and
everything between raw image files and the last validation counts.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn


@dataclasses.dataclass(frozen=True)
class Setting:
    """The same for all contenders.

    Args:
        data: a folder with train/ and val/, a folder for each class in both.
        weights: a stock state dict of `architecture`, .pth or .safetensors.
        size, resize: the network's input side, and the shorter side before the centre
            crop, in pixels.
        epochs: of each contender by name.
    """

    data: str
    architecture: str
    weights: str
    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    epochs: dict[str, int]
    threads: int
    seed: int
    scratch: str
    config: dict[str, Any]

    @property
    def labels(self) -> list[str]:
        return sorted(folder.name for folder in (Path(self.data) / "train").iterdir())


@dataclasses.dataclass
class Result:
    """What a contender came to.

    Args:
        marks: (seconds since the start, training images shown, validation accuracy)
            after each epoch.
        examples: of the validation set.
        seconds: in all, from raw files to the end.
        images: training images shown in all.
        parts: where the seconds went, as far as the contender knows.
    """

    name: str
    marks: list[tuple[float, int, float]]
    examples: int
    seconds: float
    images: int
    parts: dict[str, Any] = dataclasses.field(default_factory=dict)


class StepClock:
    """Collects a contender's marks."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.images = 0
        self.marks: list[tuple[float, int, float]] = []

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def mark(self, accuracy: float) -> None:
        self.marks.append((self.seconds, self.images, accuracy))

    def result(self, name: str, examples: int, **parts: Any) -> Result:
        return Result(name, self.marks, examples, self.seconds, self.images, parts)


def given() -> Setting:
    """The setting named on the command line; torch gets its threads and its seed."""
    setting = Setting(**json.loads(Path(sys.argv[1]).read_text()))
    torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.seed)
    return setting


def leave(results: Sequence[Result]) -> None:
    """Writes the results where the command line says."""
    Path(sys.argv[2]).write_text(
        json.dumps([dataclasses.asdict(result) for result in results], indent=1)
    )


def printed_laps(printed: str) -> dict[str, float]:
    """Where a command's seconds went, as `--timings` printed it."""
    line = next(
        line for line in reversed(printed.splitlines()) if "starting Python" in line
    )
    return {
        name.strip(): float(seconds)
        for name, seconds in re.findall(r"([A-Za-z ]+) ([\d.]+) s", line)
    }


def pretrained(setting: Setting) -> nn.Module:
    """The stock network with its pretrained weights and its own head."""
    path = Path(setting.weights)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = {
            k: v.float() if v.is_floating_point() else v
            for k, v in load_file(path).items()
        }
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    last = list(
        torchvision.models.get_model(setting.architecture, weights=None).state_dict()
    )[-1]
    classes = state[last].shape[0]  # safetensors keeps tensors in an order of its own
    network: nn.Module = torchvision.models.get_model(
        setting.architecture, weights=None, num_classes=classes
    )
    network.load_state_dict(state)
    return network


def last_layer(network: nn.Module) -> tuple[nn.Module, str, nn.Linear]:
    """The layer whose outputs are the classes: its parent, its name there, and itself."""
    path, layer = [
        (name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear)
    ][-1]
    parent, _, name = path.rpartition(".")
    return network.get_submodule(parent), name, layer
