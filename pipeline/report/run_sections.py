"""What the page says of the run itself: data, split, training, and how the model is
used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

from pipeline import metric_registry
from pipeline.metric_registry import Metric
from pipeline.records import (
    CandidateRecord,
    EvaluateRecord,
    FinetuneRecord,
    InputSpec,
    MetricEstimate,
    PromoteRecord,
    SplitRecord,
    TextInputSpec,
    TruncatedTexts,
)
from pipeline.report import charts, files, formatting
from pipeline.report.flip_section import name_ways
from pipeline.report.report_context import ReportContext, Sweep

LISTED_CLASSES = 30
LISTED_PATHS = 200
SPLITS = ("train", "val", "test")
DIVERGED = 1.3  # times a sweep's first loss
FIT_NAMES = {"crop": "centre crop", "squash": "squashed", "pad": "padded"}
POOLING_NAMES = {
    "mean": "the mean of the tokens",
    "cls": "the first token",
    "last": "the last token",
}


# --- data and split -------------------------------------------------------------------


@dataclass(frozen=True)
class SplitRow:
    """Examples of one class by split.

    Args:
        shares: of the largest class's examples.
    """

    label: str
    counts: dict[str, int]
    total: int
    shares: dict[str, float]


@dataclass(frozen=True)
class SplitSection:
    """Examples by class and split; of very many classes, the largest and the smallest.

    Args:
        totals: of all classes.
        more: how many classes are not listed.
    """

    rows: list[SplitRow]
    totals: dict[str, int]
    more: int


def split_section(split: SplitRecord) -> SplitSection:
    counts_of: dict[str, dict[str, int]] = {}
    for label in split.labels:
        counts_of[label] = {
            name: split.counts.get(name, {}).get(label, 0) for name in SPLITS
        }
    largest = (
        max((sum(counts.values()) for counts in counts_of.values()), default=1) or 1
    )
    rows = [_split_row(label, counts, largest) for label, counts in counts_of.items()]
    totals = {name: split.size(name) for name in SPLITS}
    more = max(0, len(rows) - LISTED_CLASSES)
    if more:
        rows.sort(key=lambda row: -row.total)
        rows = rows[: LISTED_CLASSES // 2] + rows[-LISTED_CLASSES // 2 :]
    return SplitSection(rows, totals, more)


def _split_row(label: str, counts: dict[str, int], largest: int) -> SplitRow:
    shares = {name: examples / largest for name, examples in counts.items()}
    total = sum(counts.values())
    return SplitRow(label, counts, total, shares)


@dataclass(frozen=True)
class QuarantineGroup:
    """Examples that cannot be used for one reason.

    Args:
        rows: the first of them.
        examples: how many there are.
    """

    code: str
    hint: str
    rows: list[Mapping[str, str]]
    examples: int


def quarantine_section(rows: Sequence[Mapping[str, str]]) -> list[QuarantineGroup]:
    """Unusable examples by reason; the rows are in the order of their codes."""
    groups = []
    for code, members in itertools.groupby(rows, key=lambda row: row["code"]):
        group = list(members)
        groups.append(
            QuarantineGroup(code, group[0]["hint"], group[:LISTED_PATHS], len(group))
        )
    return groups


# --- training -------------------------------------------------------------------------


def describe_input(spec: InputSpec, truncated: TruncatedTexts | None = None) -> str:
    """How an example is presented to the network.

    Args:
        truncated: of the texts that it was trained and validated on, where that is
            known.
    """
    if isinstance(spec, TextInputSpec):
        parts = [
            f"at most {spec.max_tokens} tokens, padded to a multiple of {spec.bucket}",
            f"read out at {POOLING_NAMES[spec.pooling]}",
        ]
        if truncated is not None:
            parts.append(f"of train and validation, {truncated.describe()}")
        return "; ".join(parts)
    size = f"{spec.size} × {spec.size}"
    resized = ""
    if spec.resize != spec.size:
        resized = f" of {spec.resize} × {spec.resize}"
    return f"{size}{resized}, {FIT_NAMES[spec.fit]}"


def describe_training_loss(spec: InputSpec) -> str:
    """How the curve of the training loss differs from that of the validation loss."""
    measured = "augmented examples"
    if isinstance(spec, TextInputSpec):
        measured = "the network while it learns, with dropout"
    return f"The training loss includes label smoothing and class weights where they are set, and is measured on {measured}; the validation loss is not"


def describe_network(design: Mapping[str, Any]) -> str:
    """What was new in the network, and by which boxes a detector's answers start; ""
    where the design says neither.

    Args:
        design: of a candidate.
    """
    sentences = []
    if "network" in design:
        sentences.append(
            "All of it but the layers that depend on classes was pretrained."
        )
    elif "maps" in design:
        sentences.append("Its body was pretrained, the head is new.")
    if "anchors" in design:
        origin = (
            "those that the weights were trained with"
            if "network" in design
            else "chosen by the training boxes"
        )
        sentences.append(f"Anchors, {origin}: {_describe_anchors(design)}.")
    if "detections" in design:
        most = design["detections"]
        sentences.append(f"A picture's answer has at most {most:,} boxes.")
    return " ".join(sentences)


def _describe_anchors(design: Mapping[str, Any]) -> str:
    levels = design["anchors"]
    sides = levels
    everywhere = ""
    if isinstance(levels[0], list):
        sides = levels[0]
        everywhere = " at every level"
    listed = ", ".join(f"{side:g}" for side in sides)
    ratios = ", ".join(f"{ratio:g}" for ratio in design["ratios"])
    return f"sides of {listed} px{everywhere}, height to width {ratios}"


def describe_request(spec: InputSpec) -> str:
    """What `thaw predict` is given by someone who has new examples."""
    if isinstance(spec, TextInputSpec):
        if len(spec.columns) == 1:
            return '"A TEXT" TABLE…'
        return '"A TEXT" "ITS PAIR" TABLE…'
    return "FILES…"


@dataclass(frozen=True)
class StageColumn:
    """A stage of the schedule: its epochs, counted over the whole recipe, and the best
    of its own.
    """

    name: str
    first_epoch: int
    last_epoch: int
    best_epoch: int


@dataclass(frozen=True)
class BlocksCell:
    """What a stage did to some blocks: their lowest and highest learning rate, 0 where
    they were frozen or solved.
    """

    is_trained: bool
    low: float
    high: float


@dataclass(frozen=True)
class BlocksRow:
    """A run of blocks that were treated alike, from `first` (nearer the input) to
    `last`.
    """

    first: str
    last: str
    blocks: int
    cells: list[BlocksCell]


@dataclass(frozen=True)
class ScheduleSection:
    """Which stage trained which blocks: a row a run of blocks, the head on top, a
    column a stage.
    """

    columns: list[StageColumn]
    rows: list[BlocksRow]


def schedule_section(
    candidate: CandidateRecord, blocks: Sequence[str]
) -> ScheduleSection:
    """The schedule of a candidate; `blocks` are named from input to output."""

    def stages_that_train(block: str) -> tuple[bool, ...]:
        return tuple(block in stage.trained for stage in candidate.stages)

    rows = []
    for _, run in itertools.groupby(blocks, key=stages_that_train):
        names = list(run)
        rows.append(
            BlocksRow(names[0], names[-1], len(names), _blocks_cells(candidate, names))
        )
    rows.reverse()
    columns = []
    done = 0
    for stage in candidate.stages:
        columns.append(
            StageColumn(stage.name, done + 1, done + stage.epochs, stage.best_epoch)
        )
        done += stage.epochs
    return ScheduleSection(columns, rows)


def _blocks_cells(candidate: CandidateRecord, names: Sequence[str]) -> list[BlocksCell]:
    cells = []
    for stage in candidate.stages:
        rates = [stage.lr[name] for name in names if name in stage.lr]
        low = min(rates, default=0.0)
        high = max(rates, default=0.0)
        cells.append(BlocksCell(names[0] in stage.trained, low, high))
    return cells


@dataclass(frozen=True)
class Figure:
    """A chart with its title."""

    title: str
    chart: Markup


def curve_figures(finetuned: FinetuneRecord) -> list[Figure]:
    """Losses of the best candidate, and the metric that chose for every candidate;
    without those that have no points.
    """
    curves = {}
    for name in finetuned.candidates:
        curves[name] = files.read_csv(finetuned.folder / name / "curves.csv")
    marks = _stage_starts(curves[finetuned.best])
    figures = [
        _loss_figure(finetuned.best, curves[finetuned.best], marks),
        _primary_figure(finetuned, curves, marks),
    ]
    return [figure for figure in figures if figure.chart]


def _stage_starts(curve: Iterable[Mapping[str, str]]) -> list[charts.Mark]:
    """Where each stage begins, if there is more than one."""
    starts: dict[str, float] = {}
    for row in curve:
        starts.setdefault(row["stage"], float(row["epoch"]))
    if len(starts) < 2:
        return []
    return [charts.Mark(epoch, stage) for stage, epoch in starts.items()]


def _loss_figure(
    name: str, curve: list[dict[str, str]], marks: Sequence[charts.Mark]
) -> Figure:
    lines = [
        charts.Line("train", _curve_points(curve, "train", "loss"), "second"),
        charts.Line("validation", _curve_points(curve, "val", "log_loss"), "main"),
    ]
    chart = charts.draw_lines(
        f"Loss of {name} by epoch, in training and on validation",
        lines,
        x_label="epoch",
        y_format=_format_tick,
        marks=marks,
    )
    return Figure(f"Loss, {name}", chart)


def _primary_figure(
    finetuned: FinetuneRecord,
    curves: Mapping[str, list[dict[str, str]]],
    marks: Sequence[charts.Mark],
) -> Figure:
    metric = metric_registry.find(finetuned.primary)
    best_last = sorted(finetuned.candidates, key=lambda name: name == finetuned.best)
    lines = []
    for name in best_last:
        points = _curve_points(curves[name], "val", metric.name)
        lines.append(
            charts.Line(name, points, "main" if name == finetuned.best else "faint")
        )
    chart = charts.draw_lines(
        f"Validation {metric.title.lower()} by epoch, for every candidate",
        lines,
        x_label="epoch",
        y_format=_format_share_tick if metric.is_share else _format_tick,
        marks=marks,
    )
    return Figure(f"{metric.title} on validation", chart)


def _curve_points(
    curve: Iterable[Mapping[str, str]], split: str, metric: str
) -> list[charts.Point]:
    points = []
    for row in curve:
        if row["split"] == split and row["metric"] == metric:
            points.append((float(row["epoch"]), float(row["value"])))
    return points


def _format_tick(value: float) -> str:
    return f"{value:.2g}"


def _format_share_tick(value: float) -> str:
    return f"{value:.0%}"


def sweep_figure(sweep: Sweep) -> Figure:
    """The loss by learning rate, up to where it diverges: past that a sweep shows
    nothing but its own height.
    """
    title = f"Loss by learning rate, {sweep.candidate}, stage {sweep.stage}"
    limit = DIVERGED * sweep.losses[0]
    points = []
    for rate, loss in zip(sweep.rates, sweep.losses, strict=True):
        if not loss < limit:  # or is no number
            break
        points.append((rate, loss))
    marks = []
    if sweep.suggestion:
        marks.append(
            charts.Mark(sweep.suggestion, formatting.format_rate(sweep.suggestion))
        )
    line = charts.Line("", points)
    chart = charts.draw_lines(
        title,
        [line],
        x_label="learning rate",
        y_format=_format_tick,
        marks=marks,
        log_x=True,
    )
    return Figure(title, chart)


@dataclass(frozen=True)
class CandidateRow:
    """A candidate with the primary metric on validation and test, where it has it."""

    record: CandidateRecord
    validation: float | None
    test: MetricEstimate | None
    is_best: bool


def candidate_rows(
    finetuned: FinetuneRecord, evaluated: EvaluateRecord
) -> list[CandidateRow]:
    """The candidates, the best first."""
    best_first = sorted(finetuned.candidates, key=lambda name: name != finetuned.best)
    rows = []
    for name in best_first:
        record = finetuned.candidate(name)
        if name == evaluated.candidate:
            tested = evaluated.metrics
        else:
            tested = evaluated.others.get(name, {})
        validation = record.val.get(finetuned.primary)
        rows.append(
            CandidateRow(
                record,
                validation,
                tested.get(finetuned.primary),
                name == finetuned.best,
            )
        )
    return rows


def primary_metric(finetuned: FinetuneRecord) -> Metric:
    return metric_registry.find(finetuned.primary)


# --- use and provenance ---------------------------------------------------------------


def model_uri(promoted: PromoteRecord) -> str:
    """The shortest lasting name of the registered model: by alias where it is champion."""
    if promoted.is_champion:
        return f"models:/{promoted.model}@champion"
    return f"models:/{promoted.model}/{promoted.version}"


class PromotionSection(NamedTuple):
    """What the report says of a decision.

    Args:
        sentence: the decision and its reason.
        bounds: how certain each bound of the gain is; empty where there is none.
        facts: name and value, in rows.
    """

    sentence: str
    bounds: str
    facts: tuple[tuple[str, str], ...]


DECISIONS = {
    "promote": "It became the champion",
    "reject": "It was not promoted",
    "cannot-tell": "It was not promoted, as the test split cannot tell",
    "nothing-to-decide": "There was nothing to decide",
    "none": "There was nothing to decide",
}


def describe_verdict(promoted: PromoteRecord) -> PromotionSection:
    """A decision with its figures."""
    decision = (
        "It waits for approval" if promoted.waits else DECISIONS[promoted.decision]
    )
    facts: list[tuple[str, str]] = []
    bounds = ""
    if promoted.gain is not None:
        gain = promoted.gain
        value, low, high = (
            formatting.format_gain(value, promoted.metric)
            for value in (gain.value, gain.low, gain.high)
        )
        bounds = f"{1 - promoted.error_rate:.2%}"
        name = f"Gain in {formatting.metric_title(promoted.metric)}"
        facts.append((name, f"{value} ({low} to {high})"))
    if promoted.examples:
        facts.append(("Test examples that both answered", f"{promoted.examples:,}"))
    if promoted.seen:
        facts.append(
            ("Left out: the champion had learnt from them", f"{promoted.seen:,}")
        )
    facts += _flip_facts(promoted)
    if promoted.looks:
        facts.append(
            (
                "Looks at this test split",
                f"{promoted.looks} of {promoted.looks_allowed}",
            )
        )
    return PromotionSection(f"{decision}: {promoted.reason}.", bounds, tuple(facts))


def _flip_facts(promoted: PromoteRecord) -> Iterator[tuple[str, str]]:
    """On how many examples it is better, and worse, than the champion."""
    if promoted.better is None or promoted.worse is None:
        return
    for title, count in zip(
        name_ways(promoted), (promoted.better, promoted.worse), strict=True
    ):
        yield title, f"{count:,} ({count / max(promoted.examples, 1):.1%})"


@dataclass(frozen=True)
class StepTime:
    """What a step took, in seconds and as a share of the longest."""

    step: str
    seconds: float
    share: float


def step_times(context: ReportContext) -> list[StepTime]:
    longest = max(context.seconds.values(), default=0.0) or 1.0
    return [
        StepTime(step, seconds, seconds / longest)
        for step, seconds in context.seconds.items()
    ]
