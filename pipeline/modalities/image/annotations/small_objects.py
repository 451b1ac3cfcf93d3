"""Objects that are too small in the network's input to be found well."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.modalities.image.annotations.boxes import (
    AnnotatedObject,
    BoxRules,
    Picture,
    input_side,
)
from pipeline.records import Finding

# Pixels of the network's input between two places of the finest map that answers.
FINEST_STRIDE = 8
SHARE_TO_WARN = 0.1  # of a class's objects
FEWEST_TO_WARN = 5  # objects
STEP_OF_SIZES = 32
LARGEST_SIZE = 1024

PictureObjects = tuple[Picture, Sequence[AnnotatedObject]]


def find_small_objects(
    pictures: Iterable[PictureObjects], rules: BoxRules
) -> list[Finding]:
    """Names the classes of which many objects are narrower in the network's input than
    the distance between two places of its finest feature map.
    """
    sides: dict[str, list[float]] = defaultdict(list)
    for picture, objects in pictures:
        for each in objects:
            if not each.ignored:
                sides[each.label].append(input_side(each, picture, rules))
    small = {label: _count_small(values) for label, values in sides.items()}
    named = sorted(
        label
        for label, count in small.items()
        if count >= max(FEWEST_TO_WARN, SHARE_TO_WARN * len(sides[label]))
    )
    if not named:
        return []
    size = max(_suggest_size(sides[label], rules.input_side) for label in named)
    cost = (size / rules.input_side) ** 2
    described = []
    for label in named:
        described.append(f"{label}: {small[label]:,} of {len(sides[label]):,}")
    return [
        Finding(
            code="small-objects",
            severity="warning",
            subject="objects in the network's input",
            found=f"narrower than {FINEST_STRIDE} pixels of {rules.input_side}: {'; '.join(described[:5])}",
            expected=f"most objects at least {FINEST_STRIDE} pixels wide and high",
            hint=f"task.input.size: {size} shows them larger, at about {cost:.1f} times the cost of training; pictures much larger than that can be cut into tiles before",
            items=tuple(named),
        )
    ]


def _count_small(sides: Sequence[float]) -> int:
    small = [side for side in sides if side < FINEST_STRIDE]
    return len(small)


def _suggest_size(sides: Sequence[float], size: int) -> int:
    """The input size at which nine tenths of the objects are large enough, at most
    `LARGEST_SIZE`.
    """
    small_side = float(np.quantile(sides, SHARE_TO_WARN))
    wanted_size = size * FINEST_STRIDE / max(small_side, 1.0)
    steps = math.ceil(wanted_size / STEP_OF_SIZES)
    rounded = STEP_OF_SIZES * steps
    return max(size, min(rounded, LARGEST_SIZE))
