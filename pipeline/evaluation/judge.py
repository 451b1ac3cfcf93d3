"""How a candidate's answers to the test split are judged: one judge for each kind of
targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import task_catalog
from pipeline.evaluation.bootstrap import BootstrapSettings, Units
from pipeline.metric_registry import TargetKind
from pipeline.records import Comparison, Finding, MetricEstimate

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import EvaluateConfig
    from pipeline.config_section import TaskConfig
    from pipeline.evaluation.predict import LoadedCandidate
    from pipeline.records import CandidateRecord
    from pipeline.tasks.base import Display, Highlight, Task

# Where each kind of targets is judged, as `module:name` of a class that is made from
# the evaluate settings.
JUDGES: dict[TargetKind, str] = {
    "classes": "pipeline.evaluation.class_judge:ClassJudge",
    "boxes": "pipeline.evaluation.box_judge:BoxJudge",
    "pixels": "pipeline.evaluation.pixel_judge:PixelJudge",
}


class ExhibitPlace(NamedTuple):
    """What exhibiting examples needs.

    Args:
        examples: the manifest's rows of these examples.
        labels: the label space.
        display: of the task.
        data: the data folder.
        folder: where pictures are written to.
        explain: gives, for the numbers of the classes that were answered, what spoke
            for each; nothing where the task cannot say.
    """

    examples: Sequence[Mapping[str, Any]]
    labels: Sequence[str]
    display: Display
    data: Path
    folder: Path
    explain: Callable[[Sequence[int]], list[list[Highlight]]]


class AnsweredExamples(NamedTuple):
    """Examples that models of several label spaces have answered.

    Args:
        table: the manifest's rows (N).
        labels: every class that one of the models knows, first those of the truth in
            their order.
        own_labels: those of the model that answered, in its order.
        compared: those that all of them know; what the others ask for counts neither
            for nor against.
        task: the kind of problem.
        task_config: its settings.
        data: the data folder.
    """

    table: pa.Table
    labels: tuple[str, ...]
    own_labels: tuple[str, ...]
    compared: frozenset[str]
    task: Task
    task_config: TaskConfig
    data: Path


class ClassGoodness(NamedTuple):
    """How good answers are about one class.

    Args:
        rows: (N,) which examples have something of it.
        goodness: (N,) of each; only that of `rows` counts.
    """

    rows: NDArray[np.bool_]
    goodness: NDArray[np.float64]


class Judged(Protocol):
    """A candidate's answers to N examples, held against the truth."""

    @property
    def units(self) -> Units:
        """What each example (N,) is resampled with."""

    @property
    def goodness(self) -> NDArray[Any]:
        """How good each answer is (N,): true or false, or between 0 and 1."""

    @property
    def constant_goodness(self) -> NDArray[Any]:
        """The goodness (N,) of the best answer that is the same for every example."""

    def class_goodness(self, code: int) -> ClassGoodness:
        """How good the answers are about the class with this number."""

    def subset(self, rows: NDArray[np.bool_]) -> Judged:
        """Those of some rows (N,); the units are counted anew."""

    def estimate_metrics(
        self, settings: BootstrapSettings
    ) -> dict[str, MetricEstimate]:
        """Every metric that is defined on these examples, with its interval over
        resamples of the units.
        """


class Judge(Protocol):
    """Judges answers to one kind of targets."""

    @property
    def goodness_metric(self) -> str:
        """The metric by which single examples, and so slices, are told apart."""

    def judge(self, loaded: LoadedCandidate, table: pa.Table) -> Any:
        """What a candidate answers to the manifest's rows (N), held against their
        targets.

        Raises:
            TrainingError: it answers with something that is no answer.
        """

    def judge_answers(
        self, answers: Sequence[Mapping[str, Any]], examples: AnsweredExamples
    ) -> Any:
        """Served answers (N), held against the truth.

        Args:
            answers: a row of what a served model answers, by column.
        """

    def served_answers(
        self, predictions: pa.Table, candidate: CandidateRecord
    ) -> list[dict[str, Any]]:
        """The rows of predictions.parquet as the served model would answer."""

    def compare(
        self, name: str, ours: Any, theirs: Any, settings: BootstrapSettings
    ) -> Comparison:
        """The paired comparison of two candidates on the same examples.

        Args:
            name: of the other candidate.
        """

    def write_tables(
        self,
        judged: Any,
        labels: tuple[str, ...],
        settings: BootstrapSettings,
        out: Path,
    ) -> None:
        """The kind's own tables, the same bytes for the same inputs."""

    def write_answers(
        self, judged: Any, table: pa.Table, labels: tuple[str, ...], path: Path
    ) -> None:
        """The answer to every example."""

    def find_worst(self, judged: Any, most: int) -> NDArray[np.int64]:
        """Rows (at most `most`,) of the worst answers, the worst first."""

    def exhibit_worst(
        self, judged: Any, rows: NDArray[np.int64], place: ExhibitPlace
    ) -> list[dict[str, Any]]:
        """What the report shows of these rows: of each example its id, path and target,
        its `picture` or `text`, and what is to be said of the answer. Pictures are
        written into the place's folder.
        """

    def warnings(self, judged: Any, labels: tuple[str, ...]) -> list[Finding]:
        """What a reader of the numbers has to know first."""


def find_judge(kind: TargetKind, config: EvaluateConfig) -> Judge:
    """The judge of a kind of targets."""
    judge: Judge = task_catalog.load_object(JUDGES[kind])(config)
    return judge


def subset_units(units: Units, rows: NDArray[np.bool_]) -> Units:
    """The units of some rows, counted anew."""
    _, counted = np.unique(units[rows], return_inverse=True)
    return counted.astype(np.intp)


def list_absent(labels: Sequence[str], present: set[int]) -> Finding | None:
    """A warning of classes that the test split does not have."""
    absent = tuple(label for code, label in enumerate(labels) if code not in present)
    if not absent:
        return None
    return Finding(
        code="class-not-tested",
        severity="warning",
        subject="test split",
        found=f"no examples of {len(absent)} classes",
        expected="examples of every class",
        hint="bring more of them; the averages over classes leave them out",
        items=absent,
    )
