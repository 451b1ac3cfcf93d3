"""The registered segmenter: regions of an image from its file's bytes, with nothing of
Thaw installed.

MLflow runs this file when it loads the model. Beside it lie `weights.safetensors` (the
body's and the head's), `model.json` (the network's design, labels, how an image becomes
the network's input, limits) and the modules that it loads from there, so that no pickle
is needed. An image is presented exactly as it was when the model was judged: whole, or,
where the settings have `tiles` and it is much larger than those, in tiles.

Input: a table with the binary column `image`, the content of one image file a row
(base64 over HTTP). Output: a table with `regions`: for each image a list of `{"label":
…, "pixels": how many, "runs": […]}`, one for each class but the first, the background;
`runs` are pairs of a first pixel and a number of pixels, counted from 0 row by row from
the upper left corner of the image as it is shown (turned as its EXIF data say); and
with `width` and `height` of it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class Answer(NamedTuple):
    """A row of the output."""

    regions: list[dict[str, Any]]
    width: int
    height: int


class Segmenter(PythonModel):
    """Loads once, then answers; safe to call from several threads."""

    def load_context(self, context: Any) -> None:
        """Builds the network on `device` of the model's configuration, the processor by
        default.
        """
        folder = Path(context.artifacts["model"])
        canvas_network = _load_module(folder / "canvas_network.py")
        pixel_head = _load_module(folder / "pixel_head.py")
        device = (context.model_config or {}).get("device", "cpu")
        self.network = canvas_network.CanvasNetwork(
            folder, device, pixel_head.build_head
        )
        self.canvas = _load_module(folder / "canvas.py")
        self.runs = _load_module(folder / "pixel_runs.py")
        self.settings: dict[str, Any] = self.network.settings

    def predict(
        self,
        context: Any,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """One answer a row.

        Raises:
            MlflowException: a row is no image that can be used; names the row. A server
                answers 400.
        """
        answers = self.network.answer(
            model_input, self._answer_whole, self._answer_in_tiles
        )
        return pd.DataFrame(answers, columns=list(Answer._fields))

    def _answer_whole(self, images: list[Any]) -> Iterator[Answer]:
        spec = self.settings["input"]
        logits = self._logits(np.stack([image.square for image in images]))
        for image, values in zip(images, logits, strict=True):
            width = image.width
            height = image.height
            mask = self.canvas.lift_logits(
                values, width, height, spec["size"], spec["fit"]
            )
            regions = self.runs.encode_mask(mask, self.network.labels)
            yield Answer(regions, width, height)

    def _answer_in_tiles(self, picture: Any) -> Answer:
        width, height = picture.size
        tiles = self.network.tiles
        tiling = tiles.find_tiling(width, height, self.settings["tiles"])
        bands = tiles.label_bands(picture, tiling, self._score_tiles)
        regions = self.runs.encode_bands(bands, self.network.labels)
        return Answer(regions, width, height)

    def _score_tiles(self, tiles: list[Any]) -> Iterator[np.ndarray[Any, Any]]:
        """Logits (C, height, width) of each tile, which is presented as a whole image
        is.
        """
        spec = self.settings["input"]
        squares = self.network.pixels.to_squares(tiles, spec)
        for tile, logits in zip(tiles, self._logits(squares), strict=True):
            enlarged = self.canvas.enlarge_logits(
                logits, tile.width, tile.height, spec["size"], spec["fit"]
            )
            yield enlarged.cpu().numpy()

    def _logits(self, squares: np.ndarray[Any, Any]) -> torch.Tensor:
        """(N, C, side, side) of images on the square."""
        logits: torch.Tensor = self.network.ask(squares, _score_pixels)
        return logits


def _score_pixels(head: Any, maps: list[torch.Tensor]) -> torch.Tensor:
    logits: torch.Tensor = head(maps)
    return logits


def _load_module(path: Path) -> Any:
    """A module that lies beside the weights."""
    spec = importlib.util.spec_from_file_location(f"served_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


set_model(Segmenter())
