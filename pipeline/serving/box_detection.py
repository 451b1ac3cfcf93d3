"""The registered detector: boxes from an image file's bytes, with nothing of Thaw
installed.

MLflow runs this file when it loads the model. Beside it lie `weights.safetensors` (the
body's and the head's), `model.json` (the network's design, labels, how an image becomes
the network's input, limits) and the modules that it loads from there, so that no pickle
is needed. An image is presented exactly as it was when the model was judged: whole, or,
where the settings have `tiles` and it is much larger than those, in tiles.

Input: a table with the binary column `image`, the content of one image file a row
(base64 over HTTP). Output: a table with `objects`: for each image a list of `{"label":
…, "score": …, "box": [left, top, right, bottom]}`, the surest first, in pixels of the
image as it is shown (turned as its EXIF data say); and with `width` and `height` of it.
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

SCORE, CLASS = 4, 5


class Answer(NamedTuple):
    """A row of the output."""

    objects: list[dict[str, Any]]
    width: int
    height: int


class Detector(PythonModel):
    """Loads once, then answers; safe to call from several threads."""

    def load_context(self, context: Any) -> None:
        """Builds the network on `device` of the model's configuration, the processor by
        default.
        """
        folder = Path(context.artifacts["model"])
        canvas_network = _load_module(folder / "canvas_network.py")
        box_head = _load_module(folder / "box_head.py")
        device = (context.model_config or {}).get("device", "cpu")
        self.network = canvas_network.CanvasNetwork(folder, device, box_head.BoxHead)
        self.canvas = _load_module(folder / "canvas.py")
        self.box_tiles = _load_module(folder / "box_tiles.py")
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
        squares = np.stack([image.square for image in images])
        answers = self._detect(squares)
        for image, answer in zip(images, answers, strict=True):
            lifted = self._lift(answer, image.width, image.height)
            yield Answer(self._describe(lifted), image.width, image.height)

    def _answer_in_tiles(self, picture: Any) -> Answer:
        width, height = picture.size
        tiles = self.network.tiles
        tiling = tiles.find_tiling(width, height, self.settings["tiles"])
        tile_boxes = tiles.answer_tiles(picture, tiling, self._detect_in_tiles)
        most_overlap = self.settings["design"]["overlap_threshold"]
        boxes = self.box_tiles.merge_boxes(
            tile_boxes, tiling, width, height, most_overlap
        )
        return Answer(self._describe(boxes), width, height)

    def _detect_in_tiles(self, tiles: list[Any]) -> Iterator[np.ndarray[Any, Any]]:
        """The boxes (k, 6) of each tile, which is presented as a whole image is, in the
        tile's own pixels.
        """
        squares = self.network.pixels.to_squares(tiles, self.settings["input"])
        answers = self._detect(squares)
        for tile, answer in zip(tiles, answers, strict=True):
            yield self._lift(answer, tile.width, tile.height)

    def _detect(self, squares: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(N, detections, 6) of images on the square."""
        detections = self.network.ask(squares, _detect_objects)
        answers: np.ndarray[Any, Any] = detections.double().cpu().numpy()
        return answers

    def _lift(
        self, answer: np.ndarray[Any, Any], width: int, height: int
    ) -> np.ndarray[Any, Any]:
        """The boxes (k, 6) of an answer in the image's pixels, without unused places."""
        spec = self.settings["input"]
        used = answer[answer[:, SCORE] >= 0]
        lifted: np.ndarray[Any, Any] = self.canvas.lift(
            used, width, height, spec["size"], spec["fit"]
        )
        return lifted

    def _describe(self, boxes: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
        shown = boxes[boxes[:, SCORE] >= self.settings["least_score"]]
        described = []
        for values in shown.tolist():
            corners = [round(value, 2) for value in values[:SCORE]]
            described.append(
                {
                    "label": self.network.labels[int(values[CLASS])],
                    "score": values[SCORE],
                    "box": corners,
                }
            )
        return described


def _detect_objects(head: Any, maps: list[torch.Tensor]) -> torch.Tensor:
    detected: torch.Tensor = head.detect(head.merge(maps))
    return detected


def _load_module(path: Path) -> Any:
    """A module that lies beside the weights."""
    spec = importlib.util.spec_from_file_location(f"served_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


set_model(Detector())
