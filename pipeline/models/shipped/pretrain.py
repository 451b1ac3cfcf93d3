"""Makes the shipped weights: a stock torchvision classifier learns to name random patterns.

    python -P -m pipeline.models.shipped.pretrain --out pipeline/models/shipped --seed 0

The rate follows a warm-up and a cosine over the steps or the minutes of processor time, whichever runs out first; given
only steps, the same machine makes the same weights again. Pictures are drawn in rounds, and each round is seen a few
times, turned and mirrored anew, because drawing costs about as much as learning. The first rounds are easy and small:
a network that pools over the whole picture would otherwise take long to notice marks at all.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline import files
from pipeline.models.shipped.patterns import MARKS, OUTPUTS, TEXTURES, draw

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
FORMAT = "1"
DRAWN = 160
"""Pictures drawn at a time."""
HELD_OUT = 1 << 40
"""Seeds from here on are never trained on."""

log = logging.getLogger(__name__)


class Recipe(NamedTuple):
    """How long and on what to train.

    Attributes:
        side: pictures' side in pixels for the last sixth of the training; before, they
            have two thirds of it.
        round, passes: how many pictures are drawn at once, and how often each is seen.
        easy: share of the training over which pictures go from easy to as hard as they
            get.
        minutes, steps: the training ends with whichever runs out first; minutes are of
            processor time.
    """

    architecture: str
    seed: int = 0
    minutes: float = math.inf
    steps: int = 4400
    side: int = 96
    batch: int = 32
    round: int = 1600
    passes: int = 3
    lr: float = 2e-3
    easy: float = 0.6
    weight_decay: float = 0.02


def normalised(pictures: Tensor) -> Tensor:
    """Bytes (n, 3, side, side) as the network takes them."""
    mean = torch.tensor(MEAN).view(3, 1, 1)
    std = torch.tensor(STD).view(3, 1, 1)
    shares = pictures.float() / 255
    scaled = (shares - mean) / std
    return scaled.contiguous(memory_format=torch.channels_last)


def _turned(pictures: Tensor, random: torch.Generator) -> Tensor:
    """A whole batch turned by a quarter or not, and mirrored or not; no class changes
    by that.
    """
    quarters = torch.randint(4, (), generator=random)
    mirror = torch.randint(2, (), generator=random)
    turned = pictures.rot90(int(quarters), (2, 3))
    if mirror:
        return turned.flip(3)
    return turned


def _rounds(
    recipe: Recipe, side: int, number: int, ease: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one freshly drawn round."""
    random = torch.Generator().manual_seed((recipe.seed << 20) + number)
    parts: list[Tensor] = []
    label_parts: list[Tensor] = []
    while len(parts) * DRAWN < recipe.round:
        drawn, classes = draw(random, DRAWN, side, ease)
        parts.append(drawn)
        label_parts.append(classes)
    pictures = torch.cat(parts)
    labels = torch.cat(label_parts)
    for _ in range(recipe.passes):
        order = torch.randperm(len(labels), generator=random)
        for chosen in order.tensor_split(len(labels) // recipe.batch):
            yield _turned(pictures[chosen], random), labels[chosen]


def pretrain(recipe: Recipe) -> tuple[nn.Module, int]:
    """The trained network, in eval mode, and the steps it took."""
    model = _new_network(recipe)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    started = time.process_time()
    step = 0
    number = 0
    progress = 0.0
    sums = torch.zeros(2)
    while progress < 1:
        side = _side(recipe, progress)
        ease = max(0.0, 1 - progress / recipe.easy)
        for pictures, labels in _rounds(recipe, side, number, ease):
            minutes = (time.process_time() - started) / 60
            progress = max(step / recipe.steps, minutes / recipe.minutes)
            if progress >= 1:
                break
            optimizer.param_groups[0]["lr"] = recipe.lr * _rate(progress)
            losses = _losses(model(normalised(pictures)), labels)
            optimizer.zero_grad()
            losses.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            sums = sums + losses.detach()
            if step % 100 == 0:
                texture, mark = (sums / 100).tolist()
                log.info(
                    "step %d, side %d: texture %.3f mark %.3f",
                    step,
                    side,
                    texture,
                    mark,
                )
                sums = torch.zeros(2)
        number += 1
    return model.eval(), step


def _side(recipe: Recipe, progress: float) -> int:
    """The pictures' side: smaller ones until the last sixth of the training."""
    if progress > 5 / 6:
        return recipe.side
    return recipe.side * 2 // 3


def _new_network(recipe: Recipe) -> nn.Module:
    import torchvision

    torch.manual_seed(recipe.seed)
    model: nn.Module = torchvision.models.get_model(
        recipe.architecture, weights=None, num_classes=OUTPUTS
    )
    model.to(memory_format=torch.channels_last)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # MobileNetV3's own 0.01 lags hundreds of steps behind; the file does not
            # hold it.
            layer.momentum = 0.1
    return model


def _losses(output: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the texture and that of the mark."""
    texture, mark = output.tensor_split([len(TEXTURES)], 1)
    texture_loss = nn.functional.cross_entropy(texture, labels[:, 0])
    mark_loss = nn.functional.cross_entropy(mark, labels[:, 1])
    return torch.stack([texture_loss, mark_loss])


def _rate(progress: float) -> float:
    """Share of the peak rate: a linear warm-up over the first twentieth, then half a
    cosine.
    """
    if progress < 0.05:
        return 0.05 + 0.95 * progress / 0.05
    angle = math.pi * (progress - 0.05) / 0.95
    return 0.5 + 0.5 * math.cos(angle)


class Accuracy(NamedTuple):
    """Shares of held-out pictures whose texture and whose mark is named right."""

    texture: float
    mark: float


@torch.no_grad()
def measure(model: nn.Module, side: int, pictures: int) -> Accuracy:
    """Accuracy on pictures never trained on."""
    random = torch.Generator().manual_seed(HELD_OUT)
    right = []
    for _ in range(-(-pictures // DRAWN)):
        drawn, labels = draw(random, DRAWN, side)
        output = model(normalised(drawn))
        texture, mark = output.tensor_split([len(TEXTURES)], 1)
        predicted = torch.stack([texture.argmax(1), mark.argmax(1)], 1)
        right.append(predicted == labels)
    texture_share, mark_share = torch.cat(right).float().mean(0).tolist()
    return Accuracy(texture_share, mark_share)


def save(
    model: nn.Module, path: Path, recipe: Recipe, steps: int, accuracy: Accuracy
) -> None:
    """Write the stock state dict, floats in half precision, with what a loader must
    know as metadata.
    """
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        stored = value.half() if value.is_floating_point() else value
        state[key] = stored.contiguous()
    settings = recipe._asdict()
    settings.update(minutes=None, steps=steps)
    metadata = {
        "format_version": FORMAT,
        "architecture": recipe.architecture,
        "classes": str(OUTPUTS),
        "size": str(recipe.side),
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "made_by": "pipeline.models.shipped.pretrain",
        "task": f"{len(TEXTURES)} textures, then {len(MARKS)} marks, drawn at random",
        "recipe": json.dumps(settings),
        "held_out_accuracy": json.dumps(
            {name: round(value, 4) for name, value in accuracy._asdict().items()}
        ),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata=metadata)
    files.apply_umask(path)


def _read_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for <architecture>.safetensors"
    )
    parser.add_argument(
        "--architecture",
        default="mobilenet_v3_small",
        help="any torchvision classifier",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="of processor time"
    )
    parser.add_argument("--steps", type=int, default=Recipe._field_defaults["steps"])
    parser.add_argument(
        "--round",
        type=int,
        default=Recipe._field_defaults["round"],
        help="pictures drawn at once",
    )
    parser.add_argument(
        "--held-out",
        type=int,
        default=2048,
        help="pictures to measure accuracy on at the end",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path:
    options = _read_options(arguments)
    torch.set_num_threads(options.threads)
    recipe = Recipe(
        options.architecture,
        options.seed,
        options.minutes,
        options.steps,
        round=options.round,
    )
    model, steps = pretrain(recipe)
    accuracy = measure(model, recipe.side, options.held_out)
    log.info("%d steps; held out: %s", steps, accuracy)
    path: Path = options.out / f"{recipe.architecture}.safetensors"
    save(model, path, recipe, steps, accuracy)
    return path


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
