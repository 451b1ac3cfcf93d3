"""Evaluate: the best candidate on the test split, once, and how the others do on the same examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.context import SilentConsole
from pipeline.errors import SplitError
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
    from pipeline.records import CandidateRecord, FinetuneRecord, SplitRecord
    from pipeline.tasks.base import Highlight, Task

FEW_EXAMPLES, FEW_UNITS = 30, 10
EXHIBITED_COLUMNS = ("id", "path", "target", "content", "scan.width", "scan.height")
LATENCY = "latency.json"  # in the run's own folder: no input determines it


def evaluate(
    config: EvaluateConfig,
    task_config: TaskConfig,
    split: SplitRecord,
    finetuned: FinetuneRecord,
    out: Path,
    context: Context,
) -> EvaluateRecord:
    """Judges every candidate on the test split and writes the best one's files into `out`.

    Raises:
        SplitError: there are no test examples.
        TrainingError: a candidate answers with something that is no probability.
    """
    from pipeline.evaluation.bootstrap import BootstrapSettings
    from pipeline.evaluation.judge import find_judge
    from pipeline.tasks import catalog

    task = catalog.find(task_config.name)
    judge = find_judge(task.scorer.kind, config)
    settings = BootstrapSettings(config.bootstrap, config.confidence, config.seed)
    table = _test_rows(split)
    judged = _judge_candidates(judge, task, task_config, finetuned, table, context)
    estimates = {}
    comparisons = []
    best = finetuned.candidate()
    ours = judged[best.name]
    for name, theirs in judged.items():
        unseen = _unseen_rows(finetuned.folder / name, table)
        estimates[name] = theirs.subset(unseen).estimate_metrics(settings)
        if name != best.name:
            comparisons.append(_compare(judge, name, ours, theirs, unseen, settings))
    slices = _score_slices(config, task, table, ours, settings)
    judge.write_tables(ours, best.labels, settings, out)
    _write_slices(slices, judge.goodness_metric, out)
    judge.write_answers(ours, table, best.labels, out / "predictions.parquet")
    _write_worst(config, judge, task, task_config, best, table, ours, out, context)
    warnings = _warnings(judge, ours, best.labels, slices) + _absent_slices(config, table)
    record = EvaluateRecord(
        candidate=best.name,
        model_sha256=best.model_sha256,
        labels=best.labels,
        examples=table.num_rows,
        units=int(ours.units.max()) + 1,
        confidence=config.confidence,
        primary=finetuned.primary,
        higher_is_better=finetuned.higher_is_better,
        metrics=estimates.pop(best.name),
        others=estimates,
        comparisons=tuple(comparisons),
        baseline=finetuned.baseline,
        warnings=tuple(warnings),
        targets=task.scorer.kind,
        slice_metric=judge.goodness_metric,
    )
    _announce_baseline(record, context)
    saved = record.save(out)
    run = recorded_facts.open_parent(context.tracker, finetuned.key, context.root.name)
    recorded_facts.record_evaluation(run, saved)
    run.close()
    return saved


def _test_rows(split: SplitRecord) -> pa.Table:
    import pyarrow.compute as pc

    from pipeline import manifest

    table = manifest.read(split.manifest)
    rows = table.filter(pc.equal(table["split"], "test"))
    if not rows.num_rows:
        raise SplitError(
            "test split",
            found="no examples",
            expected="examples to judge the model on",
            hint="give split.fractions.test more, or bring more data",
        )
    return rows


# --- answers -----------------------------------------------------------------------------------------------------


def _judge_candidates(
    judge: Judge,
    task: Task,
    task_config: TaskConfig,
    finetuned: FinetuneRecord,
    table: pa.Table,
    context: Context,
) -> dict[str, Judged]:
    """What each candidate answers, judged; beside it, size and latency of the best go to the run's own folder."""
    from pipeline.evaluation.predict import LoadedCandidate

    judged: dict[str, Judged] = {}
    for name in finetuned.candidates:
        loaded = LoadedCandidate(task, task_config, finetuned.candidate(name), table, context)
        judged[name] = judge.judge(loaded, table)
        if name == finetuned.best:
            _write_latency(loaded, context.run_dir)
    return judged


