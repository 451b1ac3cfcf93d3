"""Pictures as a square canvas: the codec shared by the tasks whose truths lie on the
picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.config_section import TaskConfig
from pipeline.records import image_spec
from pipeline.tasks.base import ExampleStore, RandomDraw, StoreLimits

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from pipeline.context import Console
    from pipeline.modalities.image.settings import CanvasSettings
    from pipeline.records import BackboneRecord, ImageInputSpec, InputSpec
    from pipeline.tensors import Batch

CHANNELS = 3


class CanvasCodec:
    """The Codec of pictures on a canvas: decoded once as uint8 pixels of its size.

    Args:
        name: part of the key of the decoded store.
        settings: the task's settings as far as they concern pictures.
        usual_side: pixels of the canvas where the settings leave it open.
    """

    def __init__(
        self,
        name: str,
        settings: Callable[[TaskConfig], CanvasSettings],
        usual_side: int,
    ) -> None:
        self.name = name
        self._settings = settings
        self._usual_side = usual_side

    def input_spec(self, task: TaskConfig, backbone: BackboneRecord) -> InputSpec:
        """The backbone's own normalisation, on a canvas of the settings' size."""
        settings = self._settings(task)
        side = self.side(task)
        changes = {
            "size": side,
            "resize": side,
            "fit": settings.input.fit,
            "background": settings.intake.background,
        }
        return image_spec(backbone.input).model_copy(update=changes)

    def side(self, task: TaskConfig) -> int:
        """Pixels a side of the canvas."""
        stated = self._settings(task).input.size
        return self._usual_side if stated == "auto" else stated

    def bytes_per_example(self, task: TaskConfig) -> int:
        return CHANNELS * self.side(task) ** 2

    def open_store(
        self,
        spec: InputSpec,
        examples: pa.Table,
        data: Path,
        network_files: Path,
        limits: StoreLimits,
        console: Console,
    ) -> ExampleStore:
        """The decoded pixels; see `pipeline.data.decoded_store.open_store`."""
        from pipeline.modalities.image.pixel_store import open_pixels

        return open_pixels(
            self,
            image_spec(spec),
            examples,
            data,
            limits.scratch,
            limits.gigabytes,
            console,
        )

    def shape(self, spec: ImageInputSpec) -> tuple[int, ...]:
        """Height, width, channels of a decoded picture."""
        return (spec.size, spec.size, CHANNELS)

    def decode(self, path: Path, spec: ImageInputSpec) -> NDArray[np.uint8]:
        """An image file as RGB values on the canvas.

        Raises:
            DataError: the file is missing or cannot be decoded wholly.
        """
        from pipeline.modalities.image.decoding import decode_square

        return decode_square(path, spec)

    def prepare(
        self,
        decoded: Batch,
        spec: InputSpec,
        task: TaskConfig,
        draws: Sequence[RandomDraw] | None,
    ) -> torch.Tensor:
        """(N, S, S, 3) of uint8 as (N, 3, S, S) of float32, normalised; see
        `pipeline.modalities.image.augmentation`.
        """
        from pipeline.modalities.image import augmentation
        from pipeline.tensors import single_tensor

        pixels = single_tensor(decoded)
        if draws is None:
            return augmentation.prepare_plain(pixels, image_spec(spec))
        return augmentation.prepare_augmented(
            pixels, image_spec(spec), self._settings(task).augment, draws
        )
