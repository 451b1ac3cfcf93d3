"""The registered image classifier: answers from an image file's bytes, with nothing of
Thaw installed.

MLflow runs this file when it loads the model. Beside it lie `weights.safetensors` (a
stock torchvision state dict), `model.json` (architecture, labels, how an image becomes
the network's input, limits) and the modules that it loads from there, so that no pickle
is needed. An image is presented exactly as it was when the model was judged.

Input: a table with the binary column `image`, the content of one image file a row
(base64 over HTTP). Output: a table with `label`, `score` (its probability) and
`probabilities` (of every label).
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

BATCH = 32


class Classifier(PythonModel):
    """Loads once, then answers; safe to call from several threads."""

    def load_context(self, context: Any) -> None:
        """Builds the network on `device` of the model's configuration, the processor by
        default.
        """
        folder = Path(context.artifacts["model"])
        self.pixels = _load_module(folder / "image_pixels.py")
        self.requests = _load_module(folder / "image_requests.py")
        self.answers = _load_module(folder / "class_answers.py")
        text = (folder / "model.json").read_text(encoding="utf-8")
        self.settings: dict[str, Any] = json.loads(text)
        self.labels: list[str] = self.settings["labels"]
        self.device = torch.device((context.model_config or {}).get("device", "cpu"))
        network = self._build_network(folder / "weights.safetensors")
        self.network = network.eval().to(self.device)

    def _build_network(self, weights: Path) -> torch.nn.Module:
        import torchvision

        with torch.random.fork_rng(devices=[]):
            network: torch.nn.Module = torchvision.models.get_model(
                self.settings["architecture"],
                weights=None,
                num_classes=len(self.labels),
                **self.settings["kwargs"],
            )
        # Some networks (MNASNet) refuse a state dict that does not say which version of
        # their layout it has.
        own: Any = network.state_dict()
        state: Any = type(own)(load_file(weights))
        state._metadata = own._metadata
        network.load_state_dict(state, strict=True)
        return network

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
        parts = [np.empty((0, len(self.labels)))]
        for start in range(0, len(contents), BATCH):
            squares: list[np.ndarray[Any, Any]] = []
            for row in range(start, min(start + BATCH, len(contents))):
                opened = self.requests.open_image(
                    contents[row], row, self.settings, self.pixels
                )
                squares.append(opened.square)
            parts.append(self._probabilities(np.stack(squares)))
        table: pd.DataFrame = self.answers.to_table(self.labels, np.concatenate(parts))
        return table

    def _probabilities(self, squares: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(N, classes) of images on the square (N, side, side, 3)."""
        normalised = self.pixels.normalise(squares, self.settings["input"])
        batch = torch.from_numpy(normalised).to(self.device)
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            logits = self.network(batch).float()
            probabilities = logits.softmax(dim=1).double().cpu()
        found: np.ndarray[Any, Any] = probabilities.numpy()
        return found


def _load_module(path: Path) -> Any:
    """A module that lies beside the weights."""
    spec = importlib.util.spec_from_file_location(f"served_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


set_model(Classifier())
