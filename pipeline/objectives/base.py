"""What a training needs of an objective, whatever the targets are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from pipeline.models.network import BlockedNetwork
    from pipeline.tensors import Batch


class Targets(Protocol):
    """The truths of some examples, in order: a tensor (N,) of class indices, or a
    structure that is indexed like one.
    """

    def __len__(self) -> int:
        """The number of examples, N."""

    def __getitem__(self, rows: Any, /) -> Any:
        """The targets of a slice, or of positions (n,) as a NumPy array or a tensor of
        int64.
        """


class TrainingLoss(Protocol):
    """The loss of a batch, whole or in pieces."""

    def total_weight(self, targets: Any) -> float:
        """What the summed losses of these targets (N) are divided by for their mean;
        follows from the targets alone.
        """

    def __call__(
        self, model: BlockedNetwork, x: Batch, start: int, targets: Any
    ) -> torch.Tensor:
        """The summed loss of a piece of a batch, in float32; divide by the whole
        batch's `total_weight`.

        Args:
            x: input of `blocks[start]`.
            targets: of the piece's examples.
        """
