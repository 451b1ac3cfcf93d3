"""The seam: a task is put together from parts, so that each step sees only the part it
needs and tasks share parts.

No part knows loops, devices, checkpoints, tracking, DVC or Prefect. An example travels
so:

    what the reader lists → what the codec's store holds (decoded once) → `prepare` (a
    batch becomes the network's input, augmented by counted random numbers) → the
    network's blocks → what the scorer makes of its output
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pipeline.examples import (
    CheckedTargets,
    ColumnExpectation,
    DriftMeasure,
    ExampleFault,
    ExampleListing,
    ListedExample,
    MeasuredExample,
    RandomDraw,
    SampleFacts,
)
from pipeline.metric_registry import TargetKind

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import torch

    from pipeline.config import (
        BackboneConfig,
        ColumnRole,
        Config,
        DataConfig,
        FinetuneConfig,
    )
    from pipeline.config_section import TaskConfig
    from pipeline.context import Console
    from pipeline.models.network import BlockedNetwork
    from pipeline.objectives.base import Targets, TrainingLoss
    from pipeline.records import BackboneRecord, CandidateRecord, InputSpec, TileSpec
    from pipeline.tensors import Batch

__all__ = [
    "CheckedTargets",
    "Codec",
    "ColumnExpectation",
    "Display",
    "DriftMeasure",
    "ExampleFault",
    "ExampleListing",
    "ExampleStore",
    "Exhibit",
    "Explainer",
    "Highlight",
    "ListedExample",
    "MeasuredExample",
    "Network",
    "RandomDraw",
    "Reader",
    "Sample",
    "SampleFacts",
    "Scorer",
    "ServedColumn",
    "Serving",
    "SourceDescription",
    "StoreLimits",
    "TargetCodec",
    "Task",
    "Tiler",
    "UnchangedTargets",
]


class SourceDescription(NamedTuple):
    """What someone's data was taken for, before a workspace is made of it.

    Args:
        settings: section → key → value of what params.yaml is to say of it.
        notes: what the user is told: which columns and files were taken for what.
    """

    settings: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


class Reader(Protocol):
    """From the data folder to examples: what `validate` needs."""

    def describe_source(
        self, source: Path, columns: Mapping[ColumnRole, str] | None = None
    ) -> SourceDescription:
        """Finds out how a file or folder of someone's data is laid out, without reading
        all of it.

        Args:
            columns: role → column of its tables, where the user has said so.

        Raises:
            DataError: it can be read in two ways, or in none; names them.
        """

    def list_examples(
        self, root: Path, data: DataConfig, task: TaskConfig
    ) -> ExampleListing:
        """Lists the examples below the data folder `root`.

        Raises:
            DataError: nothing can be listed.
        """

    def scan_examples(
        self,
        root: Path,
        examples: Sequence[ListedExample],
        task: TaskConfig,
        scratch: Path,
        console: Console,
    ) -> Mapping[str, MeasuredExample | ExampleFault]:
        """Reads every example wholly and measures it; a fault instead of an exception,
        whatever is wrong.

        Args:
            scratch: `.thaw`, for a cache of what was measured, keyed by what determines
                it.

        Returns:
            What was measured, or the fault, by the example's path.
        """

    def check_targets(
        self,
        root: Path,
        usable: Sequence[tuple[ListedExample, MeasuredExample]],
        data: DataConfig,
        task: TaskConfig,
        scratch: Path,
        console: Console,
    ) -> CheckedTargets:
        """Holds each target against the content it belongs to: a box against its
        picture, a mask against its size.

        What comes of it follows from target and content together, so it is never
        remembered by the content alone. Where a target is the name of a class,
        `CheckedTargets(tuple(usable))` is all there is to do.

        Args:
            root: the data folder.
            usable: what the scan found usable, by path.
            scratch: `.thaw`, for a cache of files that targets lie in, keyed by their
                own content.
        """

    def expectations(self, task: TaskConfig) -> Sequence[ColumnExpectation]:
        """What the scan's columns must satisfy; judged once more on the whole manifest,
        scanned or remembered.
        """

    def measure_drift(
        self, rows: pa.Table, before: pa.Table, task: TaskConfig
    ) -> Sequence[DriftMeasure]:
        """How the data moved since another accepted version, beside labels and what the
        scan measured.

        Args:
            rows, before: manifests.
        """


class ExampleStore(Protocol):
    """Decoded examples, by row."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each row (N,)."""

    def batch(self, rows: np.ndarray[Any, Any]) -> Batch:
        """Decoded examples (n, …) of rows (n,) that have the same shape."""

    def shapes(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A code for each of the rows (n,), int64: the same for examples whose tensors
        have the same shape. It follows from the example and the settings alone.
        """


class StoreLimits(NamedTuple):
    """Where a store keeps its files, and how much it may take.

    Args:
        scratch: `.thaw`.
        gigabytes: most disk that all stores together may take.
    """

    scratch: Path
    gigabytes: float


class Codec(Protocol):
    """From an example's content to the network's input."""

    def input_spec(self, task: TaskConfig, backbone: BackboneRecord) -> InputSpec:
        """How examples are presented to this backbone."""

    def bytes_per_example(self, task: TaskConfig) -> int:
        """About how much disk a decoded example takes in the store."""

    def open_store(
        self,
        spec: InputSpec,
        examples: pa.Table,
        data: Path,
        network_files: Path,
        limits: StoreLimits,
        console: Console,
    ) -> ExampleStore:
        """The decoded examples of a manifest's rows, decoded now where they are not
        kept yet.

        Args:
            examples: rows of a manifest: id, path and, for rows of a table, content.
            data: the data folder.
            network_files: the folder of the backbone or candidate, which holds a
                tokenizer where there is one.

        Raises:
            DataError: an example cannot be decoded wholly.
        """

    def prepare(
        self,
        decoded: Batch,
        spec: InputSpec,
        task: TaskConfig,
        draws: Sequence[RandomDraw] | None,
    ) -> Batch:
        """A batch of decoded examples as the network's input; `draws` augment it, None
        presents it plainly. What comes of an example depends on its content and its
        draw alone.
        """


class TargetCodec(Protocol):
    """From targets as the manifest says them to what the loss compares with."""

    def open(
        self,
        targets: Targets,
        spec: InputSpec,
        task: TaskConfig,
        data: Path,
        limits: StoreLimits,
        console: Console,
    ) -> Targets:
        """The scorer's targets (N), with what of them lies in files decoded and kept.

        Raises:
            DataError: a file cannot be decoded wholly.
        """

    def place(
        self,
        targets: Targets,
        spec: InputSpec,
        task: TaskConfig,
        draws: Sequence[RandomDraw] | None,
    ) -> Targets:
        """Opened targets (n) as they stand to the network's input that the codec
        prepares by the same draws: what moved the pixels has moved boxes and masks.
        """


class UnchangedTargets:
    """The TargetCodec of targets that the manifest says completely, and that stay the
    same however an example is presented: classes.
    """

    def open(
        self,
        targets: Targets,
        spec: InputSpec,
        task: TaskConfig,
        data: Path,
        limits: StoreLimits,
        console: Console,
    ) -> Targets:
        return targets

    def place(
        self,
        targets: Targets,
        spec: InputSpec,
        task: TaskConfig,
        draws: Sequence[RandomDraw] | None,
    ) -> Targets:
        return targets


class Network(Protocol):
    """The network: a backbone with a new head, as blocks in order."""

    def check_backbone(self, backbone: BackboneConfig, task: TaskConfig) -> str:
        """What of the backbone the network uses, in words; known without the backbone's
        weights.

        Raises:
            ConfigError: the backbone does not fit; says which do.
        """

    def design(
        self,
        train: pa.Table,
        labels: Sequence[str],
        spec: InputSpec,
        task: TaskConfig,
        backbone: BackboneRecord,
    ) -> dict[str, Any]:
        """What building the network takes from settings and training examples, as JSON
        holds it: sizes of anchors, for example. It is saved with every candidate, and
        served.

        Args:
            train: the manifest's training rows.
        """

    def build(
        self,
        backbone: BackboneRecord,
        labels: Sequence[str],
        *,
        design: Mapping[str, Any] | None = None,
        pretrained: bool = True,
        seed: int = 0,
    ) -> BlockedNetwork:
        """The backbone with a new head for these labels; `seed` is that of the random
        weights.
        """

    def load(self, candidate: CandidateRecord) -> BlockedNetwork:
        """The network of a finished candidate with its weights.

        Raises:
            BackboneError: the file does not hold this network's weights.
        """


class Tiler(Protocol):
    """Which examples are answered in tiles."""

    def find_tiles(self, train: pa.Table, task: TaskConfig) -> TileSpec | None:
        """The tiles by settings and training examples; None where every example is
        shown whole. Training does not depend on them, so a finished candidate is not
        trained again where they change.

        Args:
            train: the manifest's training rows.
        """


class Scorer(Protocol):
    """From targets to the loss, and from the network's output to answers that can be
    judged.
    """

    @property
    def kind(self) -> TargetKind:
        """What an example's target is, by which its metrics are known."""

    def targets(self, manifest: pa.Table, labels: Sequence[str]) -> Targets:
        """The targets of the manifest's rows, in order, as the manifest says them.

        Raises:
            DataError: a target is not in the label space.
        """

    def build_loss(
        self, config: FinetuneConfig, targets: Targets, labels: Sequence[str]
    ) -> TrainingLoss:
        """The loss of the settings.

        Args:
            targets: of all training examples (N), opened.
        """

    def answers(
        self, network: BlockedNetwork, output: Batch, targets: Targets | None
    ) -> torch.Tensor:
        """What validation keeps of the network's output for some examples: (n, …), of
        one shape for every example.

        Args:
            targets: of these examples (n), as they are placed; None where what is kept
                needs none.

        Raises:
            TrainingError: the output is of another form.
        """

    def validation_metrics(
        self, answers: torch.Tensor, targets: Targets
    ) -> dict[str, float]:
        """The metrics of a validation, by name.

        Args:
            answers: (N, …) as `answers` gave them.
            targets: of the same examples (N), opened.
        """

    def answer_columns(
        self, answers: torch.Tensor, labels: Sequence[str]
    ) -> dict[str, pa.Array]:
        """Validation's answers (N, …) as columns (N,) of the table that a candidate
        keeps of them.
        """


class Exhibit(NamedTuple):
    """What a reader of the report sees of an example.

    Args:
        kind: a picture, or text.
        content: the picture's file name in the folder that it was written to; or the
            text as it is, to be escaped.
    """

    kind: Literal["picture", "text"]
    content: str


class Highlight(NamedTuple):
    """A part of an exhibited text.

    Args:
        start, end: its characters.
        weight: from -1 to 1: how much it spoke for the answer, or against it.
    """

    start: int
    end: int
    weight: float


class Explainer(Protocol):
    """What in an example spoke for an answer: for the worst errors of the report."""

    def explain(
        self, inputs: Batch, example: Mapping[str, Any], answer: int
    ) -> list[Highlight]:
        """The parts of the exhibited text that counted, in their order.

        Args:
            inputs: the example alone, as the network's input.
            example: its row of the manifest: id, path and content.
            answer: number of the class that was answered.
        """


class Display(Protocol):
    """An example as a reader sees it."""

    @property
    def measured_slices(self) -> tuple[str, ...]:
        """Of what the scan measured, the columns (without `scan.`) by which mistakes
        are worth comparing.
        """

    def exhibit(
        self, example: Mapping[str, Any], data: Path, folder: Path, name: str
    ) -> Exhibit | None:
        """What is to be seen of an example; None where there is nothing to see.

        Args:
            example: a row of a manifest: id, path and, for rows of a table, content.
            data: the data folder.
            folder: where a picture is written to: small, and the same bytes each time.
            name: the picture's file name without an ending.

        Raises:
            DataError: the example cannot be read.
        """


class ServedColumn(NamedTuple):
    """A column of what a served model is asked, or answers."""

    name: str
    type: Literal[
        "binary",
        "string",
        "double",
        "long",
        "map of doubles",
        "list of objects",
        "list of regions",
    ]
    required: bool = True


class Serving(Protocol):
    """How a registered model answers without Thaw, and how it is asked."""

    @property
    def module(self) -> str:
        """The module of `pipeline.serving` that travels with the model and answers."""

    @property
    def helpers(self) -> tuple[str, ...]:
        """Other modules of `pipeline.serving` that lie beside the weights and that it
        loads from there.
        """

    @property
    def packages(self) -> tuple[str, ...]:
        """What answering needs, by the names on the package index."""

    def inputs(self, config: Config) -> tuple[ServedColumn, ...]:
        """The columns that a client sends. `thaw predict` asks by them: files by a
        binary one, texts by strings.
        """

    @property
    def outputs(self) -> tuple[ServedColumn, ...]: ...

    def settings(self, config: Config, candidate: CandidateRecord) -> dict[str, Any]:
        """How the served model presents its inputs, what it refuses and how it names
        its answers: part of the key of a version, and what the code reads beside the
        weights.
        """

    def input_example(self, config: Config) -> pd.DataFrame:
        """An input that shows nobody's data."""

    def requests(
        self, examples: Sequence[Mapping[str, Any]], data: Path
    ) -> pd.DataFrame:
        """What a client would send for rows of a manifest."""

    def difference(
        self,
        answer: Mapping[str, Any],
        judged: Mapping[str, Any],
        candidate: CandidateRecord,
    ) -> str:
        """In what a served answer differs from the one that was judged; "" where in
        nothing that counts.

        Args:
            answer: a row of what the served model answers, by column.
            judged: the row of predictions.parquet.
        """


class Sample(Protocol):
    """A small generated data set, by which the task can be tried without a network."""

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Section → key → value of what params.yaml says of it: a small backbone that
        comes with Thaw, for example.
        """

    def generate(self, folder: Path) -> SampleFacts:
        """Writes it into a folder that is new or empty, the same bytes on every
        machine; leaves an identical sample as it is.

        Raises:
            WorkspaceError: the folder holds anything else.
        """


@dataclass(frozen=True)
class Task:
    """What differs by the kind of problem.

    Args:
        name: as in `task.name`.
        reader: lists, reads and measures examples: for `validate`.
        codec: makes network input of them.
        network: builds the network.
        scorer: makes answers of its output.
        display: shows an example in the report.
        serving: makes the serving side, which is needed last and imports the most.
        sample: makes the generator of the sample data set.
        explainer: makes the explainer of a candidate's network, in evaluation; None
            where the task cannot explain.
        target_codec: makes of targets what the loss compares with.
        tiler: says which examples are answered in tiles; None where all are shown
            whole.
    """

    name: str
    reader: Reader
    codec: Codec
    network: Network
    scorer: Scorer
    display: Display
    serving: Callable[[], Serving]
    sample: Callable[[], Sample]
    explainer: Callable[[BlockedNetwork, CandidateRecord], Explainer] | None = None
    target_codec: TargetCodec = field(default_factory=UnchangedTargets)
    tiler: Tiler | None = None
