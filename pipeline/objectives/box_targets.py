"""Boxes as targets: a different number for each picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class PictureBoxes:
    """The truth of one picture.

    Args:
        boxes: (M, 4) left, top, right, bottom in pixels, right and bottom behind the
            last.
        labels: (M,) number of the class.
        ignored: (M,) whether a box is neither trained on nor counted.
        width, height: of the picture that the boxes lie on, in pixels.
        seed: of what is drawn at random where the picture is trained on.
    """

    boxes: Boxes
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    width: int
    height: int
    seed: int = 0

    @property
    def trained(self) -> PictureBoxes:
        """Without the ignored boxes."""
        kept = ~self.ignored
        if kept.all():
            return self
        return PictureBoxes(
            self.boxes[kept],
            self.labels[kept],
            self.ignored[kept],
            self.width,
            self.height,
            self.seed,
        )


class BoxTargets:
    """The truths of some pictures, in order."""

    def __init__(self, pictures: Iterable[PictureBoxes]) -> None:
        self.pictures = list(pictures)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, rows: Any) -> BoxTargets:
        """The targets of a slice, or of positions (n,)."""
        if isinstance(rows, slice):
            return BoxTargets(self.pictures[rows])
        return BoxTargets(self.pictures[int(row)] for row in rows)


def parse_boxes(
    text: str, labels: Sequence[str], width: int, height: int
) -> PictureBoxes:
    """The boxes that a manifest's target says.

    Args:
        text: JSON: `{"boxes": [{"box": [left, top, right, bottom], "label": NAME},
            …]}`, with `"ignored": true` for those that do not count.
        labels: the label space, in order.

    Raises:
        KeyError: a label is not in the label space.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    corners = []
    classes = []
    ignored = []
    for stated_box in json.loads(text)["boxes"]:
        corners.append(stated_box["box"])
        classes.append(numbers[stated_box["label"]])
        ignored.append(stated_box.get("ignored", False))
    return PictureBoxes(
        np.array(corners, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(ignored, np.bool_),
        width,
        height,
    )
