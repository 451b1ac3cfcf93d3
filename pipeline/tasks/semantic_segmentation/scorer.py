"""Masks: their loss, and how good answers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from pipeline.config import FinetuneConfig
    from pipeline.models.network import BlockedNetwork
    from pipeline.objectives.pixel_loss import PixelLoss
    from pipeline.objectives.pixel_targets import LabelledMasks
    from pipeline.tensors import Batch


class PixelScorer:
    """The Scorer of masks."""

    kind: Literal["pixels"] = "pixels"

    def targets(self, manifest: pa.Table, labels: Sequence[str]) -> LabelledMasks:
        """The mask of each row, by its file."""
        from pipeline.objectives.pixel_targets import LabelledMasks, parse_mask

        files = [parse_mask(target) for target in manifest.column("target").to_pylist()]
        return LabelledMasks(files, labels)

    def build_loss(
        self, config: FinetuneConfig, targets: Any, labels: Sequence[str]
    ) -> PixelLoss:
        """Cross-entropy and Dice; balanced class weights are the inverse shares of the
        classes' pixels.
        """
        from pipeline.objectives.pixel_loss import PixelLoss, balanced_weights

        if config.class_weights != "balanced":
            return PixelLoss()
        return PixelLoss(balanced_weights(targets, len(labels)))

    def answers(
        self, network: BlockedNetwork, output: Batch, targets: Any
    ) -> torch.Tensor:
        """How many pixels of each class were given which class (n, classes, classes),
        on the canvas.
        """
        import torch

        from pipeline.objectives.pixel_confusion import count_confusion
        from pipeline.tensors import single_tensor

        logits = single_tensor(output)
        classes = logits.shape[1]
        predicted = logits.argmax(dim=1).cpu().numpy()
        counts = []
        for mask, answer in zip(targets.numpy(), predicted, strict=True):
            counts.append(count_confusion(mask, answer, classes))
        return torch.stack([torch.from_numpy(one) for one in counts])

    def validation_metrics(
        self, answers: torch.Tensor, targets: Any
    ) -> dict[str, float]:
        """Mean IoU and the like of these counts (N, classes, classes)."""
        from pipeline.objectives.pixel_validation import compute_metrics

        return compute_metrics(answers.numpy())

    def answer_columns(
        self, answers: torch.Tensor, labels: Sequence[str]
    ) -> dict[str, pa.Array]:
        """`mean_iou`: over the classes that each picture has."""
        import pyarrow as pa

        from pipeline.objectives.pixel_metrics import picture_iou

        return {"mean_iou": pa.array(picture_iou(answers.numpy()))}
