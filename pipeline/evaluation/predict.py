"""What a finished candidate answers for rows of the manifest, in fp32; and how long it takes to."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from pipeline.config_section import TaskConfig
    from pipeline.context import Context
    from pipeline.evaluation.bootstrap import Floats
    from pipeline.records import CandidateRecord
    from pipeline.tasks.base import Task

BATCH = 32
TIMED_BATCHES = (1, 32)
TIMED_RUNS, FEWEST_RUNS, TIMED_SECONDS = 30, 3, 0.5  # stop at so many runs, or after so long with enough of them


class LoadedCandidate:
    """A candidate loaded and the rows it is asked about, opened.

    Args:
        kind: the task.
        task: its settings.
        candidate: the finished candidate.
        table: the manifest's rows.
        context: the step's surroundings.
    """

    def __init__(
        self, kind: Task, task: TaskConfig, candidate: CandidateRecord, table: pa.Table, context: Context
    ) -> None:
        import torch

        from pipeline.models.allocation import keep_freed_memory
        from pipeline.tasks.base import StoreLimits

        keep_freed_memory()
        self.kind, self.task, self.candidate, self.console = kind, task, candidate, context.console
        self.rows = table.num_rows
        limits = StoreLimits(context.scratch, context.pixel_cache_gb)
        self.store = kind.codec.open_store(candidate.input, table, context.data, limits, context.console)
        self.device = _device(candidate.plan.get("device"))
        self.model = kind.network.load(candidate)
        # Channels last: convolutions in fp32 take half the time on a CPU, and are none the worse elsewhere.
        self.layout = torch.channels_last
        self.model.eval().to(self.device)
        self.model.to(memory_format=self.layout)

    def inputs(self, rows: Any) -> torch.Tensor:
        """The network's input for rows given by number, unaugmented."""
        decoded = self.store.batch(np.asarray(rows))
        prepared = self.kind.codec.prepare(decoded, self.candidate.input, self.task, None)
        return prepared.to(self.device).contiguous(memory_format=self.layout)

    def probabilities(self) -> Floats:
        """(rows, classes), float64, in the candidate's order of classes."""
        import torch

        parts = []
        with torch.inference_mode(), _exact():
            for start in range(0, self.rows, BATCH):
                stop = min(start + BATCH, self.rows)
                output = self.model(self.inputs(np.arange(start, stop)))
                parts.append(self.kind.scorer.probabilities(output).double().cpu().numpy())
                self.console.progress(f"evaluate {self.candidate.name}", stop, self.rows)
        return np.concatenate(parts)

    def latency(self) -> dict[str, Any]:
        """Size, and milliseconds an example takes the network alone in fp32, by batch size: median and 95th
        percentile over some runs."""
        import torch

        timed = []
        with torch.inference_mode(), _exact():
            for size in TIMED_BATCHES:
                work = partial(self.model, self.inputs(np.arange(size) % self.rows))
                seconds = np.array(_time(work, self.device), dtype=np.float64) / size
                middle, late = np.quantile(seconds, [0.5, 0.95]) * 1000
                timed.append({"batch": size, "median_ms": middle, "p95_ms": late, "runs": len(seconds)})
        return {
            "candidate": self.candidate.name,
            "model_sha256": self.candidate.model_sha256,
            "megabytes": self.candidate.model.stat().st_size / 1e6,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "precision": "fp32",
            "batches": timed,
        }


def _device(wanted: str | None) -> torch.device:
    """The device the candidate was trained on, where this machine has it."""
    import torch

    device = torch.device(wanted or "cpu")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return device if there.get(device.type) else torch.device("cpu")


def _exact() -> Any:
    """Convolutions in true fp32 on a GPU too, which would otherwise round to TF32."""
    import torch

    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def _time(work: Callable[[], object], device: torch.device) -> list[float]:
    import torch

    work()  # the first run allocates
    found: list[float] = []
    while len(found) < FEWEST_RUNS or (len(found) < TIMED_RUNS and sum(found) < TIMED_SECONDS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return found
