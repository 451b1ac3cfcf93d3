"""Evaluate: the best candidate on the test split, once, and how the others do on the same examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from pipeline.evaluation.metrics import Predictions
    from pipeline.evaluation.slices import SliceScore
    from pipeline.records import FinetuneRecord, SplitRecord

FEW_EXAMPLES, FEW_UNITS = 30, 10
LATENCY = "latency.json"  # in the run's own folder: no input determines it


def evaluate(
    config: EvaluateConfig, task: TaskConfig, split: SplitRecord, finetuned: FinetuneRecord, out: Path, context: Context
) -> EvaluateRecord:
    """Judges every candidate on the test split and writes the best one's files into `out`.

    Raises:
        SplitError: there are no test examples.
        TrainingError: a candidate answers with something that is no probability.
    """
    from pipeline.evaluation import metrics

    table = _test_rows(split)
    made = _predictions(task, finetuned, table, context)
    unseen = {name: _unseen(finetuned.folder / name, table) for name in made}
    best = finetuned.candidate()
    ours = made[best.name]
    settings: dict[str, Any] = {"count": config.bootstrap, "confidence": config.confidence, "seed": config.seed}
    found = {
        name: metrics.estimates(one.of(unseen[name]), wanted_k=config.top_k, **settings) for name, one in made.items()
    }
    slices = _write(config, task, table, ours, best.labels, settings, out, context)
    record = EvaluateRecord(
        candidate=best.name,
        model_sha256=best.model_sha256,
        labels=best.labels,
        examples=table.num_rows,
        units=int(ours.units.max()) + 1,
        confidence=config.confidence,
        primary=finetuned.primary,
        higher_is_better=finetuned.higher_is_better,
        metrics=found.pop(best.name),
        others=found,
        comparisons=tuple(_compare(name, ours, made[name], unseen[name], settings) for name in found),
        baseline=finetuned.baseline,
        warnings=(*_warnings(ours, best.labels, slices), *_absent_slices(config, table)),
    )
    _say_baseline(record, context)
    saved = record.save(out)
    run = recorded_facts.open_parent(context.tracker, finetuned.key, context.root.name)
    recorded_facts.record_evaluation(run, saved)
    run.close()
    return saved


def _unseen(candidate: Path, table: pa.Table) -> NDArray[np.bool_]:
    """Which test rows (N,) may be asked of a candidate: all, unless it comes from an earlier run and brings along the
    members that it had learnt from then."""
    import numpy as np

    from pipeline.training import members

    path = candidate / members.FILE
    if not path.exists():
        return np.ones(table.num_rows, np.bool_)
    return members.unseen(table, members.read(path))


def _compare(
    name: str, ours: Predictions, theirs: Predictions, unseen: NDArray[np.bool_], settings: dict[str, Any]
) -> Comparison:
    """The paired comparison on the examples that both had not seen."""
    from pipeline.evaluation import compare

    mine, other = ours.of(unseen), theirs.of(unseen)
    found = compare.compare(name, mine.correct, other.correct, mine.units, **settings)
    return found if unseen.all() else found.model_copy(update={"examples": int(unseen.sum())})


def _say_baseline(record: EvaluateRecord, context: Context) -> None:
    """The age of what it was compared with, where that comes from an earlier run."""
    if record.baseline is None:
        return
    from pipeline.report.formatting import describe_baseline

    context.console.info(f"compared with training from scratch: {describe_baseline(record)}")


def _test_rows(split: SplitRecord) -> pa.Table:
    import pyarrow.compute as pc

    from pipeline import manifest

    table = manifest.read(split.manifest)
    rows = table.filter(pc.equal(table["split"], "test"))
    if not rows.num_rows:
        raise SplitError(
            "test split", found="no examples", expected="examples to judge the model on",
            hint="give split.fractions.test more, or bring more data",
        )  # fmt: skip
    return rows


def _predictions(
    task: TaskConfig, finetuned: FinetuneRecord, table: pa.Table, context: Context
) -> dict[str, Predictions]:
    """What each candidate answers; beside it, size and latency of the best go to the run's own folder."""
    from pipeline.evaluation import metrics
    from pipeline.evaluation.bootstrap import units_of
    from pipeline.evaluation.predict import LoadedCandidate
    from pipeline.tasks import catalog

    kind = catalog.find(task.name)
    units = units_of(table["unit"])
    made = {}
    for name in finetuned.candidates:
        candidate = finetuned.candidate(name)
        ready = LoadedCandidate(kind, task, candidate, table, context)
        probabilities = ready.probabilities()
        metrics.check(probabilities, name, table["path"].to_pylist())
        targets = kind.scorer.targets(table, candidate.labels).numpy()
        made[name] = metrics.Predictions(probabilities, targets, units)
        if name == finetuned.best:
            context.run_dir.mkdir(parents=True, exist_ok=True)
            (context.run_dir / LATENCY).write_text(json.dumps(ready.latency(), indent=2) + "\n", encoding="utf-8")
    return made


