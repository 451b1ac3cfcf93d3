"""What each section of the page says, worked out from records and their files; the templates only set it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipeline.records import (
    CandidateRecord,
    EvaluateRecord,
    FinetuneRecord,
    MetricEstimate,
    RegisterRecord,
    SplitRecord,
)
from pipeline.report import charts, files, formatting
from pipeline.report.report_context import ReportContext, Sweep

MATRIX_CLASSES = 16  # with more, the matrix is left out for the list of its largest errors
LISTED_CLASSES = 30
CONFUSIONS = 10
Row = dict[str, Any]
SHORT = 12  # items of a finding shown before the rest is folded away
PATHS_SHOWN = 200
DIVERGED = 1.3  # times a sweep's first loss


@dataclass(frozen=True)
class Range:
    """A value with its interval on a scale, as shares of the scale's length."""

    value: float
    low: float
    high: float
    others: tuple[float, ...]


def on_scale(found: MetricEstimate, low: float, high: float, others: Iterable[float] = ()) -> Range:
    def at(value: float) -> float:
        return min(1.0, max(0.0, (value - low) / ((high - low) or 1)))

    return Range(at(found.value), at(found.low), at(found.high), tuple(at(other) for other in others))


def floor_of(values: Iterable[float]) -> float:
    """Where a scale of shares begins: the round tenth below the smallest."""
    smallest = min(values, default=0.0)
    return max(0.0, min(0.9, int(smallest * 10 - 1e-9) / 10))


# --- result ---------------------------------------------------------------------------------------------
def metrics(evaluated: EvaluateRecord) -> dict[str, Any]:
    """The metrics in two groups, each on one scale: shares, where more is better, and the rest on their own."""
    every = [evaluated.metrics, *evaluated.others.values()]
    ordered = sorted(evaluated.metrics, key=formatting.order)
    rising = [name for name in ordered if formatting.meaning(name).higher_is_better]
    low = floor_of(one[name].low for one in every for name in rising if name in one)
    rows: list[Row] = []
    for name in (evaluated.primary, *(name for name in rising if name != evaluated.primary)):
        if name in rising:
            rows.append(_metric(evaluated, name, low, 1.0))
    for name in ordered:
        if name not in rising:
            rows.append(_metric(evaluated, name, 0.0, max(one[name].high for one in every if name in one)))
    return {"rows": rows, "low": low, "others": list(evaluated.others)}


def _metric(evaluated: EvaluateRecord, name: str, low: float, high: float) -> dict[str, Any]:
    found = evaluated.metrics[name]
    others = {other: one[name] for other, one in evaluated.others.items() if name in one}
    return {
        "name": name, "meaning": formatting.meaning(name), "found": found, "others": others,
        "range": on_scale(found, low, high, (one.value for one in others.values())),
    }  # fmt: skip


# --- mistakes -------------------------------------------------------------------------------------------
def per_class(evaluated: EvaluateRecord) -> dict[str, Any]:
    """Rows a class, weakest recall first; of very many classes, the weakest."""
    rows: list[Row] = []
    for line in files.table(evaluated.folder / "per_class.csv"):
        rows.append({
            "label": line["label"], "examples": int(line["examples"]), "recall": files.estimate(line, "recall"),
            "precision": files.value(line, "precision"), "f1": files.value(line, "f1"),
        })  # fmt: skip
    rows.sort(key=lambda row: row["recall"].value if row["recall"] else 2.0)
    low = floor_of(row["recall"].low for row in rows if row["recall"])
    for row in rows:
        row["range"] = on_scale(row["recall"], low, 1.0) if row["recall"] else None
    return {"rows": rows[:LISTED_CLASSES], "more": max(0, len(rows) - LISTED_CLASSES), "low": low}


def confusion(evaluated: EvaluateRecord) -> dict[str, Any]:
    """The matrix for few classes, and the most frequent confusions for any number."""
    counts = {
        (row["target"], row["predicted"]): int(row["examples"])
        for row in files.table(evaluated.folder / "confusion.csv")
    }
    wrong = sorted(((n, t, p) for (t, p), n in counts.items() if t != p), key=lambda one: (-one[0], one[1], one[2]))
    told = [one for one in wrong if one[0] > 1 or len(evaluated.labels) > MATRIX_CLASSES]
    labels = evaluated.labels
    matrix = []
    if len(labels) <= MATRIX_CLASSES:
        for target in labels:
            total = sum(counts.get((target, predicted), 0) for predicted in labels)
            cells = [
                {"examples": n, "share": n / total if total else 0.0, "right": target == predicted, "label": predicted}
                for predicted in labels
                for n in [counts.get((target, predicted), 0)]
            ]
            matrix.append({"label": target, "cells": cells, "total": total})
    right = sum(n for (target, predicted), n in counts.items() if target == predicted)
    return {"matrix": matrix, "top": told[:CONFUSIONS], "right": right}


