"""What the contract needs to know of each task besides the task itself."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class ContractCase(NamedTuple):
    """One task's entry.

    Args:
        spoil: adds an example that cannot be used to the data folder, or spoils one
            there.
        fault: the code by which it is quarantined.
        tolerance: between what the network gives for an example alone and in a batch:
            in logits, or in pixels and scores.
    """

    spoil: Callable[[Path], None]
    fault: str
    tolerance: float = 1e-4


def _cut_an_image_short(data: Path) -> None:
    images = [*data.rglob("*.png"), *data.rglob("*.jpg")]
    image = sorted(path for path in images if "mask" not in path.parent.name.lower())[0]
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])


def _empty_a_text(data: Path) -> None:
    table = sorted(data.glob("*.csv"))[0]
    with table.open(newline="", encoding="utf-8") as stream:
        header, first, *others = csv.reader(stream)
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(
            [header, ["   ", *first[1:]], *others]
        )


CASES = {
    "image-classification": ContractCase(_cut_an_image_short, "truncated"),
    "text-classification": ContractCase(_empty_a_text, "empty"),
    "object-detection": ContractCase(_cut_an_image_short, "truncated", tolerance=1e-2),
    "semantic-segmentation": ContractCase(
        _cut_an_image_short, "truncated", tolerance=1e-3
    ),
}
