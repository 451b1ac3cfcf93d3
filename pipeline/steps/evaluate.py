"""Evaluate: the best candidate on the test split, once, and how the others do on the
same examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.context import EachLineOnce, SilentConsole
from pipeline.errors import SplitError
from pipeline.files import replace_json
from pipeline.records import Comparison, EvaluateRecord, Finding
from pipeline.steps import recorded_facts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.config import EvaluateConfig
    from pipeline.config_section import TaskConfig
    from pipeline.context import Context
    from pipeline.evaluation.bootstrap import BootstrapSettings
    from pipeline.evaluation.judge import Judge, Judged
    from pipeline.evaluation.predict import LoadedCandidate
    from pipeline.evaluation.slices import SliceScore
    from pipeline.records import (
        CandidateRecord,
        FinetuneRecord,
        MetricEstimate,
        SplitRecord,
    )
    from pipeline.tasks.base import Highlight, Task

FEW_EXAMPLES, FEW_UNITS = 30, 10
EXHIBITED_COLUMNS = ("id", "path", "target", "content", "scan.width", "scan.height")


def evaluate(
    config: EvaluateConfig,
    task_config: TaskConfig,
    split: SplitRecord,
    finetuned: FinetuneRecord,
    out: Path,
    context: Context,
) -> EvaluateRecord:
    """Judges every candidate on the test split and writes the best one's files into
    `out`.

    Raises:
        SplitError: there are no test examples.
        TrainingError: a candidate answers with something that is no probability.
    """
    evaluation = _open(config, task_config, split, context)
    judged = _judge_candidates(evaluation, finetuned)
    best = finetuned.candidate()
    ours = judged[best.name]
    estimates, comparisons = _estimate(evaluation, finetuned, judged)
    slices = _score_slices(evaluation, ours)
    _write_files(evaluation, best, ours, slices, out)
    warnings = _warnings(evaluation.judge, ours, best.labels, slices) + _absent_slices(
        config, evaluation.table
    )
    record = EvaluateRecord(
        candidate=best.name,
        model_sha256=best.model_sha256,
        labels=best.labels,
        examples=evaluation.table.num_rows,
        units=int(ours.units.max()) + 1,
        confidence=config.confidence,
        primary=finetuned.primary,
        higher_is_better=finetuned.higher_is_better,
        metrics=estimates.pop(best.name),
        others=estimates,
        comparisons=tuple(comparisons),
        baseline=finetuned.baseline,
        warnings=tuple(warnings),
        targets=evaluation.task.scorer.kind,
        slice_metric=evaluation.judge.goodness_metric,
    )
    _announce_baseline(record, context)
    return _record(record.save(out), finetuned, context)


@dataclass(frozen=True)
class _Evaluation:
    """What the parts of an evaluation share.

    Args:
        table: the manifest's test rows.
    """

    config: EvaluateConfig
    task: Task
    task_config: TaskConfig
    judge: Judge
    settings: BootstrapSettings
    table: pa.Table
    context: Context


def _open(
    config: EvaluateConfig,
    task_config: TaskConfig,
    split: SplitRecord,
    context: Context,
) -> _Evaluation:
    from pipeline.evaluation.bootstrap import BootstrapSettings
    from pipeline.evaluation.judge import find_judge
    from pipeline.tasks import catalog

    task = catalog.find(task_config.name)
    judge = find_judge(task.scorer.kind, config)
    settings = BootstrapSettings(config.bootstrap, config.confidence, config.seed)
    return _Evaluation(
        config, task, task_config, judge, settings, _test_rows(split), context
    )


def _record(
    saved: EvaluateRecord, finetuned: FinetuneRecord, context: Context
) -> EvaluateRecord:
    """Tells the tracking store."""
    run = recorded_facts.open_parent(context.tracker, finetuned.key, context.root.name)
    recorded_facts.record_evaluation(run, saved)
    run.close()
    return saved


def _test_rows(split: SplitRecord) -> pa.Table:
    from pipeline import manifest

    rows = manifest.read_split(split.manifest, "test")
    if not rows.num_rows:
        raise SplitError(
            "test split",
            found="no examples",
            expected="examples to judge the model on",
            hint="give split.fractions.test more, or bring more data",
        )
    return rows


# --- answers --------------------------------------------------------------------------


def _judge_candidates(
    evaluation: _Evaluation, finetuned: FinetuneRecord
) -> dict[str, Judged]:
    """What each candidate answers, judged; beside it, size and latency of the best go
    to the run's own folder.
    """
    judged: dict[str, Judged] = {}
    # What is said of the examples holds for every candidate.
    context = evaluation.context
    context = replace(context, console=EachLineOnce(context.console))
    for name in finetuned.candidates:
        candidate = finetuned.candidate(name)
        loaded = _load(evaluation, candidate, evaluation.table, context)
        judged[name] = evaluation.judge.judge(loaded, evaluation.table)
        if name == finetuned.best:
            _write_latency(loaded, context.run_dir)
    return judged


def _load(
    evaluation: _Evaluation,
    candidate: CandidateRecord,
    rows: pa.Table,
    context: Context,
) -> LoadedCandidate:
    from pipeline.evaluation.predict import LoadedCandidate

    return LoadedCandidate(
        evaluation.task, evaluation.task_config, candidate, rows, context
    )


def _estimate(
    evaluation: _Evaluation, finetuned: FinetuneRecord, judged: Mapping[str, Judged]
) -> tuple[dict[str, dict[str, MetricEstimate]], list[Comparison]]:
    """The metrics of each candidate, and how the best compares with every other."""
    estimates: dict[str, dict[str, MetricEstimate]] = {}
    comparisons: list[Comparison] = []
    for name, theirs in judged.items():
        unseen = _unseen_rows(finetuned.folder / name, evaluation.table)
        estimates[name] = theirs.subset(unseen).estimate_metrics(evaluation.settings)
        if name != finetuned.best:
            comparisons.append(
                _compare(evaluation, name, judged[finetuned.best], theirs, unseen)
            )
    return estimates, comparisons


def _write_latency(loaded: LoadedCandidate, run_dir: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    latency = loaded.measure_latency()
    values = latency.model_dump(mode="json")
    replace_json(run_dir / recorded_facts.LATENCY_FILE, values)


def _unseen_rows(candidate: Path, table: pa.Table) -> NDArray[np.bool_]:
    """Which test rows (N,) may be asked of a candidate: all, unless it comes from an
    earlier run and brings along the members that it had learnt from then.
    """
    import numpy as np

    from pipeline.training import members

    path = candidate / members.FILE
    if not path.exists():
        return np.ones(table.num_rows, np.bool_)
    return members.unseen_rows(table, members.read_members(path))


def _compare(
    evaluation: _Evaluation,
    name: str,
    ours: Judged,
    theirs: Judged,
    unseen: NDArray[np.bool_],
) -> Comparison:
    """The paired comparison on the examples that both had not seen."""
    settings = evaluation.settings
    comparison = evaluation.judge.compare(
        name, ours.subset(unseen), theirs.subset(unseen), settings
    )
    if unseen.all():
        return comparison
    return comparison.model_copy(update={"examples": int(unseen.sum())})


# --- files ----------------------------------------------------------------------------


def _score_slices(evaluation: _Evaluation, judged: Judged) -> list[SliceScore]:
    from pipeline.evaluation.slices import score_slices, slice_columns

    config = evaluation.config
    table = evaluation.table
    columns = slice_columns(
        table, config.slices, evaluation.task.display.measured_slices
    )
    return score_slices(
        table,
        judged.goodness,
        judged.units,
        columns,
        smallest=config.min_slice,
        settings=evaluation.settings,
    )


def _write_files(
    evaluation: _Evaluation,
    best: CandidateRecord,
    judged: Judged,
    slices: list[SliceScore],
    out: Path,
) -> None:
    """The kind's tables, slices, answers, and the worst of them."""
    from pipeline.evaluation import tables

    judge = evaluation.judge
    judge.write_tables(judged, best.labels, evaluation.settings, out)
    tables.write_slices(slices, judge.goodness_metric, out / "slices.csv")
    judge.write_answers(
        judged, evaluation.table, best.labels, out / "predictions.parquet"
    )
    _write_worst(evaluation, best, judged, out / "worst")


