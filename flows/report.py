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
from pipeline.step_table import DVC_STAGES
from pipeline.versioning import StageState, Versioning
from pipeline.workspace import Workspace


def outdated(workspace: Workspace, states: Mapping[str, StageState], registered: RegisterRecord) -> str:
    """Why the page has to be made again, in a user's words; empty where it is what these results determine."""
    return receipts.report_fault(workspace, _inputs(states, registered))


def make(workspace: Workspace, versioning: Versioning, registered: RegisterRecord, tracker: Tracker) -> Path:
    """Makes the page from the finished steps' outputs, remembers what it was made from, and keeps it with the run in
    the tracking store."""
    from pipeline.report import page
    from pipeline.report.report_context import gather
    from pipeline.steps import recorded_facts
    from pipeline.steps.run import load_record

    inputs = _inputs(versioning.states(), registered)
    records: dict[str, Any] = {step: load_record(workspace, step) for step in DVC_STAGES}
    extras = gather(workspace, versioning.data_version(), registered)
    html = page.build(*records.values(), registered=registered, extras=extras)
    page.write(html, workspace.report)
    receipts.write_report(workspace, inputs)
    run = recorded_facts.open_parent(tracker, records["finetune"].key, workspace.root.name)
    recorded_facts.record_report(run, workspace.report)
    return workspace.report


def _inputs(states: Mapping[str, StageState], registered: RegisterRecord) -> str:
    """The digest of what determines the page: every step's outputs and the registration."""
    return digest({name: list(state.outputs) for name, state in states.items()}, registered)
