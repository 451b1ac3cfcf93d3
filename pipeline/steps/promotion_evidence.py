"""The evidence for and against a registered version, gathered from records, registry
and today's test split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.context import Context
from pipeline.errors import ServingError, TrackingError
from pipeline.promotion.evidence import ChampionComparison, Evidence
from pipeline.promotion.flips import FlipPlace, write_flips
from pipeline.promotion.measure import (
    Flips,
    JudgedPair,
    count_flips,
    measure_classes,
    measure_constant_gain,
    measure_gain,
    measure_recall,
    measure_slices,
)
from pipeline.promotion.served_answers import KEY_LENGTH
from pipeline.promotion_journal import TestSplit
from pipeline.records import (
    BackboneRecord,
    DataVersion,
    EvaluateRecord,
    FinetuneRecord,
    RegisterRecord,
    RunRecords,
    SplitRecord,
    ValidateRecord,
    digest,
)
from pipeline.steps.recorded_facts import MODEL_SHA256_TAG, find_latency

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.config import Config
    from pipeline.evaluation.judge import Judge, Judged
    from pipeline.promotion.served_answers import ServedVersion
    from pipeline.tasks.base import Task
    from pipeline.tracking.registry import ModelVersion


@dataclass(frozen=True)
class Challenger:
    """What is known of the version that is decided on."""

    config: Config
    validated: ValidateRecord
    split: SplitRecord
    backbone: BackboneRecord
    finetuned: FinetuneRecord
    evaluated: EvaluateRecord
    registered: RegisterRecord
    data: DataVersion
    context: Context

    @property
    def run(self) -> RunRecords:
        """Its records."""
        steps = (
            self.validated,
            self.split,
            self.backbone,
            self.finetuned,
            self.evaluated,
        )
        return RunRecords(*steps, register=self.registered)

    @cached_property
    def test_rows(self) -> pa.Table:
        """The manifest's test rows."""
        from pipeline import manifest

        return manifest.read_split(self.split.manifest, "test")


def read_test_split(challenger: Challenger) -> TestSplit:
    """The examples that judge it."""
    table = challenger.test_rows
    examples = tuple(table["id"].to_pylist())
    targets = table["target"].to_pylist()
    return TestSplit(
        digest=digest("test split", sorted(zip(examples, targets, strict=True))),
        examples=examples,
        units=tuple(table["unit"].to_pylist()),
    )


def gather_evidence(
    challenger: Challenger,
    champion: ModelVersion | None,
    served: ServedVersion | None,
    looks: int,
    withdrawn: bool,
) -> Evidence:
    """Everything that a verdict rests on.

    Args:
        champion: the version that is champion; None where none is.
        served: it, to be asked; None where there is none or it need not be asked.
        looks: at the test split, the coming one among them.
        withdrawn: whether the challenger was rolled back.
    """
    gathering = _Gathering(challenger)
    return gathering.gather(champion, served, looks, withdrawn)