def _write_worst(
    evaluation: _Evaluation, best: CandidateRecord, judged: Judged, folder: Path
) -> None:
    """The worst answers of the best candidate, as the judge describes them."""
    from pipeline.evaluation import tables
    from pipeline.evaluation.judge import ExhibitPlace

    judge = evaluation.judge
    task = evaluation.task
    context = evaluation.context
    worst = judge.find_worst(judged, evaluation.config.worst)
    rows = evaluation.table.take(worst)
    columns = [name for name in rows.column_names if name in EXHIBITED_COLUMNS]
    examples = rows.select(columns).to_pylist()

    def explain(answers: Sequence[int]) -> list[list[Highlight]]:
        if task.explainer is None or not examples:
            return [[] for _ in examples]
        # These rows were among those that were told of.
        quiet = replace(context, console=SilentConsole())
        return _load(evaluation, best, rows, quiet).explain(examples, answers)

    folder.mkdir()
    place = ExhibitPlace(
        examples, best.labels, task.display, context.data, folder, explain
    )
    tables.write_worst(judge.exhibit_worst(judged, worst, place), folder / "worst.json")


# --- warnings -------------------------------------------------------------------------


def _warnings(
    judge: Judge, judged: Judged, labels: tuple[str, ...], slices: list[SliceScore]
) -> list[Finding]:
    """What a reader of the numbers has to know first."""
    findings = [
        _few_examples(judged),
        *judge.warnings(judged, labels),
        _weak_slices(slices, judge.goodness_metric),
    ]
    return [finding for finding in findings if finding is not None]


