"""What goes wrong in numbers and memory, told apart."""

from __future__ import annotations

from pipeline.errors import TrainingError


class NonFiniteError(TrainingError):
    """A loss, a weight or a moment is NaN or infinite; the last good state is kept."""


def is_out_of_memory(fault: BaseException) -> bool:
    """Whether a step failed for want of memory, on a GPU or in the host."""
    import torch

    message = str(fault).lower()
    return isinstance(fault, torch.OutOfMemoryError | MemoryError) or (
        isinstance(fault, RuntimeError)
        and ("out of memory" in message or "not enough memory" in message)
    )
