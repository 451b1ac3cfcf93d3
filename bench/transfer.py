"""Does the shipped backbone pay on the sample?

    python -P bench/transfer.py --seeds 5 --json docs/transfer.json

The same network, split, epochs, batches and turns of the pictures, three ways: all of it from scratch, all of it from
the shipped weights, and only a new last layer on the shipped weights. Nothing of Thaw's engine is used, so that the
weights alone are judged. Each seed deals the parts anew into train and test (by part, per class), and seeds everything
else; the rates were picked on a seed that is not reported.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from scipy import stats
from torch import Tensor, nn

from pipeline.data.sample import generate
from pipeline.models import shipped

log = logging.getLogger(__name__)

RATES = {"scratch": 3e-3, "full": 1e-3, "head": 1e-2}
"""Peak rates. Scratch has the better of 1e-3 and 3e-3 on one deal that is not reported; the others were not tuned."""


class Data(NamedTuple):
    pictures: Tensor  # (n, 3, 96, 96) as the network takes them
    labels: Tensor
    groups: list[str]
    lighting: list[str]


class WeightsContent(NamedTuple):
    architecture: str
    classes: int
    state: dict[str, Tensor]
    mean: list[float]
    std: list[float]


class Result(NamedTuple):
    way: str
    seed: int
    accuracy: float
    dim: float
    other: float
    seconds: float


def read_weights(path: Path) -> WeightsContent:
    with safe_open(path, "pt") as file:
        about = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in state.items()
    }
    return WeightsContent(
        about["architecture"],
        int(about["classes"]),
        state,
        json.loads(about["mean"]),
        json.loads(about["std"]),
    )


def read_data(folder: Path, weights: WeightsContent) -> Data:
    generate(folder)
    rows = list(csv.DictReader((folder / "metadata.csv").read_text().splitlines()))
    pixels = torch.from_numpy(
        np.stack([np.asarray(Image.open(folder / row["path"])) for row in rows])
    )
    mean, std = (
        torch.tensor(weights.mean).view(3, 1, 1),
        torch.tensor(weights.std).view(3, 1, 1),
    )
    pictures = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
    names = sorted({row["label"] for row in rows})
    labels = torch.tensor([names.index(row["label"]) for row in rows])
    return Data(
        pictures,
        labels,
        [row["group"] for row in rows],
        [row["lighting"] for row in rows],
    )


def assign_splits(data: Data, seed: int, share: float = 0.3) -> tuple[Tensor, Tensor]:
    """Row numbers of train and test; a part is wholly in one, and every class is cut at
    the same share.
    """
    random = np.random.default_rng(seed)
    label_of = dict(zip(data.groups, data.labels.tolist(), strict=True))
    held = set()
    for label in range(int(data.labels.max()) + 1):
        parts = [group for group, its in label_of.items() if its == label]
        held.update(random.permutation(parts)[: round(len(parts) * share)].tolist())
    test = torch.tensor([group in held for group in data.groups])
    return (~test).nonzero()[:, 0], test.nonzero()[:, 0]


def network(weights: WeightsContent, labels: int, pretrained: bool) -> nn.Module:
    """The stock network with a new last layer for `labels` classes."""
    if not pretrained:
        fresh: nn.Module = torchvision.models.get_model(
            weights.architecture, weights=None, num_classes=labels
        )
        return fresh.to(memory_format=torch.channels_last)
    model: nn.Module = torchvision.models.get_model(
        weights.architecture, weights=None, num_classes=weights.classes
    )
    model.load_state_dict(weights.state)
    name, last = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ][-1]
    parent = model.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], nn.Linear(last.in_features, labels))
    return model.to(memory_format=torch.channels_last)


def turned(pictures: Tensor, random: torch.Generator) -> Tensor:
    quarters, mirror = (int(torch.randint(n, (), generator=random)) for n in (4, 2))
    pictures = pictures.rot90(quarters, (2, 3))
    return (pictures.flip(3) if mirror else pictures).contiguous(
        memory_format=torch.channels_last
    )


def train(
    way: str,
    data: Data,
    rows: Tensor,
    weights: WeightsContent,
    seed: int,
    epochs: int,
    lr: float,
) -> nn.Module:
    torch.manual_seed(seed)
    model = network(weights, int(data.labels.max()) + 1, pretrained=way != "scratch")
    parameters = list(model.parameters())
    if way == "head":
        last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
        model.requires_grad_(False)
        parameters = list(last.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    steps = epochs * -(-len(rows) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=0.15
    )
    random = torch.Generator().manual_seed(seed)
    model.train(way != "head")
    for layer in batchnorms(model) if way == "full" else []:
        # The pretrained statistics are better than those of a few small batches.
        layer.eval()
    for _ in range(epochs):
        for batch in rows[torch.randperm(len(rows), generator=random)].split(32):
            output = model(turned(data.pictures[batch], random))
            loss = nn.functional.cross_entropy(
                output, data.labels[batch], label_smoothing=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    if way == "scratch":
        remeasure(model, data, rows)
    return model.eval()


def batchnorms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


@torch.no_grad()
def remeasure(model: nn.Module, data: Data, rows: Tensor) -> None:
    """Average BatchNorm's statistics over the training set.

    A few hundred steps are too few for running averages as slow as MobileNetV3's;
    without this, training from scratch would look worse than it is.
    """
    for layer in batchnorms(model):
        layer.reset_running_stats()
        layer.momentum = None
    for batch in rows[torch.randperm(len(rows))].split(32):
        model(data.pictures[batch])


@torch.no_grad()
def right(model: nn.Module, data: Data, rows: Tensor) -> Tensor:
    return torch.cat(
        [
            model(data.pictures[batch]).argmax(1) == data.labels[batch]
            for batch in rows.split(64)
        ]
    ).float()


def run(
    way: str, data: Data, weights: WeightsContent, seed: int, epochs: int, lr: float
) -> Result:
    rows, test = assign_splits(data, seed)
    started = time.monotonic()
    model = train(way, data, rows, weights, seed, epochs, lr)
    seconds = time.monotonic() - started
    hits = right(model, data, test)
    dim = torch.tensor([data.lighting[row] == "dim" for row in test.tolist()])
    return Result(
        way,
        seed,
        float(hits.mean()),
        float(hits[dim].mean()),
        float(hits[~dim].mean()),
        seconds,
    )


def interval(values: list[float]) -> str:
    """Mean and 95 % interval over seeds (Student's t)."""
    half = (
        stats.t.ppf(0.975, len(values) - 1)
        * statistics.stdev(values)
        / len(values) ** 0.5
        if len(values) > 1
        else 0.0
    )
    return f"{statistics.mean(values):.1%} ± {half:.1%}"


def table(results: list[Result]) -> str:
    columns: dict[str, Callable[[Result], float]] = {
        "accuracy": lambda r: r.accuracy,
        "dim lighting": lambda r: r.dim,
        "other lighting": lambda r: r.other,
    }
    lines = [
        "| way | " + " | ".join(columns) + " | seconds |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    for way in RATES:
        of = [result for result in results if result.way == way]
        cells = [interval([pick(result) for result in of]) for pick in columns.values()]
        lines.append(
            f"| {way} | "
            + " | ".join(cells)
            + f" | {statistics.mean(r.seconds for r in of):.0f} |"
        )
    pairs = {
        way: {r.seed: r.accuracy for r in results if r.way == way} for way in RATES
    }
    gap = [pairs["full"][seed] - pairs["scratch"][seed] for seed in pairs["full"]]
    return "\n".join([*lines, "", f"full − scratch, paired by seed: {interval(gap)}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=next(Path(shipped.__path__[0]).glob("*.safetensors"), None),
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="where the sample is or goes; default: a temporary folder",
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--ways", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--lr", type=float, help="instead of each way's own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights = read_weights(options.weights)
    with tempfile.TemporaryDirectory() as scratch:
        data = read_data(options.data or Path(scratch) / "sample", weights)
    results = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for way in options.ways:
            results.append(
                run(way, data, weights, seed, options.epochs, options.lr or RATES[way])
            )
            log.info("%s", results[-1])
    if set(options.ways) == set(RATES):
        log.info(table(results))
    if options.json:
        about = {
            "machine": f"{platform.machine()}, {options.threads} threads",
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "architecture": weights.architecture,
            "epochs": options.epochs,
            "rates": RATES,
            "results": [result._asdict() for result in results],
        }
        options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
