"""Sets the sections into the page."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from markupsafe import Markup

from pipeline.records import (
    BackboneRecord,
    EvaluateRecord,
    FinetuneRecord,
    RegisterRecord,
    SplitRecord,
    ValidateRecord,
)
from pipeline.report import files, formatting, sections
from pipeline.report.report_context import ReportContext, Sweep

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def render(
    validated: ValidateRecord, split: SplitRecord, backbone: BackboneRecord, finetuned: FinetuneRecord,
    evaluated: EvaluateRecord, registered: RegisterRecord | None, extras: ReportContext,
) -> str:  # fmt: skip
    """The page of one run."""
    candidates = sections.candidates(finetuned, evaluated)
    best = candidates[0]["record"]
    baseline = next((row["record"].name for row in candidates[1:] if row["record"].baseline), None)
    landed = registered if registered and registered.version else None
    verdict = formatting.verdict(evaluated, landed, baseline, pretrained=not best.baseline)
    return _environment().get_template("page.html.j2").render(
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        validated=validated, split=split, backbone=backbone, finetuned=finetuned, evaluated=evaluated,
        baseline_age=formatting.describe_baseline(evaluated) if evaluated.baseline else None,
        registered=landed, why_not=registered.reason if registered else None, extras=extras, best=best, baseline=baseline, verdict=verdict,
        candidates=candidates,
        metrics=sections.metrics(evaluated),
        per_class=sections.per_class(evaluated),
        confusion=sections.confusion(evaluated),
        worst=files.worst(evaluated.folder / "worst"),
        slices=sections.slices(evaluated),
        calibration=sections.calibration(evaluated),
        class_counts=sections.class_counts(split),
        quarantine=sections.quarantine(files.quarantine(validated.quarantine)),
        findings=(*validated.findings, *extras.drift),
        schedule=sections.schedule(best, backbone.blocks),
        curves=sections.curves(finetuned),
        sweeps=sections.sweeps(extras),
        uri=sections.model_uri(landed) if landed else None,
        times=sections.times(extras),
        latency=_latency(extras, evaluated),
    )  # fmt: skip


def render_sweep(workspace: str, sweep: Sweep) -> str:
    """The page of a learning rate sweep."""
    return _environment().get_template("sweep.html.j2").render(
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        workspace=workspace, sweep=sweep, figure=sections.sweep_figure(sweep),
    )  # fmt: skip


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, finalize=formatting.shown, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        name: getattr(formatting, name)
        for name in ("percent", "number", "said", "spread", "points", "gap", "rate", "seconds", "milliseconds", "size", "many",
                     "p_value", "listed", "meaning")
    }  # fmt: skip
    made.filters |= {"link": _link, "thousands": formatting.count}
    made.globals["SHORT"] = sections.SHORT
    return made


def _link(target: str) -> str | None:
    """A link that only leads somewhere: no scheme but http and https, and none for a path."""
    return target if urlsplit(target).scheme in ("", "http", "https", "file") else None


def _latency(extras: ReportContext, evaluated: EvaluateRecord) -> Any:
    """Size and speed, if they were measured of this very model."""
    found = extras.latency
    return found if found and found.get("model_sha256") == evaluated.model_sha256 else None