class _Gathering:
    def __init__(self, challenger: Challenger) -> None:
        from pipeline.evaluation.judge import find_judge
        from pipeline.tasks import catalog

        self._challenger = challenger
        self._config = challenger.config
        self._task: Task = catalog.find(challenger.config.task.name)
        self._judge: Judge = find_judge(
            self._task.scorer.kind, challenger.config.evaluate
        )
        self._candidate = challenger.finetuned.candidate(challenger.evaluated.candidate)
        self._error_rate = challenger.config.promotion.error_rate

    def gather(
        self,
        champion: ModelVersion | None,
        served: ServedVersion | None,
        looks: int,
        withdrawn: bool,
    ) -> Evidence:
        challenger = self._challenger
        evaluated = challenger.evaluated
        comparison, fault = self._compare_with(served)
        is_first = champion is None
        metric = self._judge.goodness_metric if is_first else self._metric
        return Evidence(
            version=challenger.registered.version,
            metrics={
                name: estimate.value for name, estimate in evaluated.metrics.items()
            },
            metric=metric,
            champion="" if champion is None else champion.version,
            same_weights=champion is not None
            and champion.tags.get(MODEL_SHA256_TAG) == evaluated.model_sha256,
            champion_fault=fault,
            comparison=comparison,
            trivial=self._measure_trivial_gain() if is_first else None,
            scratch=self._find_scratch_verdict(),
            looks=looks,
            withdrawn=withdrawn,
            dirty_reason=challenger.data.dirty_reason if challenger.data.dirty else "",
            megabytes=self._candidate.model.stat().st_size / 1e6,
            latency_ms=_find_latency(challenger),
        )

    @property
    def _metric(self) -> str:
        return self._config.promotion.metric or self._judge.goodness_metric

    def _measure_trivial_gain(self) -> Any:
        labels = self._candidate.labels
        judged = self._judge_own(self._challenger.test_rows, labels, frozenset(labels))
        return measure_constant_gain(judged, self._error_rate)

    def _find_scratch_verdict(self) -> str:
        """What the evaluation says of training from scratch; empty where that was not
        trained.
        """
        for comparison in self._challenger.evaluated.comparisons:
            if comparison.other == "scratch":
                return comparison.verdict
        return ""

    def _compare_with(
        self, served: ServedVersion | None
    ) -> tuple[ChampionComparison | None, str]:
        """The comparison with the champion, or why there is none."""
        if served is None:
            return None, ""
        try:
            return self._compare(served), ""
        except (ServingError, TrackingError) as fault:
            return None, fault.found

    def _compare(self, served: ServedVersion) -> ChampionComparison:
        """Both models on the test examples that the champion had not learnt from and
        whose class it knows.

        Raises:
            ServingError: the champion does not answer, or does not say what it learnt
                from.
            TrackingError: its files cannot be fetched.
        """
        from pipeline.training import members

        table = self._challenger.test_rows
        own = self._candidate.labels
        theirs = served.labels()
        compared = frozenset(own) & frozenset(theirs)
        unseen = members.unseen_rows(table, served.members())
        known = self._known_rows(table, compared)
        removed = tuple(label for label in theirs if label not in own)
        left_out = ChampionComparison(
            champion=served.version.version,
            gain=None,
            examples=0,
            seen=int((~unseen).sum()),
            unknown=int((unseen & ~known).sum()),
            removed_classes=removed,
        )
        rows = table.filter(unseen & known)
        if not rows.num_rows:
            return left_out
        labels = (*own, *removed)
        pair = self._judge_both(served, rows, labels, theirs)
        new = [label for label in own if label not in theirs]
        measured = self._measure(pair, rows, labels, compared, left_out)
        return replace(
            measured, new_classes=dict(self._measure_new_classes(table, new))
        )

    def _judge_both(
        self,
        served: ServedVersion,
        rows: pa.Table,
        labels: tuple[str, ...],
        theirs: tuple[str, ...],
    ) -> JudgedPair:
        """Challenger and champion, judged on the same rows.

        Args:
            labels: of both.
            theirs: the champion's, in its order.
        """
        compared = frozenset(self._candidate.labels) & frozenset(theirs)
        ours = self._judge_own(rows, labels, compared)
        data = self._challenger.context.data
        answers = served.answers(rows, self._task.serving(), data)
        return JudgedPair(
            challenger=ours,
            champion=self._judge_answers(answers, rows, labels, theirs, compared),
            metric=self._metric,
            goodness_metric=self._judge.goodness_metric,
            finest_error=self._error_rate,
        )

    def _measure(
        self,
        pair: JudgedPair,
        rows: pa.Table,
        labels: tuple[str, ...],
        compared: frozenset[str],
        left_out: ChampionComparison,
    ) -> ChampionComparison:
        """The comparison with gains, parts and flips of the rows that both answered."""
        context = self._challenger.context
        parts = [
            *measure_classes(pair, labels, compared),
            *measure_slices(pair, rows, self._slice_columns(rows)),
        ]
        flips: Flips | None = count_flips(pair)
        key = self._challenger.registered.key[:KEY_LENGTH]
        folder = f"promotion/flips/{key}-v{left_out.champion}"
        place = FlipPlace(
            rows, labels, self._task.display, context.data, context.scratch / folder
        )
        counts = write_flips(pair, self._judge, place)
        return replace(
            left_out,
            gain=measure_gain(pair),
            examples=rows.num_rows,
            parts=tuple(parts),
            negative_flips=None if flips is None else flips.negative,
            positive_flips=None if flips is None else flips.positive,
            better=counts.better,
            worse=counts.worse,
            flips=folder,
        )

    def _known_rows(
        self, table: pa.Table, compared: frozenset[str]
    ) -> NDArray[np.bool_]:
        """Which rows (N,) ask for something that both models know; boxes and masks may
        hold several classes each.
        """
        import numpy as np
        import pyarrow.compute as pc

        if self._task.scorer.kind != "classes":
            return np.ones(table.num_rows, np.bool_)
        import pyarrow as pa

        found = pc.is_in(
            table["target"], value_set=pa.array(sorted(compared), pa.string())
        )
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)

    def _measure_new_classes(
        self, table: pa.Table, new: list[str]
    ) -> Iterator[tuple[str, float | None]]:
        if not new:
            return
        labels = self._candidate.labels
        judged = self._judge_own(table, labels, frozenset(labels))
        for label in new:
            yield label, measure_recall(judged, labels.index(label))

    def _slice_columns(self, rows: pa.Table) -> Any:
        from pipeline.evaluation.slices import slice_columns

        return slice_columns(
            rows, self._config.evaluate.slices, self._task.display.measured_slices
        )

    def _judge_own(
        self, rows: pa.Table, labels: tuple[str, ...], compared: frozenset[str]
    ) -> Judged:
        """The challenger's answers, as they were evaluated."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        predictions = pq.read_table(self._challenger.evaluated.predictions)
        order = pc.index_in(rows["id"], value_set=predictions["id"].combine_chunks())
        chosen = predictions.take(pa.array(order.to_pylist(), pa.int64()))
        answers = self._judge.served_answers(chosen, self._candidate)
        return self._judge_answers(
            answers, rows, labels, self._candidate.labels, compared
        )

    def _judge_answers(
        self,
        answers: list[dict[str, Any]],
        rows: pa.Table,
        labels: tuple[str, ...],
        own_labels: tuple[str, ...],
        compared: frozenset[str],
    ) -> Judged:
        from pipeline.evaluation.judge import AnsweredExamples

        data = self._challenger.context.data
        examples = AnsweredExamples(
            rows, labels, own_labels, compared, self._task, self._config.task, data
        )
        judged: Judged = self._judge.judge_answers(answers, examples)
        return judged


def _find_latency(challenger: Challenger) -> float | None:
    """Milliseconds for one example; None where none are known."""
    latency = find_latency(
        challenger.context.scratch, challenger.evaluated.model_sha256
    )
    if latency is None:
        return None
    return min(latency.batches, key=lambda timed: timed.batch).median_ms