def _write_latency(loaded: LoadedCandidate, run_dir: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    latency = loaded.measure_latency()
    text = json.dumps(latency.model_dump(mode="json"), indent=2)
    (run_dir / LATENCY).write_text(text + "\n", encoding="utf-8")


def _unseen_rows(candidate: Path, table: pa.Table) -> NDArray[np.bool_]:
    """Which test rows (N,) may be asked of a candidate: all, unless it comes from an earlier run and brings along the
    members that it had learnt from then."""
    import numpy as np

    from pipeline.training import members

    path = candidate / members.FILE
    if not path.exists():
        return np.ones(table.num_rows, np.bool_)
    return members.unseen_rows(table, members.read_members(path))


def _compare(
    judge: Judge,
    name: str,
    ours: Judged,
    theirs: Judged,
    unseen: NDArray[np.bool_],
    settings: BootstrapSettings,
) -> Comparison:
    """The paired comparison on the examples that both had not seen."""
    comparison = judge.compare(name, ours.subset(unseen), theirs.subset(unseen), settings)
    if unseen.all():
        return comparison
    return comparison.model_copy(update={"examples": int(unseen.sum())})


# --- files -------------------------------------------------------------------------------------------------------


def _score_slices(
    config: EvaluateConfig, task: Task, table: pa.Table, judged: Judged, settings: BootstrapSettings
) -> list[SliceScore]:
    from pipeline.evaluation.slices import score_slices, slice_columns

    columns = slice_columns(table, config.slices, task.display.measured_slices)
    return score_slices(table, judged.goodness, judged.units, columns, smallest=config.min_slice, settings=settings)


def _write_slices(slices: list[SliceScore], metric: str, out: Path) -> None:
    from pipeline.evaluation import tables

    tables.write_slices(slices, metric, out / "slices.csv")


def _write_worst(
    config: EvaluateConfig,
    judge: Judge,
    task: Task,
    task_config: TaskConfig,
    best: CandidateRecord,
    table: pa.Table,
    judged: Judged,
    out: Path,
    context: Context,
) -> None:
    """The worst answers of the best candidate, as the judge describes them."""
    from pipeline.evaluation import tables
    from pipeline.evaluation.judge import ExhibitPlace
    from pipeline.evaluation.predict import LoadedCandidate

    worst = judge.find_worst(judged, config.worst)
    rows = table.take(worst)
    columns = [name for name in rows.column_names if name in EXHIBITED_COLUMNS]
    examples = rows.select(columns).to_pylist()

    def explain(answers: Sequence[int]) -> list[list[Highlight]]:
        if task.explainer is None or not examples:
            return [[] for _ in examples]
        quiet = replace(context, console=SilentConsole())  # these rows were among those that were told of
        loaded = LoadedCandidate(task, task_config, best, rows, quiet)
        return loaded.explain(examples, answers)

    folder = out / "worst"
    folder.mkdir()
    place = ExhibitPlace(examples, best.labels, task.display, context.data, folder, explain)
    tables.write_worst(judge.exhibit_worst(judged, worst, place), folder / "worst.json")


# --- warnings ----------------------------------------------------------------------------------------------------


def _warnings(judge: Judge, judged: Judged, labels: tuple[str, ...], slices: list[SliceScore]) -> list[Finding]:
    """What a reader of the numbers has to know first."""
    findings = [_few_examples(judged), *judge.warnings(judged, labels), _weak_slices(slices, judge.goodness_metric)]
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
    weak = tuple(f"{one.column} = {one.value}" for one in slices if one.verdict == "below")
    if not weak:
        return None
    return Finding(
        code="weak-slice",
        severity="warning",
        subject="metadata slices",
        found=f"{metric} below the overall one in {len(weak)}",
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
        found=f"{len(absent)} that the data do not have",
        expected="metadata columns of the data",
        hint="name a column that is there, or write auto",
        items=tuple(absent),
    )
    return [finding]


# --- what is told ------------------------------------------------------------------------------------------------


def _announce_baseline(record: EvaluateRecord, context: Context) -> None:
    """The age of what it was compared with, where that comes from an earlier run."""
    if record.baseline is None:
        return
    from pipeline.report.formatting import describe_baseline

    context.console.info(f"compared with training from scratch: {describe_baseline(record)}")
