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
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from safetensors.torch import load_file
from torch import nn


class Answer(NamedTuple):
    """A row of the output."""

    regions: list[dict[str, Any]]
    width: int
    height: int


class Network(nn.Module):
    """Body and head, by the names that their weights have."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head


class Segmenter(PythonModel):
    """Loads once, then answers; safe to call from several threads."""

    def load_context(self, context: Any) -> None:
        """Builds the network on `device` of the model's configuration, the processor by
        default.
        """
        folder = Path(context.artifacts["model"])
        self.settings: dict[str, Any] = json.loads(
            (folder / "model.json").read_text(encoding="utf-8")
        )
        self.labels: list[str] = self.settings["labels"]
        self.device = torch.device((context.model_config or {}).get("device", "cpu"))
        self.pixels = _load_module(folder / "image_pixels.py")
        self.requests = _load_module(folder / "image_requests.py")
        self.canvas = _load_module(folder / "canvas.py")
        self.feature_maps = _load_module(folder / "feature_maps.py")
        self.runs = _load_module(folder / "pixel_runs.py")
        self.tiles = _load_module(folder / "tiles.py")
        pixel_head = _load_module(folder / "pixel_head.py")
        design = self.settings["design"]
        with torch.random.fork_rng(devices=[]):
            network = Network(
                self.feature_maps.build_body(design),
                pixel_head.build_head(len(self.labels), design),
            )
        network.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
        self.network = network.eval().to(self.device)

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
        contents = self.requests.image_column(model_input)
        answers = self.requests.answer_images(
            contents, self._open, self._answer_whole, self._answer_in_tiles
        )
        return pd.DataFrame(answers, columns=list(Answer._fields))

    def _open(self, content: Any, row: int) -> Any:
        return self.requests.open_image(
            content, row, self.settings, self.pixels, self.tiles
        )

    def _answer_whole(self, images: list[Any]) -> Iterator[Answer]:
        spec = self.settings["input"]
        logits = self._logits(np.stack([image.square for image in images]))
        for image, values in zip(images, logits, strict=True):
            mask = self.canvas.lift_logits(
                values, image.width, image.height, spec["size"], spec["fit"]
            )
            yield Answer(
                self.runs.encode_mask(mask, self.labels), image.width, image.height
            )

    def _answer_in_tiles(self, picture: Any) -> Answer:
        tiling = self.tiles.find_tiling(
            picture.width, picture.height, self.settings["tiles"]
        )
        bands = self.tiles.label_bands(picture, tiling, self._score_tiles)
        return Answer(
            self.runs.encode_bands(bands, self.labels), picture.width, picture.height
        )

    def _score_tiles(self, tiles: list[Any]) -> Iterator[np.ndarray[Any, Any]]:
        """Logits (C, height, width) of each tile, which is presented as a whole image
        is.
        """
        spec = self.settings["input"]
        for tile, logits in zip(
            tiles, self._logits(self.pixels.to_squares(tiles, spec)), strict=True
        ):
            enlarged = self.canvas.enlarge_logits(
                logits, tile.width, tile.height, spec["size"], spec["fit"]
            )
            yield enlarged.cpu().numpy()

    def _logits(self, squares: np.ndarray[Any, Any]) -> torch.Tensor:
        """(N, C, side, side) of images on the square."""
        batch = torch.from_numpy(self.pixels.normalise(squares, self.settings["input"]))
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            body = self.network.body(batch.to(self.device))
            maps = self.feature_maps.order_maps(body, self.settings["design"]["maps"])
            logits: torch.Tensor = self.network.head(maps)
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
