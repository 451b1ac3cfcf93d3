"""Masks as runs of pixels: small, and read without a library.

The pixels of a mask are numbered row by row from the upper left corner, from 0. A
region is the list of its runs, each as two numbers: the first pixel, and how many there
are. The first class, the background, is left out: it is what no run covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode_mask(mask: NDArray[np.uint8], labels: Sequence[str]) -> list[dict[str, Any]]:
    """A mask (H, W) as `{"label": …, "pixels": how many, "runs": [first, count, first,
    count, …]}` for each class but the first that it has.
    """
    return encode_bands([mask], labels)


def encode_bands(
    bands: Iterable[NDArray[np.uint8]], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """As `encode_mask`, of a mask that comes as bands of rows (rows, W), of which only
    one is held at a time.
    """
    found_starts = []
    found_classes = []
    length = 0
    for band in bands:
        values = band.reshape(-1)
        own_starts = np.flatnonzero(np.diff(values, prepend=values[:1] ^ 1))
        found_starts.append(own_starts + length)
        found_classes.append(values[own_starts])
        length += len(values)
    starts, classes = _join_runs(
        np.concatenate(found_starts), np.concatenate(found_classes)
    )
    counts = np.diff(starts, append=length)
    regions = []
    for number in np.unique(classes).tolist():
        if number == 0:
            continue
        chosen = classes == number
        runs = np.stack([starts[chosen], counts[chosen]], axis=1)
        regions.append(
            {
                "label": labels[number],
                "pixels": int(counts[chosen].sum()),
                "runs": runs.ravel().tolist(),
            }
        )
    return regions


def _join_runs(
    starts: NDArray[np.int64], classes: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Without those that go on with the class of the run before them, in the band
    before.
    """
    other_class = classes[:1] ^ 1  # the first run is always new
    is_new = np.diff(classes, prepend=other_class) != 0
    return starts[is_new], classes[is_new]


def decode_mask(
    regions: Sequence[Mapping[str, Any]], labels: Sequence[str], width: int, height: int
) -> NDArray[np.uint8]:
    """The mask (height, width) of regions as `encode_mask` makes them."""
    values = np.zeros(width * height, np.uint8)
    for region in regions:
        number = list(labels).index(region["label"])
        runs = np.array(region["runs"], np.int64).reshape(-1, 2)
        for first, count in runs.tolist():
            values[first : first + count] = number
    return values.reshape(height, width)
