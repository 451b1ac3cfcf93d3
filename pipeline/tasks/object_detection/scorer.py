"""Boxes: their targets, their loss, and how good answers are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from pipeline.config import FinetuneConfig
    from pipeline.models.network import BlockedNetwork
    from pipeline.objectives.box_loss import BoxLoss
    from pipeline.objectives.box_targets import BoxTargets, PictureBoxes
    from pipeline.tensors import Batch


class BoxScorer:
    """The Scorer of boxes."""

    kind: Literal["boxes"] = "boxes"

    def targets(self, manifest: pa.Table, labels: Sequence[str]) -> BoxTargets:
        """The boxes of each row, in pixels of its picture.

        Raises:
            DataError: a box's label is not in the label space.
        """
        from pipeline.objectives.box_targets import BoxTargets

        return BoxTargets(read_pictures(manifest, labels))

    def build_loss(
        self, config: FinetuneConfig, targets: Any, labels: Sequence[str]
    ) -> BoxLoss:
        from pipeline.objectives.box_loss import BoxLoss

        return BoxLoss()

    def answers(
        self, network: BlockedNetwork, output: Batch, targets: Any
    ) -> torch.Tensor:
        """The boxes (n, detections, 6) on the canvas, as
        `pipeline.serving.box_head.BoxHead.detect` gives them.
        """
        from pipeline.tensors import single_tensor

        return single_tensor(output).float()

    def validation_metrics(
        self, answers: torch.Tensor, targets: Any
    ) -> dict[str, float]:
        """Mean average precision and the like of boxes on the canvas."""
        from pipeline.objectives.box_validation import compute_metrics

        return compute_metrics(answers.numpy(), targets)

    def answer_columns(
        self, answers: torch.Tensor, labels: Sequence[str]
    ) -> dict[str, pa.Array]:
        """`answer`: the boxes on the canvas as JSON, best first."""
        import pyarrow as pa

        from pipeline.objectives.box_validation import format_answer

        texts = [format_answer(answer, labels) for answer in answers.numpy()]
        return {"answer": pa.array(texts, pa.string())}


def read_pictures(manifest: pa.Table, labels: Sequence[str]) -> Iterator[PictureBoxes]:
    """The boxes of each row of a manifest, in pixels of its picture.

    Raises:
        DataError: a box's label is not in the label space.
    """
    from pipeline.objectives.box_targets import parse_boxes

    names = ("target", "scan.width", "scan.height")
    for target, width, height in zip(
        *(manifest.column(name).to_pylist() for name in names), strict=True
    ):
        try:
            yield parse_boxes(target, labels, width, height)
        except KeyError as fault:
            raise DataError(
                "labels of the manifest",
                found=str(fault.args[0]),
                expected="one of " + ", ".join(labels),
                hint="thaw run --force validate",
            ) from fault
