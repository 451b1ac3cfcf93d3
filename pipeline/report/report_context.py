"""What the page shows besides records."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.records import CandidateRecord, DataVersion, Finding, RegisterRecord
from pipeline.redaction import MARK
from pipeline.step_table import DVC_STAGES
from pipeline.workspace import Workspace

OUTCOMES = "outcomes.json"  # of a run, in its folder: what became of each step, and how long it took
LIBRARIES = ("thaw", "torch", "torchvision", "numpy", "mlflow", "dvc", "prefect", "great-expectations")


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
    """What the page shows besides records: what the run saw, but its inputs do not determine.

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
    """

    workspace: str
    when: datetime | None = None
    data: DataVersion | None = None
    drift: tuple[Finding, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    unchanged: tuple[str, ...] = ()
    latency: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    sweeps: tuple[Sweep, ...] = ()


def gather(workspace: Workspace, data: DataVersion, registered: RegisterRecord | None = None) -> ReportContext:
    """The extras of the last run of a workspace in which a step ran or was restored."""
    runs = workspace.scratch / "runs"
    seconds = _seconds(runs)
    return ReportContext(
        workspace=workspace.root.name,
        when=datetime.now(UTC),
        data=data,
        drift=_drift(runs),
        seconds=seconds,
        unchanged=tuple(step for step in DVC_STAGES if step not in seconds),
        latency=_latest(runs, "evaluate/latency.json"),
        versions=_versions(),
        links=dict(_links(workspace, registered)),
        sweeps=tuple(sweeps(workspace.output("finetune"))),
    )


def sweeps(finetuned: Path) -> Iterator[Sweep]:
    """The learning rate sweeps among the curves of a fine-tuning's candidates."""
    for path in sorted(finetuned.glob("*/curves.csv")):
        found: dict[str, dict[str, list[float]]] = {}
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if row["split"] == "sweep":
                    kind = row["metric"].rpartition("/")[2]
                    found.setdefault(row["stage"], {}).setdefault(kind, []).append(float(row["value"]))
        used = (
            {stage.name: max(stage.lr.values()) for stage in CandidateRecord.load(path.parent).stages} if found else {}
        )
        for stage, curve in found.items():
            yield Sweep(path.parent.name, stage, tuple(curve["rate"]), tuple(curve["loss"]), used.get(stage))


def _links(workspace: Workspace, registered: RegisterRecord | None) -> Iterator[tuple[str, str]]:
    """The data's checks as Data Docs, beside the page; the registered version, where a server shows it."""
    docs = sorted((workspace.scratch / "runs").glob("*/validate/data-docs/index.html"))
    if docs:
        yield "Data Docs of the last validation", quote(docs[-1].relative_to(workspace.report.parent).as_posix())
    if registered and registered.version and registered.tracking_uri.startswith(("http://", "https://")):
        server = registered.tracking_uri.replace(f"{MARK}@", "").rstrip("/")
        where = f"{server}/#/models/{quote(registered.model)}/versions/{registered.version}"
        yield f"{registered.model}, version {registered.version}, in MLflow", where


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _latest(runs: Path, name: str) -> Any:
    """The JSON file of that name in the newest run that has a readable one; runs are named by their time."""
    for path in sorted(runs.glob(f"*/{name}"), reverse=True):
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return None


def _seconds(runs: Path) -> dict[str, float]:
    """What each step took that ran, rather than being restored."""
    outcomes = _latest(runs, OUTCOMES) or ()
    return {outcome["step"]: outcome["seconds"] for outcome in outcomes if outcome["how"] == "done"}


def _drift(runs: Path) -> tuple[Finding, ...]:
    return tuple(Finding.model_validate(one) for one in _latest(runs, "validate/drift.json") or ())
