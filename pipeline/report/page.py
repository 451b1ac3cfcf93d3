"""One self-contained HTML page a run: what came of it, on what, how, and how to use it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from markupsafe import Markup

from pipeline.files import replace_text
from pipeline.records import EvaluateRecord, Latency, RunRecords
from pipeline.redaction import redact
from pipeline.report import (
    dense_sections,
    files,
    formatting,
    result_sections,
    run_sections,
)
from pipeline.report.report_context import ReportContext, Sweep

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
LISTED_ITEMS = 12  # items of a finding shown before the rest is folded away
FILTERS = (
    formatting.format_percent,
    formatting.format_metric,
    formatting.format_interval,
    formatting.format_points,
    formatting.format_difference,
    formatting.format_rate,
    formatting.format_seconds,
    formatting.format_milliseconds,
    formatting.format_size,
    formatting.format_count,
    formatting.format_p_value,
    formatting.join_names,
    formatting.metric_title,
    formatting.pluralize,
)


def build_page(run: RunRecords, context: ReportContext) -> str:
    """The page. Every number on it comes from the records, their files, or the context."""
    candidates = run_sections.candidate_rows(run.finetune, run.evaluate)
    values = _record_values(run, context)
    values |= _training_values(run, candidates)
    values |= _decision_values(run, candidates)
    values |= _answer_sections(run.evaluate)
    template = _environment().get_template("page.html.j2")
    return template.render(values)


def _record_values(run: RunRecords, context: ReportContext) -> dict[str, object]:
    """What the page shows of the data, of the run and of the evaluation."""
    evaluated = run.evaluate
    quarantined = files.read_quarantine(run.validate.quarantine)
    return {
        "style": _style(),
        "context": context,
        "validated": run.validate,
        "split": run.split,
        "backbone": run.backbone,
        "finetuned": run.finetune,
        "evaluated": evaluated,
        "findings": (*run.validate.findings, *context.drift),
        "quarantine": run_sections.quarantine_section(quarantined),
        "split_counts": run_sections.split_section(run.split),
        "primary": run_sections.primary_metric(run.finetune),
        "metrics": result_sections.metrics_section(evaluated),
        "slices": result_sections.slices_section(evaluated),
        "sweeps": [run_sections.sweep_figure(sweep) for sweep in context.sweeps],
        "flips": context.flips,
        "step_times": run_sections.step_times(context),
        "latency": _latency(context, evaluated),
    }


def _training_values(
    run: RunRecords, candidates: list[run_sections.CandidateRow]
) -> dict[str, object]:
    """What the page shows of the candidates, and of how the best was trained."""
    best = candidates[0].record
    truncated = run.finetune.truncated_texts
    baseline_age = None
    if run.evaluate.baseline:
        baseline_age = formatting.describe_baseline(run.evaluate)
    return {
        "candidates": candidates,
        "best": best,
        "baseline": _baseline_name(candidates),
        "baseline_age": baseline_age,
        "input_description": run_sections.describe_input(best.input, truncated),
        "network": run_sections.describe_network(best.design),
        "training_loss": run_sections.describe_training_loss(best.input),
        "request": run_sections.describe_request(best.input),
        "schedule": run_sections.schedule_section(best, run.backbone.blocks),
        "curves": run_sections.curve_figures(run.finetune),
    }


def _decision_values(
    run: RunRecords, candidates: list[run_sections.CandidateRow]
) -> dict[str, object]:
    """What the page shows of the registration and of the verdict."""
    registered = run.register if run.register and run.register.version else None
    promoted = run.promote if run.promote and run.promote.version else None
    baseline = _baseline_name(candidates)
    is_pretrained = not candidates[0].record.baseline
    uri = None
    promotion = None
    if promoted:
        uri = run_sections.model_uri(promoted)
        promotion = run_sections.describe_verdict(promoted)
    return {
        "registered": registered,
        "not_registered_reason": run.register.reason if run.register else None,
        "verdict": formatting.write_verdict(
            run.evaluate, promoted, baseline, pretrained=is_pretrained
        ),
        "uri": uri,
        "promoted": promoted,
        "promotion": promotion,
    }


def _answer_sections(evaluated: EvaluateRecord) -> dict[str, object]:
    """The sections that differ by the kind of targets, by the names that the templates
    know.
    """
    if evaluated.targets == "classes":
        return {
            "worst_errors": files.read_worst_errors(evaluated.folder / "worst"),
            "classes": result_sections.classes_section(evaluated),
            "confusion": result_sections.confusion_section(evaluated),
            "calibration": result_sections.calibration_section(evaluated),
        }
    return {
        "worst_pictures": dense_sections.worst_section(evaluated),
        "mask_colours": dense_sections.colours_section(evaluated.labels),
        "dense_classes": dense_sections.classes_section(evaluated),
        "dense_errors": dense_sections.errors_section(evaluated),
    }


def build_sweep_page(workspace: str, sweep: Sweep) -> str:
    """A page of one learning rate sweep, made before anything is trained."""
    template = _environment().get_template("sweep.html.j2")
    figure = run_sections.sweep_figure(sweep)
    return template.render(
        style=_style(), workspace=workspace, sweep=sweep, figure=figure
    )


def write_page(html: str, path: Path) -> None:
    """Puts the page in place whole: who opens it meanwhile sees the old one."""
    replace_text(path, redact(html))


def _baseline_name(candidates: list[run_sections.CandidateRow]) -> str | None:
    """The candidate trained for comparison, if there is one besides the best."""
    for candidate in candidates[1:]:
        if candidate.record.baseline:
            return candidate.record.name
    return None


def _latency(context: ReportContext, evaluated: EvaluateRecord) -> Latency | None:
    """Size and speed, if they were measured of this very model."""
    if (
        context.latency is None
        or context.latency.model_sha256 != evaluated.model_sha256
    ):
        return None
    return context.latency


def _style() -> Markup:
    text = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return Markup(text)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=formatting.make_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in FILTERS:
        environment.filters[function.__name__] = function
    environment.filters["safe_link"] = _safe_link
    environment.globals["LISTED_ITEMS"] = LISTED_ITEMS
    return environment


def _safe_link(target: str) -> str | None:
    """A link that only leads somewhere: no scheme but http and https, and none for a
    path.
    """
    if urlsplit(target).scheme in ("", "http", "https", "file"):
        return target
    return None
