"""Image classification: one image, one label of a closed set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError, TrainingError
from pipeline.tasks.base import ColumnExpectation, ExampleFault, ExampleListing, MeasuredExample, RandomDraw

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from pipeline.config import DataConfig, TaskConfig
    from pipeline.models.blocks import BlockedModel
    from pipeline.records import BackboneRecord, InputSpec

SHOWN = 320  # pixels: the longer side of a picture in the report


class ImageClassification:
    """The Task of telling which of the label space's classes an image shows."""

    name = "image-classification"

    def read(self, root: Path, data: DataConfig) -> ExampleListing:
        from pipeline.data import sources

        return sources.read(root, data)

    def scan(self, root: Path, path: str, task: TaskConfig) -> MeasuredExample | ExampleFault:
        from pipeline.tasks import image_measure

        return image_measure.measure(root, path, task.intake)

    def expectations(self, task: TaskConfig) -> Sequence[ColumnExpectation]:
        from pipeline.tasks import image_measure

        return image_measure.expectations(task.intake)

    def input(self, task: TaskConfig, backbone: BackboneRecord) -> InputSpec:
        """The backbone's own presentation, at the side and with the fit that the settings ask for.

        A squashed or padded image is brought to the network's side at once: the margin that a centre crop cuts off
        would be part of the picture.
        """
        own = backbone.input
        size = own.size if task.input.size == "auto" else task.input.size
        resize = size if task.input.fit != "crop" else max(size, round(size * own.resize / own.size))
        return own.model_copy(
            update={
                "size": size, "resize": resize, "fit": task.input.fit, "background": task.intake.background,
            }
        )  # fmt: skip

    def shape(self, spec: InputSpec) -> tuple[int, ...]:
        """Height, width, channels."""
        return (spec.resize, spec.resize, 3)

    def decode(self, path: Path, spec: InputSpec) -> NDArray[np.uint8]:
        """An image file as `resize` × `resize` RGB values.

        Raises:
            DataError: the file is missing or cannot be decoded wholly.
        """
        from PIL import Image

        from pipeline.tasks.image_files import open_rgb

        side = spec.resize
        image = open_rgb(path, background=spec.background, draft=(side, side))
        resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[spec.interpolation]
        if spec.fit == "pad":
            scale = side / max(image.size)
            width, height = (max(1, round(length * scale)) for length in image.size)
            square = Image.new("RGB", (side, side), spec.background)
            square.paste(image.resize((width, height), resample), ((side - width) // 2, (side - height) // 2))
        else:
            square = image.resize((side, side), resample, box=_centre(image.size) if spec.fit == "crop" else None)
        return np.array(square)

    def prepare(
        self, decoded: torch.Tensor, spec: InputSpec, task: TaskConfig, draws: Sequence[RandomDraw] | None
    ) -> torch.Tensor:
        """(N, resize, resize, 3) of uint8 as (N, 3, size, size) of float32, normalised; see `pipeline.tasks.augment`.

        What comes of an example depends on its pixels and its draw alone, to the bit. Channels lie last in memory.
        """
        from pipeline.tasks import augment

        if draws is None:
            return augment.plain(decoded, spec)
        return augment.augmented(decoded, spec, task.augment, draws)

    def targets(self, manifest: pa.Table, labels: Sequence[str]) -> torch.Tensor:
        """Class indices (N,), int64, by name.

        Raises:
            DataError: a row's label is not in the label space.
        """
        import torch

        index = {label: position for position, label in enumerate(labels)}
        names = manifest.column("target").to_pylist()
        strange = sorted({name for name in names if name not in index})
        if strange:
            raise DataError(
                "labels of the manifest", found=", ".join(strange), expected="one of " + ", ".join(labels),
                hint="thaw run --force validate",
            )  # fmt: skip
        return torch.tensor([index[name] for name in names], dtype=torch.int64)

    def build(
        self, backbone: BackboneRecord, labels: Sequence[str], *, pretrained: bool = True, seed: int = 0
    ) -> BlockedModel:
        from pipeline.models import blocks

        model = blocks.build(backbone.architecture, len(labels), size=backbone.input.size, meta=pretrained, seed=seed)
        if pretrained:
            blocks.load_pretrained(model, backbone.weights, seed=seed)
        return model

    def probabilities(self, output: torch.Tensor) -> torch.Tensor:
        """Softmax over the classes, in float32 whatever the network computed in.

        Raises:
            TrainingError: the output is not (N, classes).
        """
        if output.ndim != 2:
            raise TrainingError(
                "output of the network", found=f"shape {tuple(output.shape)}", expected="(examples, classes)"
            )
        return output.float().softmax(dim=1)

    def show(self, path: Path, folder: Path, name: str) -> str:
        """A JPEG of at most 320 pixels a side.

        Raises:
            DataError: the file is missing or cannot be decoded wholly.
        """
        from pipeline.tasks.image_files import open_rgb

        image = open_rgb(path, draft=(SHOWN, SHOWN))
        image.thumbnail((SHOWN, SHOWN))
        image.save(folder / f"{name}.jpg", quality=82, optimize=True)
        return f"{name}.jpg"


def _centre(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest centred square of an image: left, top, right, bottom."""
    width, height = size
    side = min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)