# --- slices and calibration -----------------------------------------------------------------------------
def slices(evaluated: EvaluateRecord) -> dict[str, Any]:
    rows: list[Row] = []
    for line in files.table(evaluated.folder / "slices.csv"):
        rows.append({**line, "examples": int(line["examples"]), "accuracy": files.estimate(line, "accuracy")})
    judged = [row for row in rows if row["accuracy"]]
    overall = evaluated.metrics["accuracy"]
    low = floor_of([overall.low, *(row["accuracy"].low for row in judged)])
    for row in judged:
        row["range"] = on_scale(row["accuracy"], low, 1.0)
    columns = {name: list(group) for name, group in itertools.groupby(judged, key=lambda row: row["column"])}
    return {
        "columns": columns, "low": low, "overall": on_scale(overall, low, 1.0), "judged": len(judged),
        "below": [row for row in judged if row["verdict"] == "below"],
        "small": [row for row in rows if not row["accuracy"]],
        "by_chance": (1 - evaluated.confidence) / 2 * len(judged),
    }  # fmt: skip


def calibration(evaluated: EvaluateRecord) -> dict[str, Any]:
    dots = []
    for row in files.table(evaluated.folder / "reliability.csv"):
        found = files.estimate(row, "accuracy")
        if found:
            dots.append(charts.Dot(float(row["confidence"]), found.value, found.low, found.high, int(row["examples"])))
    examples = sum(dot.examples for dot in dots) or 1
    confidence = sum(dot.confidence * dot.examples for dot in dots) / examples
    accuracy = evaluated.metrics["accuracy"]
    tendency = "over" if confidence > accuracy.high else "under" if confidence < accuracy.low else "level"
    title = f"Accuracy against confidence in {len(dots)} bins: mean confidence {confidence:.1%}, accuracy {accuracy.value:.1%}"
    return {"chart": charts.reliability(title, dots), "confidence": confidence, "tendency": tendency, "dots": dots}