def _write(
    config: EvaluateConfig, task: TaskConfig, table: pa.Table, made: Predictions, labels: tuple[str, ...],
    settings: dict[str, Any], out: Path, context: Context,
) -> list[SliceScore]:  # fmt: skip
    from pipeline.evaluation import calibration, per_class, slices, tables
    from pipeline.tasks import catalog

    judged = slices.slices(table, made.correct, made.units, wanted=config.slices, smallest=config.min_slice, **settings)
    tables.predictions(made, table, labels, out / "predictions.parquet")
    tables.confusion(per_class.confusion(made, labels), out / "confusion.csv")
    tables.per_class(per_class.per_class(made, labels, **settings), out / "per_class.csv")
    tables.reliability(calibration.reliability(made, **settings), out / "reliability.csv")
    tables.slices(judged, out / "slices.csv")
    tables.worst(made, table, labels, catalog.find(task.name).display, context.data, out / "worst", config.worst)
    return judged


def _warnings(made: Predictions, labels: tuple[str, ...], slices: list[SliceScore]) -> list[Finding]:
    examples, units = len(made.targets), len(set(made.units.tolist()))
    present = set(made.targets.tolist())
    absent = tuple(label for code, label in enumerate(labels) if code not in present)
    weak = tuple(f"{one.column} = {one.value}" for one in slices if one.verdict == "below")
    found = []
    if examples < FEW_EXAMPLES:
        found.append(_warning("few-test-examples", "test split", f"{examples} examples",
            f"at least {FEW_EXAMPLES}, for intervals that tell anything", "bring more data"))  # fmt: skip
    elif units < FEW_UNITS:
        found.append(_warning("few-test-groups", "test split", f"{examples} examples in {units} groups",
            f"at least {FEW_UNITS} groups: examples of a group, and near-duplicates, are no independent evidence",
            "bring more groups"))  # fmt: skip
    if absent:
        found.append(_warning("class-not-tested", "test split", f"no examples of {len(absent)} classes",
            "examples of every class", "bring more of them; the averages over classes leave them out", absent))  # fmt: skip
    if weak:
        found.append(_warning("weak-slice", "metadata slices", f"accuracy below the overall one in {len(weak)}",
            "about as good everywhere", "look at these examples, or bring more like them", weak))  # fmt: skip
    return found


def _absent_slices(config: EvaluateConfig, table: pa.Table) -> list[Finding]:
    """A warning, since a training is worth more than a table of its slices."""
    from pipeline.evaluation.slices import absent_columns

    absent = absent_columns(table, config.slices)
    if not absent:
        return []
    return [
        _warning(
            "no-such-slice",
            "evaluate.slices",
            f"{len(absent)} that the data do not have",
            "metadata columns of the data",
            "name a column that is there, or write auto",
            tuple(absent),
        )
    ]


def _warning(code: str, subject: str, found: str, expected: str, hint: str, items: tuple[str, ...] = ()) -> Finding:
    return Finding(
        code=code, severity="warning", subject=subject, found=found, expected=expected, hint=hint, items=items
    )
