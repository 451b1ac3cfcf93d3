"""The same numbers in, the same bits out, while a training lasts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.models.allocation import keep_freed_memory


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Asks PyTorch for deterministic kernels and a number of threads; on leaving, these
    and the global random state are as they were. An operation that has no deterministic
    kernel runs all the same.
    """
    import torch

    keep_freed_memory()
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    had_threads = torch.get_num_threads()
    # Read once by cuBLAS, harmless without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(enabled=True), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*does not have a deterministic implementation.*"
        )
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nothing here reads memory it has not written.
        memory.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = False
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            memory.fill_uninitialized_memory = fill
            torch.backends.cudnn.benchmark = benchmark
            torch.set_num_threads(had_threads)


def set_random_state(value: int, device: str) -> None:
    """Sets the global random state that a step on this device draws from."""
    import torch

    if device == "cpu":
        # torch.manual_seed would note itself and its stack for a CUDA never used: a
        # millisecond and some memory a step.
        torch.default_generator.manual_seed(value)
    else:
        torch.manual_seed(value)
