"""Masks on their way to the loss: decoded once on the canvas, and moved with every
view.
"""

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
    from pipeline.objectives.pixel_targets import MaskFile, StoredMasks
    from pipeline.records import ImageInputSpec, InputSpec
    from pipeline.tasks.base import RandomDraw, StoreLimits


class MaskTargetCodec:
    """The TargetCodec of masks."""

    def open(
        self,
        targets: Targets,
        spec: InputSpec,
        task: TaskConfig,
        data: Path,
        limits: StoreLimits,
        console: Console,
    ) -> StoredMasks:
        """The masks decoded on the canvas, by the nearest pixel; kept like pictures, by
        content, values and labels.
        """
        from pipeline.data.decoded_store import open_store
        from pipeline.manifest import real_path
        from pipeline.objectives.pixel_targets import LabelledMasks, StoredMasks
        from pipeline.tensors import single_tensor

        assert isinstance(targets, LabelledMasks)
        image = image_spec(spec)
        decoder = MaskDecoder(segmentation_settings(task).masks.values, targets.labels)
        has_file = np.array([bool(file.path) for file in targets.files], dtype=bool)
        rows = [
            (file.md5, real_path(data, file.path))
            for file in targets.files
            if file.path
        ]
        row_of = np.cumsum(has_file) - 1  # of a mask with a file, its row of the store
        store = open_store(
            decoder,
            image,
            rows,
            limits.scratch,
            limit_gb=limits.gigabytes,
            console=console,
        )

        def read(chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
            masks = np.empty((len(chosen), *decoder.shape(image)), np.uint8)
            stored = has_file[chosen]
            masks[stored] = single_tensor(store.batch(row_of[chosen[stored]])).numpy()
            for place in np.flatnonzero(~stored):
                masks[place] = decoder.lay_background(
                    targets.files[chosen[place]].size, image
                )
            return masks

        return StoredMasks(np.arange(len(targets)), read)

    def read(
        self, file: MaskFile, data: Path, task: TaskConfig, labels: Sequence[str]
    ) -> NDArray[np.uint8]:
        """A mask (H, W) in its picture's own pixels.

        Raises:
            DataError: it cannot be decoded wholly.
        """
        from pipeline.manifest import real_path
        from pipeline.modalities.image.annotations.masks import (
            background_mask,
            decode_mask,
        )

        values = segmentation_settings(task).masks.values
        if not file.path:
            return background_mask(*file.size, values, labels)
        return decode_mask(real_path(data, file.path), values, labels)

    def place(
        self,
        targets: Targets,
        spec: InputSpec,
        task: TaskConfig,
        draws: Sequence[RandomDraw] | None,
    ) -> Targets:
        """The masks (n, S, S) as the draws move them."""
        import torch

        from pipeline.modalities.image.canvas import move_masks
        from pipeline.objectives.pixel_targets import StoredMasks

        assert isinstance(targets, StoredMasks)
        moved = move_masks(
            targets.load(), image_spec(spec), segmentation_settings(task).augment, draws
        )
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
        """The class of each pixel of the canvas; what a padded canvas has around the
        picture does not count.
        """
        from pipeline.modalities.image.annotations.masks import decode_mask
        from pipeline.modalities.image.canvas import lay_mask

        return lay_mask(decode_mask(path, self._values, self._labels), spec)

    def lay_background(
        self, size: tuple[int, int], spec: ImageInputSpec
    ) -> NDArray[np.uint8]:
        """The canvas (S, S) of a picture of this width and height that is background
        everywhere.
        """
        from pipeline.modalities.image.annotations.masks import background_mask
        from pipeline.modalities.image.canvas import lay_mask

        return lay_mask(background_mask(*size, self._values, self._labels), spec)
