"""An image as the report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.tasks.base import Exhibit

SHOWN = 320  # pixels: the longer side of a picture in the report


class ImageDisplay:
    """The Display of images: small JPEGs."""

    measured_slices: tuple[str, ...] = ()

    def exhibit(
        self, example: Mapping[str, Any], data: Path, folder: Path, name: str
    ) -> Exhibit:
        """A JPEG of at most 320 pixels a side.

        Raises:
            DataError: the file is missing or cannot be decoded wholly.
        """
        # Takes pyarrow, which a run with nothing to do has no use for.
        from pipeline.manifest import real_path
        from pipeline.modalities.image.decoding import open_rgb

        image = open_rgb(real_path(data, example["path"]), draft=(SHOWN, SHOWN))
        image.thumbnail((SHOWN, SHOWN))
        image.save(folder / f"{name}.jpg", quality=82, optimize=True)
        return Exhibit("picture", f"{name}.jpg")
