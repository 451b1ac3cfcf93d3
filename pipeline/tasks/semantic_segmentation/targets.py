"""Masks on their way to the loss: decoded once on the canvas, and moved with every view."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.records import digest, image_spec
from pipeline.tasks.semantic_segmentation.settings import segmentation_settings

if TYPE_CHECKING:
    from pipeline.config_section import TaskConfig
    from pipeline.context import Console
    from pipeline.modalities.image.annotations.settings import MaskValues
    from pipeline.objectives.base import Targets
    from pipeline.objectives.pixel_targets import StoredMasks
    from pipeline.records import ImageInputSpec, InputSpec
    from pipeline.tasks.base import RandomDraw, StoreLimits


class MaskTargetCodec:
    """The TargetCodec of masks."""

    def open(
        self, targets: Targets, spec: InputSpec, task: TaskConfig, data: Path, limits: StoreLimits, console: Console
    ) -> StoredMasks:
        """The masks decoded on the canvas, by the nearest pixel; kept like pictures, by content, values and labels."""
        from pipeline.data.decoded_store import open_store
        from pipeline.manifest import real_path
        from pipeline.objectives.pixel_targets import LabelledMasks, StoredMasks
        from pipeline.tensors import single_tensor

        assert isinstance(targets, LabelledMasks)
        decoder = MaskDecoder(segmentation_settings(task).masks.values, targets.labels)
        rows = [(file.md5, real_path(data, file.path)) for file in targets.files]
        store = open_store(decoder, image_spec(spec), rows, limits.scratch, limit_gb=limits.gigabytes, console=console)

        def read(chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
            masks: NDArray[np.uint8] = single_tensor(store.batch(chosen)).numpy()
            return masks

        return StoredMasks(np.arange(len(rows)), read)

    def read(self, path: Path, task: TaskConfig, labels: Sequence[str]) -> NDArray[np.uint8]:
        """A mask file (H, W) in its own pixels.

        Raises:
            DataError: it cannot be decoded wholly.
        """
        from pipeline.modalities.image.annotations.masks import decode_mask

        return decode_mask(path, segmentation_settings(task).masks.values, labels)

    def place(self, targets: Targets, spec: InputSpec, task: TaskConfig, draws: Sequence[RandomDraw] | None) -> Targets:
        """The masks (n, S, S) as the draws move them."""
        import torch

        from pipeline.modalities.image.canvas import move_masks
        from pipeline.objectives.pixel_targets import StoredMasks

        assert isinstance(targets, StoredMasks)
        moved = move_masks(targets.load(), image_spec(spec), segmentation_settings(task).augment, draws)
        return torch.from_numpy(moved)


class MaskDecoder:
    """Decodes masks for the store of decoded files.

    Args:
        values: which pixel values stand for which class.
        labels: the label space, in order.
    """

    def __init__(self, values: MaskValues, labels: Sequence[str]) -> None:
        self.name = f"mask {digest(values, list(labels))[:16]}"
        self._values = values
        self._labels = tuple(labels)

    def shape(self, spec: ImageInputSpec) -> tuple[int, ...]:
        """Height and width of the canvas."""
        return (spec.size, spec.size)

    def decode(self, path: Path, spec: ImageInputSpec) -> NDArray[np.uint8]:
        """The class of each pixel of the canvas; what a padded canvas has around the picture does not count."""
        from pipeline.modalities.image.annotations.masks import decode_mask
        from pipeline.modalities.image.canvas import lay_mask

        return lay_mask(decode_mask(path, self._values, self._labels), spec)
