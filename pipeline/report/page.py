"""One self-contained HTML page a run: what came of it, on what, how, and how to use it."""

from __future__ import annotations

from pathlib import Path

from pipeline import files
from pipeline.records import (
    BackboneRecord,
    EvaluateRecord,
    FinetuneRecord,
    RegisterRecord,
    SplitRecord,
    ValidateRecord,
)
from pipeline.redaction import redact
from pipeline.report.render import render, render_sweep
from pipeline.report.report_context import ReportContext, Sweep, gather

__all__ = ["ReportContext", "Sweep", "build", "gather", "swept", "write"]


def build(
    validated: ValidateRecord,
    split: SplitRecord,
    backbone: BackboneRecord,
    finetuned: FinetuneRecord,
    evaluated: EvaluateRecord,
    *,
    registered: RegisterRecord | None,
    extras: ReportContext,
) -> str:
    """The page. Every number on it comes from the records, their files, or `extras`."""
    return render(validated, split, backbone, finetuned, evaluated, registered, extras)


def swept(workspace: str, sweep: Sweep) -> str:
    """A page of one learning rate sweep, made before anything is trained."""
    return render_sweep(workspace, sweep)


def write(html: str, path: Path) -> None:
    """Puts the page in place whole: who opens it meanwhile sees the old one."""
    files.replace_text(path, redact(html))
