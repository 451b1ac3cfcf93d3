"""The registered detector: boxes from an image file's bytes, with nothing of Thaw installed.

MLflow runs this file when it loads the model. Beside it lie `weights.safetensors` (the body's and the head's), `model.json`
(the network's design, labels, how an image becomes the network's input, limits) and the modules that it loads from there,
so that no pickle is needed. An image is presented exactly as it was when the model was judged.

Input: a table with the binary column `image`, the content of one image file a row (base64 over HTTP).
Output: a table with `objects`: for each image a list of `{"label": …, "score": …, "box": [left, top, right, bottom]}`, the
surest first, in pixels of the image as it is shown (turned as its EXIF data say); and with `width` and `height` of it.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from safetensors.torch import load_file
from torch import nn

BATCH = 8
SCORE, CLASS = 4, 5


class Network(nn.Module):
    """Body and head, by the names that their weights have."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head


class Detector(PythonModel):
    """Loads once, then answers; safe to call from several threads."""

    def load_context(self, context: Any) -> None:
        """Builds the network on `device` of the model's configuration, the processor by default."""
        folder = Path(context.artifacts["model"])
        self.settings: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.labels: list[str] = self.settings["labels"]
        self.device = torch.device((context.model_config or {}).get("device", "cpu"))
        self.pixels = _load_module(folder / "image_pixels.py")
        self.requests = _load_module(folder / "image_requests.py")
        self.canvas = _load_module(folder / "canvas.py")
        self.feature_maps = _load_module(folder / "feature_maps.py")
        box_head = _load_module(folder / "box_head.py")
        design = self.settings["design"]
        with torch.random.fork_rng(devices=[]):
            network = Network(self.feature_maps.build_body(design), box_head.BoxHead(len(self.labels), design))
        network.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
        self.network = network.eval().to(self.device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One answer a row.

        Raises:
            MlflowException: a row is no image that can be used; names the row. A server answers 400.
        """
        images = self.requests.image_column(model_input)
        found: dict[str, list[Any]] = {"objects": [], "width": [], "height": []}
        for start in range(0, len(images), BATCH):
            opened = []
            for offset, content in enumerate(images[start : start + BATCH]):
                opened.append(self.requests.open_image(content, start + offset, self.settings, self.pixels))
            for image, answer in zip(opened, self._detect(opened), strict=True):
                found["objects"].append(self._describe(answer, image.width, image.height))
                found["width"].append(image.width)
                found["height"].append(image.height)
        return pd.DataFrame(found)

    def _detect(self, opened: list[Any]) -> np.ndarray[Any, Any]:
        spec = self.settings["input"]
        batch = torch.from_numpy(self.pixels.normalise(np.stack([one.square for one in opened]), spec))
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            body = self.network.body(batch.to(self.device))
            maps = self.feature_maps.order_maps(body, self.settings["design"]["maps"])
            head: Any = self.network.head
            answers: np.ndarray[Any, Any] = head.detect(head.merge(maps)).double().cpu().numpy()
        return answers

    def _describe(self, answer: np.ndarray[Any, Any], width: int, height: int) -> list[dict[str, Any]]:
        spec = self.settings["input"]
        shown = answer[answer[:, SCORE] >= self.settings["least_score"]]
        lifted = self.canvas.lift(shown, width, height, spec["size"], spec["fit"])
        described = []
        for values in lifted.tolist():
            corners = [round(value, 2) for value in values[:SCORE]]
            described.append({"label": self.labels[int(values[CLASS])], "score": values[SCORE], "box": corners})
        return described


def _load_module(path: Path) -> Any:
    """A module that lies beside the weights."""
    spec = importlib.util.spec_from_file_location(f"served_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


set_model(Detector())
