"""What the page shows besides records."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pipeline.records import (
    CandidateRecord,
    DataVersion,
    Finding,
    Latency,
    PromoteRecord,
    RegisterRecord,
)
from pipeline.redaction import MARK
from pipeline.report.flip_section import FlipWay, flips_section
from pipeline.step_table import DVC_STAGES
from pipeline.workspace import Workspace

# Of a run, in its folder: what became of each step, and how long it took.
OUTCOMES = "outcomes.json"
LIBRARIES = (
    "thaw",
    "torch",
    "torchvision",
    "transformers",
    "numpy",
    "mlflow",
    "dvc",
    "prefect",
    "great-expectations",
)

T = TypeVar("T")


@dataclass(frozen=True)
class Sweep:
    """A learning rate sweep: the loss at each rate, and the rate that it suggests."""

    candidate: str
    stage: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float | None = None


@dataclass(frozen=True)
class ReportContext:
    """What the page shows besides records: what the run saw, but its inputs do not
    determine.

    Args:
        workspace: its name, the page's title.
        when: when the page was made.
        data: which data the run saw.
        drift: how the data moved since the last accepted version.
        seconds: what each step took, where it ran.
        unchanged: steps that did not need to run.
        latency: size and speed, as the evaluate step measured them.
        versions: of libraries, by name.
        links: by what they lead to; http(s) or a path beside the page.
        sweeps: learning rate sweeps, where rates were found by them.
        flips: examples that the challenger answers otherwise than the champion, both
            ways.
    """

    workspace: str
    when: datetime | None = None
    data: DataVersion | None = None
    drift: tuple[Finding, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    unchanged: tuple[str, ...] = ()
    latency: Latency | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    sweeps: tuple[Sweep, ...] = ()
    flips: tuple[FlipWay, ...] = ()


def gather_context(
    workspace: Workspace,
    data: DataVersion,
    registered: RegisterRecord | None = None,
    promoted: PromoteRecord | None = None,
) -> ReportContext:
    """The context of the last run of a workspace in which a step ran or was restored."""
    runs = workspace.scratch / "runs"
    seconds = _read_latest(runs, OUTCOMES, _parse_seconds) or {}
    return ReportContext(
        workspace=workspace.root.name,
        when=datetime.now(UTC),
        data=data,
        drift=_read_latest(runs, "validate/drift.json", _parse_drift) or (),
        seconds=seconds,
        unchanged=tuple(step for step in DVC_STAGES if step not in seconds),
        latency=_read_latest(runs, "evaluate/latency.json", Latency.model_validate),
        versions=_library_versions(),
        links=_find_links(workspace, registered),
        sweeps=tuple(read_sweeps(workspace.output("finetune"))),
        flips=() if promoted is None else flips_section(promoted, workspace.scratch),
    )


# --- files of the last run ------------------------------------------------------------


def _read_latest(runs: Path, name: str, parse: Callable[[Any], T]) -> T | None:
    """The JSON file of that name in the newest run that has a usable one; runs are
    named by their time.
    """
    for path in sorted(runs.glob(f"*/{name}"), reverse=True):
        try:
            return parse(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # pydantic's errors are ValueErrors
            continue
    return None


def _parse_seconds(outcomes: list[dict[str, Any]]) -> dict[str, float]:
    """What each step took that ran, rather than being restored."""
    return {
        outcome["step"]: outcome["seconds"]
        for outcome in outcomes
        if outcome["how"] == "done"
    }


def _parse_drift(findings: list[dict[str, Any]]) -> tuple[Finding, ...]:
    return tuple(Finding.model_validate(finding) for finding in findings)


# --- learning rate sweeps -------------------------------------------------------------


def read_sweeps(finetuned: Path) -> list[Sweep]:
    """The learning rate sweeps among the curves of a fine-tuning's candidates."""
    sweeps = []
    for curves in sorted(finetuned.glob("*/curves.csv")):
        by_stage = _read_sweep_curves(curves)
        if by_stage:
            candidate = CandidateRecord.load(curves.parent)
            used = {stage.name: max(stage.lr.values()) for stage in candidate.stages}
            for stage, curve in by_stage.items():
                rates = tuple(curve["rate"])
                losses = tuple(curve["loss"])
                sweeps.append(
                    Sweep(curves.parent.name, stage, rates, losses, used.get(stage))
                )
    return sweeps


def _read_sweep_curves(curves: Path) -> dict[str, dict[str, list[float]]]:
    """Stage → "rate" and "loss" → values; the rows' metric is `<stage>/rate` or
    `<stage>/loss`.
    """
    by_stage: dict[str, dict[str, list[float]]] = {}
    with curves.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["split"] == "sweep":
                kind = row["metric"].rpartition("/")[2]
                curve = by_stage.setdefault(row["stage"], {})
                curve.setdefault(kind, []).append(float(row["value"]))
    return by_stage


# --- links and versions ---------------------------------------------------------------


def _find_links(
    workspace: Workspace, registered: RegisterRecord | None
) -> dict[str, str]:
    """The data's checks as Data Docs, beside the page; the registered version, where a
    server shows it.
    """
    links = {}
    docs = sorted((workspace.scratch / "runs").glob("*/validate/data-docs/index.html"))
    if docs:
        path = docs[-1].relative_to(workspace.report.parent).as_posix()
        links["Data Docs of the last validation"] = quote(path)
    if (
        registered
        and registered.version
        and registered.tracking_uri.startswith(("http://", "https://"))
    ):
        server = registered.tracking_uri.replace(f"{MARK}@", "").rstrip("/")
        title = f"{registered.model}, version {registered.version}, in MLflow"
        links[title] = (
            f"{server}/#/models/{quote(registered.model)}/versions/{registered.version}"
        )
    return links


def _library_versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
