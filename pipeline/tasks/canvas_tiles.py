"""Tiles of pictures that are much larger than those trained on: shared by the tasks
whose truths lie on the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pipeline.config_section import TaskConfig
from pipeline.records import TileSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.modalities.image.settings import TileConfig


class TiledSettings(Protocol):
    """Settings of a task that answers large pictures in tiles."""

    @property
    def tiles(self) -> TileConfig: ...


class CanvasTiles:
    """The Tiler of pictures on a canvas.

    Args:
        settings: the task's settings as far as they concern tiles.
    """

    def __init__(self, settings: Callable[[TaskConfig], TiledSettings]) -> None:
        self._settings = settings

    def find_tiles(self, train: pa.Table, task: TaskConfig) -> TileSpec | None:
        """Tiles of the settings' side, or as large as the middle one of the training
        pictures.
        """
        import numpy as np

        tiles = self._settings(task).tiles
        if tiles.side is None:
            return None
        if tiles.side != "auto":
            return TileSpec(width=tiles.side, height=tiles.side, overlap=tiles.overlap)
        width = round(float(np.median(train["scan.width"].to_numpy())))
        height = round(float(np.median(train["scan.height"].to_numpy())))
        return TileSpec(width=width, height=height, overlap=tiles.overlap)
