"""One class of a closed set for each example: shared by the tasks that have such
targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import DataError, TrainingError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from pipeline.config import FinetuneConfig
    from pipeline.models.network import BlockedNetwork
    from pipeline.objectives.class_loss import ClassLoss
    from pipeline.tensors import Batch


class ClassScorer:
    """The Scorer of class targets."""

    kind: Literal["classes"] = "classes"

    def targets(self, manifest: pa.Table, labels: Sequence[str]) -> torch.Tensor:
        """Class indices (N,), int64, by name.

        Raises:
            DataError: a row's label is not in the label space.
        """
        import torch

        index = {label: position for position, label in enumerate(labels)}
        names = manifest.column("target").to_pylist()
        unknown = sorted({name for name in names if name not in index})
        if unknown:
            raise DataError(
                "labels of the manifest",
                found=", ".join(unknown),
                expected="one of " + ", ".join(labels),
                hint="thaw run --force validate",
            )
        return torch.tensor([index[name] for name in names], dtype=torch.int64)

    def probabilities(self, output: torch.Tensor) -> torch.Tensor:
        """Softmax over the classes, in float32 whatever the network computed in.

        Raises:
            TrainingError: the output is not (N, classes).
        """
        if output.ndim != 2:
            raise TrainingError(
                "output of the network",
                found=f"shape {tuple(output.shape)}",
                expected="(examples, classes)",
            )
        return output.float().softmax(dim=1)

    def build_loss(
        self, config: FinetuneConfig, targets: Any, labels: Sequence[str]
    ) -> ClassLoss:
        """Cross-entropy; see `pipeline.objectives.class_loss`."""
        from pipeline.objectives.class_loss import build_loss

        return build_loss(config, targets, len(labels))

    def answers(
        self, network: BlockedNetwork, output: Batch, targets: Any
    ) -> torch.Tensor:
        """The probabilities (n, classes)."""
        from pipeline.tensors import single_tensor

        return self.probabilities(single_tensor(output))

    def validation_metrics(
        self, answers: torch.Tensor, targets: Any
    ) -> dict[str, float]:
        """Accuracy and the like of probabilities (N, classes) against class indices
        (N,).
        """
        from pipeline.objectives.class_validation import compute_metrics

        return compute_metrics(answers.double(), targets)

    def answer_columns(
        self, answers: torch.Tensor, labels: Sequence[str]
    ) -> dict[str, pa.Array]:
        """A probability for each label, as `p.LABEL`."""
        import pyarrow as pa

        columns: dict[str, pa.Array] = {}
        for number, label in enumerate(labels):
            columns[f"p.{label}"] = pa.array(answers[:, number].numpy(), pa.float32())
        return columns
