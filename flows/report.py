"""report.html: an output like others, remembered with what it was made from; made again where either changed.

Nothing here needs Prefect or torch, so that a deleted page comes back in a run in which nothing else is to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import receipts
from pipeline.context import Tracker
from pipeline.records import RegisterRecord, digest
from pipeline.versioning import StageState, Versioning
from pipeline.workspace import STEPS, Workspace


def outdated(place: Workspace, states: Mapping[str, StageState], registered: RegisterRecord) -> str:
    """Why the page has to be made again, in a user's words; empty where it is what these results determine."""
    return receipts.report_fault(place, _inputs(states, registered))


def make(place: Workspace, versioning: Versioning, registered: RegisterRecord, tracker: Tracker) -> Path:
    """Makes the page from the finished steps' outputs, remembers what it was made from, and keeps it with the run in
    the tracking store."""
    from pipeline.report import page
    from pipeline.report.report_context import gather
    from pipeline.steps.run import load_record

    inputs = _inputs(versioning.states(), registered)
    records: dict[str, Any] = {step: load_record(place, step) for step in STEPS}
    extras = gather(place, versioning.data_version(), registered)
    html = page.build(*records.values(), registered=registered, extras=extras)
    page.write(html, place.report)
    receipts.write_report(place, inputs)
    tracker.open(records["finetune"].key, place.root.name).artifact(place.report)
    return place.report


def _inputs(states: Mapping[str, StageState], registered: RegisterRecord) -> str:
    """The digest of what determines the page: every step's outputs and the registration."""
    return digest({name: list(state.outputs) for name, state in states.items()}, registered)
