"""Masks as targets: files, and the masks decoded of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IGNORED = 255  # in a mask: no class

Masks = NDArray[np.uint8]


class MaskFile(NamedTuple):
    """A mask as the manifest names it.

    Args:
        path: below the data folder; "" where there is no file and the picture is
            background everywhere.
        md5: of the file's content.
        size: width and height in pixels of a picture without a file.
    """

    path: str
    md5: str
    size: tuple[int, int] = (0, 0)


class LabelledMasks:
    """The masks of some pictures, in order, as the manifest names them.

    Args:
        labels: the label space, in order: what a mask's values are read as.
    """

    def __init__(self, files: Sequence[MaskFile], labels: Sequence[str]) -> None:
        self.files = list(files)
        self.labels = tuple(labels)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Any) -> LabelledMasks:
        """The masks of a slice, or of positions (n,)."""
        if isinstance(rows, slice):
            return LabelledMasks(self.files[rows], self.labels)
        chosen = [self.files[int(row)] for row in rows]
        return LabelledMasks(chosen, self.labels)


class StoredMasks:
    """The masks of some pictures, in order, decoded when they are read.

    Args:
        rows: (N,) of the store.
        read: gives the masks (n, S, S) of rows (n,).
    """

    def __init__(
        self, rows: NDArray[np.int64], read: Callable[[NDArray[np.int64]], Masks]
    ) -> None:
        self.rows = rows
        self._read = read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> StoredMasks:
        """The masks of a slice, or of positions (n,)."""
        return StoredMasks(self.rows[rows], self._read)

    def load(self) -> Masks:
        """(N, S, S): the class of each pixel, 255 where it does not count."""
        return self._read(self.rows)


def parse_mask(text: str) -> MaskFile:
    """The mask that a manifest's target names: `{"mask": PATH, "md5": DIGEST}`, or
    without a file `{"background": [WIDTH, HEIGHT]}`.
    """
    stated = json.loads(text)
    if "background" in stated:
        width, height = stated["background"]
        return MaskFile("", "", (width, height))
    return MaskFile(stated["mask"], stated["md5"])
