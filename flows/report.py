"""report.html: an output like others, remembered with what it was made from; made again
where either changed.

Nothing here needs Prefect or torch, so that a deleted page comes back in a run in which
nothing else is to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline import receipts
from pipeline.context import Tracker
from pipeline.records import (
    BackboneRecord,
    EvaluateRecord,
    FinetuneRecord,
    PromoteRecord,
    RegisterRecord,
    RunRecords,
    SplitRecord,
    ValidateRecord,
    digest,
)
from pipeline.versioning import StageState, Versioning
from pipeline.workspace import Workspace


def find_report_fault(
    workspace: Workspace,
    states: Mapping[str, StageState],
    registered: RegisterRecord,
    promoted: PromoteRecord,
) -> str:
    """Why the page has to be made again, in a user's words; empty where it is what
    these results determine.
    """
    inputs = _inputs(states, registered, promoted)
    return receipts.report_fault(workspace, inputs)


def make_report(
    workspace: Workspace,
    versioning: Versioning,
    registered: RegisterRecord,
    promoted: PromoteRecord,
    tracker: Tracker,
) -> Path:
    """Makes the page from the finished steps' outputs, remembers what it was made from,
    and keeps it with the run in the tracking store.
    """
    from pipeline.report.page import build_page, write_page
    from pipeline.report.report_context import gather_context
    from pipeline.steps import recorded_facts

    inputs = _inputs(versioning.states(), registered, promoted)
    records = RunRecords(
        validate=ValidateRecord.load(workspace.output("validate")),
        split=SplitRecord.load(workspace.output("split")),
        backbone=BackboneRecord.load(workspace.output("backbone")),
        finetune=FinetuneRecord.load(workspace.output("finetune")),
        evaluate=EvaluateRecord.load(workspace.output("evaluate")),
        register=registered,
        promote=promoted,
    )
    context = gather_context(workspace, versioning.data_version(), registered, promoted)
    write_page(build_page(records, context), workspace.report)
    receipts.write_report(workspace, inputs)
    run = recorded_facts.open_parent(tracker, records.finetune.key, workspace.root.name)
    recorded_facts.record_report(run, workspace.report)
    return workspace.report


def _inputs(
    states: Mapping[str, StageState],
    registered: RegisterRecord,
    promoted: PromoteRecord,
) -> str:
    """The digest of what determines the page: every step's outputs, the registration
    and what was decided of it.
    """
    return digest(
        {name: list(state.outputs) for name, state in states.items()},
        registered,
        promoted,
    )