def _few_examples(judged: Judged) -> Finding | None:
    examples = len(judged.units)
    units = len(set(judged.units.tolist()))
    if examples < FEW_EXAMPLES:
        return Finding(
            code="few-test-examples",
            severity="warning",
            subject="test split",
            found=f"{examples} examples",
            expected=f"at least {FEW_EXAMPLES}, for intervals that tell anything",
            hint="bring more data",
        )
    if units < FEW_UNITS:
        return Finding(
            code="few-test-groups",
            severity="warning",
            subject="test split",
            found=f"{examples} examples in {units} groups",
            expected=f"at least {FEW_UNITS} groups: examples of a group, and near-duplicates, are no independent evidence",
            hint="bring more groups",
        )
    return None


def _weak_slices(slices: list[SliceScore], metric: str) -> Finding | None:
    weak = tuple(
        f"{data_slice.column} = {data_slice.value}"
        for data_slice in slices
        if data_slice.verdict == "below"
    )
    if not weak:
        return None
    return Finding(
        code="weak-slice",
        severity="warning",
        subject="metadata slices",
        found=f"{metric} below the overall one in {len(weak):,}",
        expected="about as good everywhere",
        hint="look at these examples, or bring more like them",
        items=weak,
    )


def _absent_slices(config: EvaluateConfig, table: pa.Table) -> list[Finding]:
    """A warning, since a training is worth more than a table of its slices."""
    from pipeline.evaluation.slices import absent_columns

    absent = absent_columns(table, config.slices)
    if not absent:
        return []
    finding = Finding(
        code="no-such-slice",
        severity="warning",
        subject="evaluate.slices",
        found=f"{len(absent):,} that the data do not have",
        expected="metadata columns of the data",
        hint="name a column that is there, or write auto",
        items=tuple(absent),
    )
    return [finding]


# --- what is told ---------------------------------------------------------------------


def _announce_baseline(record: EvaluateRecord, context: Context) -> None:
    """The age of what it was compared with, where that comes from an earlier run."""
    if record.baseline is None:
        return
    from pipeline.report.formatting import describe_baseline

    context.console.info(
        f"compared with training from scratch: {describe_baseline(record)}"
    )
