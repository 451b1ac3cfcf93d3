"""The registered image classifier: answers from an image file's bytes, with nothing of
Thaw installed.

MLflow runs this file when it loads the model. Beside it lie `weights.safetensors` (a
stock torchvision state dict) and `model.json` (architecture, labels, how an image
becomes the network's input, limits), so that no pickle is needed. An image is presented
exactly as it was when the model was judged.

Input: a table with the binary column `image`, the content of one image file a row
(base64 over HTTP). Output: a table with `label`, `score` (its probability) and
`probabilities` (of every label).
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel
from PIL import Image, UnidentifiedImageError
from safetensors.torch import load_file

DECODERS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
BATCH = 32

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class Classifier(PythonModel):
    """Loads once, then answers; safe to call from several threads."""

    def load_context(self, context: Any) -> None:
        """Builds the network on `device` of the model's configuration, the processor by
        default.
        """
        import torchvision

        folder = Path(context.artifacts["model"])
        self.settings: dict[str, Any] = json.loads(
            (folder / "model.json").read_text(encoding="utf-8")
        )
        self.labels: list[str] = self.settings["labels"]
        self.device = torch.device((context.model_config or {}).get("device", "cpu"))
        with torch.random.fork_rng(devices=[]):
            network = torchvision.models.get_model(
                self.settings["architecture"],
                weights=None,
                num_classes=len(self.labels),
                **self.settings["kwargs"],
            )
        state = load_file(folder / "weights.safetensors")
        # Some networks (MNASNet) refuse a state dict that does not say which version of
        # their layout it has.
        state = type(network.state_dict())(state)
        state._metadata = network.state_dict()._metadata
        network.load_state_dict(state, strict=True)
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
        images = _column(model_input)
        parts = []
        for start in range(0, len(images), BATCH):
            parts.append(self._probabilities(images[start : start + BATCH], start))
        probabilities = np.concatenate([np.empty((0, len(self.labels))), *parts])
        if len(probabilities):
            best = probabilities.argmax(axis=1)
        else:
            best = np.empty(0, dtype=int)
        return pd.DataFrame(
            {
                "label": [self.labels[index] for index in best],
                "score": [
                    float(row[index])
                    for row, index in zip(probabilities, best, strict=True)
                ],
                "probabilities": [
                    dict(zip(self.labels, map(float, row), strict=True))
                    for row in probabilities
                ],
            }
        )

    def _probabilities(self, images: list[Any], start: int) -> np.ndarray[Any, Any]:
        spec = self.settings["input"]
        pixels = np.stack(
            [
                _row(data, start + offset, self.settings)
                for offset, data in enumerate(images)
            ]
        )
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            batch = torch.from_numpy(_normalised(pixels, spec)).to(self.device)
            result: np.ndarray[Any, Any] = (
                self.network(batch).float().softmax(dim=1).double().cpu().numpy()
            )
        return result


def _column(table: Any) -> list[Any]:
    if not isinstance(table, pd.DataFrame) or list(table.columns) != ["image"]:
        columns: list[Any] | str = type(table).__name__
        if isinstance(table, pd.DataFrame):
            columns = list(table.columns)
        raise _bad(f"the input must be a table with one column, image; found {columns}")
    return list(table["image"])


def _row(data: Any, row: int, settings: dict[str, Any]) -> np.ndarray[Any, Any]:
    """One image file's content as (resize, resize, 3) of uint8."""
    if not isinstance(data, bytes | bytearray):
        raise _bad(
            f"row {row}: image must be the file's content (base64 over HTTP), not {type(data).__name__}"
        )
    limit = settings["limits"]
    if len(data) > limit["max_bytes"]:
        raise _bad(
            f"row {row}: {len(data)} bytes; at most {limit['max_bytes']} are accepted"
        )
    try:
        with _quiet(), Image.open(io.BytesIO(data), formats=DECODERS) as image:
            width, height = image.size
            if width * height > limit["max_pixels"]:
                raise _bad(
                    f"row {row}: {width} × {height} pixels; at most {limit['max_pixels']} are accepted"
                )
            if (
                limit["single_frame"]
                and image.format != "MPO"
                and getattr(image, "is_animated", False)
            ):
                raise _bad(f"row {row}: several frames or pages; one is accepted")
            return _square(image, settings["input"])
    except MlflowException:
        raise
    except UnidentifiedImageError as fault:
        raise _bad(
            f"row {row}: not an image; accepted are {', '.join(DECODERS)}"
        ) from fault
    except Exception as fault:  # decoders raise nearly anything on broken files
        raise _bad(
            f"row {row}: not an image that can be decoded wholly ({type(fault).__name__}: {fault})"
        ) from fault


def _bad(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


@contextlib.contextmanager
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _square(image: Image.Image, spec: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Upright RGB, brought to `resize` × `resize` by cropping the centre, squashing or
    padding.
    """
    side = spec["resize"]
    fit = spec["fit"]
    resample = _RESAMPLING[spec["interpolation"]]
    turn = _orientation(image)
    # A JPEG is decoded at 1/2, 1/4 or 1/8 where that suffices.
    image.draft(None, (side, side))
    image = _rgb(image, tuple(spec["background"]))
    if turn in _UPRIGHT:
        image = image.transpose(_UPRIGHT[turn])
    width, height = image.size
    if fit == "pad":
        scale = side / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        square = Image.new("RGB", (side, side), tuple(spec["background"]))
        square.paste(
            image.resize(inner, resample),
            ((side - inner[0]) // 2, (side - inner[1]) // 2),
        )
        return np.array(square)
    short = min(width, height)
    left = (width - short) / 2
    top = (height - short) / 2
    box = None
    if fit == "crop":
        box = (left, top, left + short, top + short)
    return np.array(image.resize((side, side), resample, box=box))


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow turns these itself
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF data are no reason to refuse the pixels
        return 1


def _rgb(image: Image.Image, background: tuple[int, ...]) -> Image.Image:
    """Loaded wholly; more than 8 bits scaled, transparency laid on the background,
    anything else converted.
    """
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        low = float(values.min())
        high = float(values.max())
        if image.mode == "F" and low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        elif low >= 0 and high <= 65535:
            low, high = 0.0, 65535.0
        eight = np.clip(
            (values - low) * (255.0 / max(high - low, 1e-12)) + 0.5, 0, 255
        ).astype(np.uint8)
        return Image.fromarray(eight).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(
            Image.new("RGBA", layer.size, (*background, 255)), layer
        )
    return image.convert("RGB")


def _normalised(
    pixels: np.ndarray[Any, Any], spec: dict[str, Any]
) -> np.ndarray[Any, Any]:
    """The centre (N, size, size, 3) of uint8 as (N, 3, size, size) of float32 with the
    network's mean and spread.
    """
    margin = (spec["resize"] - spec["size"]) // 2
    cut = slice(margin, margin + spec["size"])
    centres = pixels[:, cut, cut].transpose(0, 3, 1, 2)
    planes = np.ascontiguousarray(centres, dtype=np.float32)
    mean = np.asarray(spec["mean"], dtype=np.float64)[:, None, None]
    std = np.asarray(spec["std"], dtype=np.float64)[:, None, None]
    scale = 1 / (255 * std)
    offset = mean / std
    planes *= scale.astype(np.float32)
    planes -= offset.astype(np.float32)
    return planes


set_model(Classifier())
