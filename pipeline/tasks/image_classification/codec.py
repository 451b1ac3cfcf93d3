"""Image files as the network's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.config_section import TaskConfig
from pipeline.records import image_spec
from pipeline.tasks.base import ExampleStore, RandomDraw, StoreLimits
from pipeline.tasks.image_classification.settings import image_settings

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from pipeline.context import Console
    from pipeline.records import BackboneRecord, ImageInputSpec, InputSpec
    from pipeline.tensors import Batch


USUAL_SIDE = 256  # pixels, of a decoded image whose size the backbone gives
CHANNELS = 3


class ImageCodec:
    """The Codec of images: decoded once as uint8 pixels of one shape.

    Args:
        name: the task's; part of the key of the decoded store.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def input_spec(self, task: TaskConfig, backbone: BackboneRecord) -> InputSpec:
        """The backbone's own presentation, at the side and with the fit that the
        settings ask for.

        A squashed or padded image is brought to the network's side at once: the margin
        that a centre crop cuts off would be part of the picture.
        """
        settings = image_settings(task)
        own = image_spec(backbone.input)
        size = own.size if settings.input.size == "auto" else settings.input.size
        resize = size
        if settings.input.fit == "crop":
            resize = max(size, round(size * own.resize / own.size))
        return own.model_copy(
            update={
                "size": size,
                "resize": resize,
                "fit": settings.input.fit,
                "background": settings.intake.background,
            }
        )

    def bytes_per_example(self, task: TaskConfig) -> int:
        settings = image_settings(task)
        side = USUAL_SIDE if settings.input.size == "auto" else settings.input.size
        return CHANNELS * side * side

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
        """Height, width, channels of a decoded image."""
        return (spec.resize, spec.resize, 3)

    def decode(self, path: Path, spec: ImageInputSpec) -> NDArray[np.uint8]:
        """An image file as `resize` × `resize` RGB values.

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
        """(N, resize, resize, 3) of uint8 as (N, 3, size, size) of float32, normalised;
        see `pipeline.modalities.image.augmentation`.

        What comes of an example depends on its pixels and its draw alone, to the bit.
        Channels lie last in memory.
        """
        from pipeline.modalities.image import augmentation
        from pipeline.tensors import single_tensor

        if draws is None:
            return augmentation.prepare_plain(single_tensor(decoded), image_spec(spec))
        return augmentation.prepare_augmented(
            single_tensor(decoded),
            image_spec(spec),
            image_settings(task).augment,
            draws,
        )