# --- data -----------------------------------------------------------------------------------------------
def class_counts(split: SplitRecord) -> dict[str, Any]:
    """Examples a class and split; of very many classes, the largest and the smallest."""
    rows: list[Row] = []
    for label in split.labels:
        parts = {name: split.counts.get(name, {}).get(label, 0) for name in ("train", "val", "test")}
        rows.append({"label": label, "parts": parts, "total": sum(parts.values())})
    most = max((row["total"] for row in rows), default=1) or 1
    for row in rows:
        row["shares"] = {name: n / most for name, n in row["parts"].items()}
    totals = {name: sum(row["parts"][name] for row in rows) for name in ("train", "val", "test")}
    more = 0
    if len(rows) > LISTED_CLASSES:
        rows.sort(key=lambda row: -row["total"])
        more = len(rows) - LISTED_CLASSES
        rows = rows[: LISTED_CLASSES // 2] + rows[-LISTED_CLASSES // 2 :]
    return {"rows": rows, "totals": totals, "all": sum(totals.values()), "more": more}


def quarantine(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Unusable files by reason."""
    groups = []
    for code, members in itertools.groupby(rows, key=lambda row: row["code"]):
        found = list(members)
        groups.append({"code": code, "rows": found[:PATHS_SHOWN], "count": len(found), "hint": found[0]["hint"]})
    return groups


# --- training -------------------------------------------------------------------------------------------
def schedule(candidate: CandidateRecord, blocks: Sequence[str]) -> dict[str, Any]:
    """What thawed when: a row a run of `blocks` (input to output) that were treated alike, the head on top, a cell a
    stage."""
    treated = [tuple(block in stage.trained for stage in candidate.stages) for block in blocks]
    rows: list[Row] = []
    for _, run in itertools.groupby(zip(blocks, treated, strict=True), key=lambda pair: pair[1]):
        names = [block for block, _ in run]
        rows.append({"first": names[0], "last": names[-1], "count": len(names), "cells": _cells(candidate, names)})
    ends = list(itertools.accumulate(stage.epochs for stage in candidate.stages))
    columns = [
        {"name": stage.name, "from": end - stage.epochs + 1, "to": end, "best": stage.best_epoch}
        for stage, end in zip(candidate.stages, ends, strict=True)
    ]
    return {"columns": columns, "rows": rows[::-1]}


def _cells(candidate: CandidateRecord, names: Sequence[str]) -> list[dict[str, Any]]:
    cells = []
    for stage in candidate.stages:
        rates = [stage.lr[name] for name in names if name in stage.lr]
        trained = names[0] in stage.trained
        cells.append({"trained": trained, "high": max(rates, default=0.0), "low": min(rates, default=0.0)})
    return cells


def curves(finetuned: FinetuneRecord) -> list[dict[str, Any]]:
    """Losses of the best candidate, and the metric that chose for every candidate."""
    read = {name: files.table(finetuned.folder / name / "curves.csv") for name in finetuned.candidates}
    best = read[finetuned.best]
    starts: dict[str, float] = {}
    for row in best:
        starts.setdefault(row["stage"], float(row["epoch"]))
    marks = [(epoch, stage) for stage, epoch in starts.items()] if len(starts) > 1 else []
    loss = charts.lines(
        f"Loss of {finetuned.best} by epoch, in training and on validation",
        [
            charts.Line("train", _points(best, "train", "loss"), "second"),
            charts.Line("validation", _points(best, "val", "log_loss"), "main"),
        ],
        x_label="epoch", y_format=lambda value: f"{value:.2g}", marks=marks,
    )  # fmt: skip
    primary = formatting.meaning(finetuned.primary)
    others = [name for name in finetuned.candidates if name != finetuned.best]
    styles = {finetuned.best: "main", **dict.fromkeys(others, "faint")}
    chosen = charts.lines(
        f"Validation {primary.title.lower()} by epoch, for every candidate",
        [charts.Line(name, _points(read[name], "val", finetuned.primary), styles[name]) for name in (*others, finetuned.best)],
        x_label="epoch", y_format=lambda value: f"{value:.0%}" if primary.share else f"{value:.2g}", marks=marks,
    )  # fmt: skip
    figures = [
        {"title": f"Loss, {finetuned.best}", "chart": loss},
        {"title": f"{primary.title} on validation", "chart": chosen},
    ]
    return [figure for figure in figures if figure["chart"]]


def _points(rows: Iterable[Mapping[str, str]], split: str, metric: str) -> list[charts.Point]:
    return [
        (float(row["epoch"]), float(row["value"])) for row in rows if row["split"] == split and row["metric"] == metric
    ]


def sweeps(extras: ReportContext) -> list[dict[str, Any]]:
    return [sweep_figure(sweep) for sweep in extras.sweeps]


def sweep_figure(sweep: Sweep) -> dict[str, Any]:
    marks = [(sweep.suggestion, formatting.rate(sweep.suggestion))] if sweep.suggestion else []
    title = f"Loss by learning rate, {sweep.candidate}, stage {sweep.stage}"
    # Past the point where it diverges a sweep shows nothing but its own height.
    limit = DIVERGED * sweep.losses[0]
    stop = next((at for at, loss in enumerate(sweep.losses) if not loss < limit), len(sweep.losses))
    points = list(zip(sweep.rates[:stop], sweep.losses[:stop], strict=True))
    chart: Markup = charts.lines(
        title, [charts.Line("", points)], x_label="learning rate", y_format=lambda value: f"{value:.2g}",
        marks=marks, log_x=True,
    )  # fmt: skip
    return {"title": title, "chart": chart}


def candidates(finetuned: FinetuneRecord, evaluated: EvaluateRecord) -> list[dict[str, Any]]:
    """The candidates, the best first."""
    names = (finetuned.best, *(name for name in finetuned.candidates if name != finetuned.best))
    rows: list[Row] = []
    for name in names:
        record = finetuned.candidate(name)
        tested = evaluated.metrics if name == evaluated.candidate else evaluated.others.get(name, {})
        against = next((one for one in evaluated.comparisons if one.other == name), None)
        rows.append({
            "record": record, "val": record.val.get(finetuned.primary), "test": tested.get(finetuned.primary),
            "against": against, "best": name == finetuned.best,
        })  # fmt: skip
    return rows


# --- use and provenance ---------------------------------------------------------------------------------
def model_uri(registered: RegisterRecord) -> str:
    """The shortest lasting name of the registered model: by alias where it has one."""
    alias = "champion" if registered.champion else registered.aliases[0] if registered.aliases else None
    return f"models:/{registered.model}" + (f"@{alias}" if alias else f"/{registered.version}")


def times(extras: ReportContext) -> dict[str, Any]:
    longest = max(extras.seconds.values(), default=0.0) or 1.0
    rows = [{"step": step, "seconds": took, "share": took / longest} for step, took in extras.seconds.items()]
    return {"rows": rows, "total": sum(extras.seconds.values())}
