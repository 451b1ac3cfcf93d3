"""Evaluate: the best candidate on the test split, once, and how the others do on the same examples."""

from __future__ import annotations

import json
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
    from pipeline.evaluation.metrics import Predictions
    from pipeline.evaluation.predict import LoadedCandidate
    from pipeline.evaluation.slices import SliceScore
    from pipeline.records import CandidateRecord, FinetuneRecord, SplitRecord
    from pipeline.tasks.base import Highlight, Task

FEW_EXAMPLES, FEW_UNITS = 30, 10
EXHIBITED_COLUMNS = ("id", "path", "target", "content")
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
    from pipeline.evaluation.metrics import estimate_metrics
    from pipeline.tasks import catalog

    task = catalog.find(task_config.name)
    settings = BootstrapSettings(config.bootstrap, config.confidence, config.seed)
    table = _test_rows(split)
    predictions = _predict(task, task_config, finetuned, table, context)
    estimates = {}
    comparisons = []
    best = finetuned.candidate()
    ours = predictions[best.name]
    for name, theirs in predictions.items():
        unseen = _unseen_rows(finetuned.folder / name, table)
        estimates[name] = estimate_metrics(theirs.subset(unseen), settings, wanted_k=config.top_k)
        if name != best.name:
            comparisons.append(_compare(name, ours, theirs, unseen, settings))
    slices = _score_slices(config, task, table, ours, settings)
    _write_tables(ours, best.labels, slices, settings, out)
    _write_examples(table, ours, best.labels, out)
    _write_worst_errors(config, task, task_config, best, table, ours, out, context)
    warnings = _warnings(ours, best.labels, slices) + _absent_slices(config, table)
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


# --- predictions -------------------------------------------------------------------------------------------------


def _predict(
    task: Task, task_config: TaskConfig, finetuned: FinetuneRecord, table: pa.Table, context: Context
) -> dict[str, Predictions]:
    """What each candidate answers; beside it, size and latency of the best go to the run's own folder."""
    import numpy as np

    from pipeline.evaluation.bootstrap import number_units
    from pipeline.evaluation.metrics import Predictions, check_probabilities
    from pipeline.evaluation.predict import LoadedCandidate

    units = number_units(table["unit"])
    predictions = {}
    for name in finetuned.candidates:
        candidate = finetuned.candidate(name)
        loaded = LoadedCandidate(task, task_config, candidate, table, context)
        probabilities = loaded.answers()
        check_probabilities(probabilities, name, table["path"].to_pylist())
        targets = np.asarray(task.scorer.targets(table, candidate.labels))
        predictions[name] = Predictions(probabilities, targets, units)
        if name == finetuned.best:
            _write_latency(loaded, context.run_dir)
    return predictions


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
    name: str, ours: Predictions, theirs: Predictions, unseen: NDArray[np.bool_], settings: BootstrapSettings
) -> Comparison:
    """The paired comparison on the examples that both had not seen."""
    from pipeline.evaluation.compare import compare_accuracies

    our_unseen = ours.subset(unseen)
    their_unseen = theirs.subset(unseen)
    comparison = compare_accuracies(name, our_unseen.correct, their_unseen.correct, our_unseen.units, settings)
    if unseen.all():
        return comparison
    return comparison.model_copy(update={"examples": int(unseen.sum())})


# --- files -------------------------------------------------------------------------------------------------------


def _score_slices(
    config: EvaluateConfig, task: Task, table: pa.Table, predictions: Predictions, settings: BootstrapSettings
) -> list[SliceScore]:
    from pipeline.evaluation.slices import score_slices, slice_columns

    columns = slice_columns(table, config.slices, task.display.measured_slices)
    return score_slices(
        table, predictions.correct, predictions.units, columns, smallest=config.min_slice, settings=settings
    )


def _write_tables(
    predictions: Predictions,
    labels: tuple[str, ...],
    slices: list[SliceScore],
    settings: BootstrapSettings,
    out: Path,
) -> None:
    from pipeline.evaluation import tables
    from pipeline.evaluation.calibration import reliability_bins
    from pipeline.evaluation.per_class import count_confusions, score_classes

    tables.write_confusion(count_confusions(predictions, labels), out / "confusion.csv")
    tables.write_classes(score_classes(predictions, labels, settings), out / "per_class.csv")
    tables.write_reliability(reliability_bins(predictions, settings), out / "reliability.csv")
    tables.write_slices(slices, out / "slices.csv")


def _write_examples(table: pa.Table, predictions: Predictions, labels: tuple[str, ...], out: Path) -> None:
    from pipeline.evaluation import tables

    tables.write_predictions(predictions, table, labels, out / "predictions.parquet")


def _write_worst_errors(
    config: EvaluateConfig,
    task: Task,
    task_config: TaskConfig,
    best: CandidateRecord,
    table: pa.Table,
    predictions: Predictions,
    out: Path,
    context: Context,
) -> None:
    """The most confident mistakes of the best candidate, with what spoke for its answers where the task can say."""
    from pipeline.evaluation import tables
    from pipeline.evaluation.predict import LoadedCandidate

    worst = tables.find_worst_errors(predictions, config.worst)
    rows = table.take(worst)
    columns = [name for name in EXHIBITED_COLUMNS if name in table.column_names]
    examples = rows.select(columns).to_pylist()
    highlights: list[list[Highlight]] = [[] for _ in examples]
    if task.explainer is not None and examples:
        quiet = replace(context, console=SilentConsole())  # these rows were among those that were told of
        loaded = LoadedCandidate(task, task_config, best, rows, quiet)
        answers = [int(answer) for answer in predictions.predicted[worst]]
        highlights = loaded.explain(examples, answers)
    place = tables.ExhibitFolder(task.display, context.data, out / "worst")
    tables.write_worst_errors(predictions, worst, examples, highlights, best.labels, place)


# --- warnings ----------------------------------------------------------------------------------------------------


def _warnings(predictions: Predictions, labels: tuple[str, ...], slices: list[SliceScore]) -> list[Finding]:
    """What a reader of the numbers has to know first."""
    findings = [
        _few_examples(predictions),
        _untested_classes(predictions, labels),
        _weak_slices(slices),
    ]
    return [finding for finding in findings if finding is not None]


def _few_examples(predictions: Predictions) -> Finding | None:
    examples = len(predictions.targets)
    units = len(set(predictions.units.tolist()))
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


def _untested_classes(predictions: Predictions, labels: tuple[str, ...]) -> Finding | None:
    present = set(predictions.targets.tolist())
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


def _weak_slices(slices: list[SliceScore]) -> Finding | None:
    weak = tuple(f"{one.column} = {one.value}" for one in slices if one.verdict == "below")
    if not weak:
        return None
    return Finding(
        code="weak-slice",
        severity="warning",
        subject="metadata slices",
        found=f"accuracy below the overall one in {len(weak)}",
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
