"""The seam for modalities: a task holds what differs by the kind of problem, and nothing of loops, devices,
checkpoints or tracking.

An example travels as: file → `decode` (a uint8 array of one fixed shape, which the decoded store keeps) →
`prepare` (a batch of decoded arrays becomes the network's input; augmentation happens here, on the batch, from
counted random numbers) → the network → `loss` / `probabilities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.examples import ColumnExpectation, ExampleFault, ExampleListing, ListedExample, MeasuredExample

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

    from pipeline.config import DataConfig, TaskConfig
    from pipeline.models.blocks import BlockedModel
    from pipeline.records import BackboneRecord, InputSpec


__all__ = [
    "ColumnExpectation",
    "ExampleFault",
    "ExampleListing",
    "ListedExample",
    "MeasuredExample",
    "RandomDraw",
    "Task",
]


@dataclass(frozen=True)
class RandomDraw:
    """The counted randomness of one example in one epoch: everything random about it follows from these."""

    seed: int
    view: int  # the epoch, or the view's number where views are counted
    id: str


class Task(Protocol):
    """What differs by modality."""

    name: str

    # --- intake -----------------------------------------------------------------------------------------
    def read(self, root: Path, data: DataConfig) -> ExampleListing:
        """Lists the examples below the data folder; raises DataError where nothing can be listed."""

    def scan(self, root: Path, path: str, task: TaskConfig) -> MeasuredExample | ExampleFault:
        """Decodes one example wholly and measures it; a fault instead of an exception, whatever is wrong."""

    def expectations(self, task: TaskConfig) -> Sequence[ColumnExpectation]:
        """What the scan's columns must satisfy; judged once more on the whole manifest, scanned or remembered."""

    # --- training ---------------------------------------------------------------------------------------
    def input(self, task: TaskConfig, backbone: BackboneRecord) -> InputSpec:
        """How examples are presented to this backbone."""

    def shape(self, spec: InputSpec) -> tuple[int, ...]:
        """The shape of a decoded example."""

    def decode(self, path: Path, spec: InputSpec) -> np.ndarray[Any, Any]:
        """A file as a uint8 array of `shape(spec)`; determined by the content and the spec."""

    def prepare(
        self, decoded: torch.Tensor, spec: InputSpec, task: TaskConfig, draws: Sequence[RandomDraw] | None
    ) -> torch.Tensor:
        """A batch (N, *shape) of uint8 as the network's float input; `draws` augment it, None presents it plainly."""

    def targets(self, manifest: pa.Table, labels: Sequence[str]) -> torch.Tensor:
        """The targets of the manifest's rows, in order."""

    def build(
        self, backbone: BackboneRecord, labels: Sequence[str], *, pretrained: bool = True, seed: int = 0
    ) -> BlockedModel:
        """The backbone with a new head for these labels, `blocks` in order; `seed` is that of the random weights."""

    def probabilities(self, output: torch.Tensor) -> torch.Tensor:
        """What a user would read of the network's output: (N, classes), rows summing to 1."""

    # --- reading ----------------------------------------------------------------------------------------
    def show(self, path: Path, folder: Path, name: str) -> str | None:
        """Writes what a reader sees of an example into `folder`, as a file that a browser shows, and returns the
        file's name, `name` with an ending; None where there is nothing to see. Small, and the same bytes each time."""
