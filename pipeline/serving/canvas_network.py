"""The network of a registered detector or segmenter, with what presents images to it:
built from the files that it was saved as.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

BuildHead = Callable[[int, Mapping[str, Any]], nn.Module]
# To what a body's maps are, from fine to coarse, the head's answers.
AskHead = Callable[[Any, list[Tensor]], Tensor]


class BodyAndHead(nn.Module):
    """By the names that their weights have."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head


class CanvasNetwork:
    """Body and head of a registered model, and the modules beside its weights.

    Args:
        folder: of `weights.safetensors`, `model.json` and those modules.
        device: that the network runs on.
        build_head: builds the head, given the number of classes and the design.
    """

    def __init__(self, folder: Path, device: str, build_head: BuildHead) -> None:
        text = (folder / "model.json").read_text(encoding="utf-8")
        self.settings: dict[str, Any] = json.loads(text)
        self.labels: list[str] = self.settings["labels"]
        self.pixels = load_module(folder / "image_pixels.py")
        self.requests = load_module(folder / "image_requests.py")
        self.tiles = load_module(folder / "tiles.py")
        self._feature_maps = load_module(folder / "feature_maps.py")
        self._device = torch.device(device)
        weights = load_file(folder / "weights.safetensors")
        self._network = self._build(build_head, weights)

    def _build(
        self, build_head: BuildHead, weights: Mapping[str, Tensor]
    ) -> BodyAndHead:
        design = self.settings["design"]
        with torch.random.fork_rng(devices=[]):
            body = self._feature_maps.build_body(design)
            network = BodyAndHead(body, build_head(len(self.labels), design))
        network.load_state_dict(weights, strict=True)
        return network.eval().to(self._device)

    def ask(self, squares: np.ndarray[Any, Any], ask_head: AskHead) -> Tensor:
        """The head's answers to images on the square (N, side, side, 3)."""
        normalised = self.pixels.normalise(squares, self.settings["input"])
        batch = torch.from_numpy(normalised).to(self._device)
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            named = self._network.body(batch)
            maps = self._feature_maps.order_maps(named, self.settings["design"]["maps"])
            return ask_head(self._network.head, maps)

    def answer(
        self,
        table: pd.DataFrame,
        answer_whole: Callable[[list[Any]], Iterable[Any]],
        answer_in_tiles: Callable[[Any], Any],
    ) -> list[Any]:
        """The answers to a table's images, in order.

        Args:
            answer_whole: answers opened images that are shown whole.
            answer_in_tiles: answers one picture that is too large for that.

        Raises:
            MlflowException: a row is no image that can be used; names the row.
        """
        contents = self.requests.image_column(table)
        answers: list[Any] = self.requests.answer_images(
            contents, self._open, answer_whole, answer_in_tiles
        )
        return answers

    def _open(self, content: Any, row: int) -> Any:
        return self.requests.open_image(
            content, row, self.settings, self.pixels, self.tiles
        )


def load_module(path: Path) -> Any:
    """A module that lies beside the weights."""
    spec = importlib.util.spec_from_file_location(f"served_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
