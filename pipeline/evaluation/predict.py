"""What a finished candidate answers for rows of the manifest, in fp32; and how long it
takes to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.records import CandidateRecord, Latency, TimedBatch

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from numpy.typing import NDArray

    from pipeline.config_section import TaskConfig
    from pipeline.context import Context
    from pipeline.evaluation.bootstrap import Floats
    from pipeline.tasks.base import Highlight, Task
    from pipeline.tensors import Batch

    Rows = NDArray[np.int64]

BATCH = 32
TIMED_BATCHES = (1, 32)
IMAGE_DIMENSIONS = 4  # examples, channels, height, width
# A measurement stops at so many runs, or after so long with enough of them.
TIMED_RUNS, FEWEST_RUNS, TIMED_SECONDS = 30, 3, 0.5


class LoadedCandidate:
    """A candidate loaded, and the rows it is asked about, opened.

    Args:
        task: the kind of problem.
        task_config: its settings.
        candidate: the finished candidate.
        table: the manifest's rows.
        context: the step's surroundings.
    """

    def __init__(
        self,
        task: Task,
        task_config: TaskConfig,
        candidate: CandidateRecord,
        table: pa.Table,
        context: Context,
    ) -> None:
        import torch

        from pipeline.models.allocation import keep_freed_memory
        from pipeline.tasks.base import StoreLimits

        keep_freed_memory()
        self.task = task
        self.task_config = task_config
        self.candidate = candidate
        self.console = context.console
        self.rows = table.num_rows
        self.data = context.data
        limits = StoreLimits(context.scratch, context.pixel_cache_gb)
        self.store = task.codec.open_store(
            candidate.input,
            table,
            context.data,
            candidate.folder,
            limits,
            context.console,
        )
        self.device = _find_device(candidate.plan.get("device"))
        self.model = task.network.load(candidate)
        self.model.stock.eval().to(self.device)
        # Channels last: convolutions in fp32 take half the time on a CPU, and are none
        # the worse elsewhere.
        self.model.stock.to(memory_format=torch.channels_last)

    def inputs(self, rows: Rows) -> Batch:
        """The network's input for rows given by number, all of one shape, unaugmented."""
        return self._prepare(self.store.batch(rows))

    def _prepare(self, decoded: Batch) -> Batch:
        import torch

        prepared = self.task.codec.prepare(
            decoded, self.candidate.input, self.task_config, None
        )
        placed = prepared.to(self.device)
        if isinstance(placed, torch.Tensor) and placed.ndim == IMAGE_DIMENSIONS:
            return placed.contiguous(memory_format=torch.channels_last)
        return placed

    def output(self, decoded: Batch) -> Batch:
        """What the network gives for decoded examples of one shape, be they rows or
        parts of one.
        """
        import torch

        with torch.inference_mode(), _without_tf32():
            return self.model.run(self._prepare(decoded))

    def outputs(self) -> Iterator[tuple[Rows, Batch]]:
        """What the network gives for each row, some rows at a time.

        Examples of one shape are asked about together, so that an answer depends on no
        other example.
        """
        import torch

        done = 0
        with torch.inference_mode(), _without_tf32():
            for rows in self._batches():
                yield rows, self.model.run(self.inputs(rows))
                done += len(rows)
                self.console.progress(
                    f"evaluate {self.candidate.name}", done, self.rows
                )

    def answers(self) -> Floats:
        """The scorer's answers (rows, …), float64: where targets are classes,
        probabilities (rows, classes) in the candidate's order of classes.
        """
        answers: Floats | None = None
        for rows, output in self.outputs():
            batch_answers = (
                self.task.scorer.answers(self.model, output, None)
                .double()
                .cpu()
                .numpy()
            )
            if answers is None:
                answers = np.empty((self.rows, *batch_answers.shape[1:]))
            answers[rows] = batch_answers
        assert answers is not None  # there are test examples
        return answers

    def explain(
        self, examples: Sequence[Mapping[str, Any]], answers: Sequence[int]
    ) -> list[list[Highlight]]:
        """What spoke for these answers, for each of the opened rows; nothing where the
        task cannot say.

        Args:
            examples: the opened rows of the manifest.
            answers: numbers of the classes that were answered.
        """
        if self.task.explainer is None:
            return [[] for _ in examples]
        explainer = self.task.explainer(self.model, self.candidate)
        explained = []
        for row, (example, answer) in enumerate(zip(examples, answers, strict=True)):
            inputs = self.inputs(np.array([row]))
            explained.append(explainer.explain(inputs, example, answer))
        return explained

    def _batches(self) -> Iterator[Rows]:
        """Rows in batches of one shape, in the order of the shapes and else of the
        table.
        """
        every = np.arange(self.rows)
        shapes = self.store.shapes(every)
        for shape in np.unique(shapes):
            alike = every[shapes == shape]
            for start in range(0, len(alike), BATCH):
                yield alike[start : start + BATCH]

    def _timed_rows(self, size: int) -> Rows:
        """So many rows of the commonest shape, over again where there are fewer."""
        every = np.arange(self.rows)
        shapes = self.store.shapes(every)
        codes, counts = np.unique(shapes, return_counts=True)
        alike = every[shapes == codes[counts.argmax()]]
        chosen: Rows = alike[np.arange(size) % len(alike)]
        return chosen

    def measure_latency(self) -> Latency:
        """Size, and milliseconds an example takes the network alone in fp32, by batch
        size.
        """
        import torch

        batches = []
        with torch.inference_mode(), _without_tf32():
            for size in TIMED_BATCHES:
                batches.append(self._time_batch(size))
        return Latency(
            candidate=self.candidate.name,
            model_sha256=self.candidate.model_sha256,
            megabytes=self.candidate.model.stat().st_size / 1e6,
            parameters=sum(
                parameter.numel() for parameter in self.model.stock.parameters()
            ),
            device=str(self.device),
            threads=torch.get_num_threads(),
            precision="fp32",
            batches=tuple(batches),
        )

    def _time_batch(self, size: int) -> TimedBatch:
        inputs = self.inputs(self._timed_rows(size))
        work = partial(self.model.run, inputs)
        seconds = np.array(_time_runs(work, self.device), dtype=np.float64)
        milliseconds = 1000 * seconds / size
        median, p95 = np.quantile(milliseconds, [0.5, 0.95])
        return TimedBatch(
            batch=size, median_ms=float(median), p95_ms=float(p95), runs=len(seconds)
        )


def _find_device(wanted: str | None) -> torch.device:
    """The device the candidate was trained on, where this machine has it."""
    import torch

    device = torch.device(wanted or "cpu")
    if device.type == "cuda" and torch.cuda.is_available():
        return device
    if device.type == "mps" and torch.backends.mps.is_available():
        return device
    return torch.device("cpu")


def _without_tf32() -> Any:
    """Convolutions in true fp32 on a GPU too, which would otherwise round to TF32."""
    import torch

    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )


def _time_runs(work: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds that each of some runs took."""
    import torch

    work()  # the first run allocates
    seconds: list[float] = []
    while len(seconds) < TIMED_RUNS:
        if len(seconds) >= FEWEST_RUNS and sum(seconds) >= TIMED_SECONDS:
            break
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return seconds
