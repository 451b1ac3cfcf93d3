"""One self-contained HTML page a run: what came of it, on what, how, and how to use it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pipeline.records import (
    BackboneRecord,
    EvaluateRecord,
    FinetuneRecord,
    RegisterRecord,
    SplitRecord,
    ValidateRecord,
)
from pipeline.report.extras import Extras, Sweep, gather
from pipeline.report.render import render, render_sweep

__all__ = ["Extras", "Sweep", "build", "gather", "swept", "write"]


def build(
    validated: ValidateRecord,
    split: SplitRecord,
    backbone: BackboneRecord,
    finetuned: FinetuneRecord,
    evaluated: EvaluateRecord,
    *,
    registered: RegisterRecord | None,
    extras: Extras,
) -> str:
    """The page. Every number on it comes from the records, their files, or `extras`."""
    return render(validated, split, backbone, finetuned, evaluated, registered, extras)


def swept(workspace: str, sweep: Sweep) -> str:
    """A page of one learning rate sweep, made before anything is trained."""
    return render_sweep(workspace, sweep)


def write(html: str, path: Path) -> None:
    """Puts the page in place whole: who opens it meanwhile sees the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(html)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
