"""One class of a closed set for each example: shared by the tasks that have such targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import DataError, TrainingError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch


class ClassScorer:
    """The Scorer of class targets."""

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
