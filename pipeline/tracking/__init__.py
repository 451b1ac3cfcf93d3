"""Tracking and the model registry: the only package that imports MLflow, and only when
something is asked of it.

A run is found again by the tag `thaw.key`, or made. What is recorded goes through an
outbox on disk (`.thaw/outbox/<key>.jsonl`), so neither a server that is away nor a kill
loses or doubles anything.
"""

from __future__ import annotations

from pipeline.config import TrackingConfig
from pipeline.context import Console, NoTracker, Tracker
from pipeline.tracking import outbox
from pipeline.tracking import store as _store
from pipeline.tracking.embedded_store import server_command
from pipeline.tracking.registered_versions import registered
from pipeline.tracking.registry import ModelVersion
from pipeline.tracking.runs import MlflowTracker
from pipeline.workspace import Workspace

__all__ = ["ModelVersion", "open_tracker", "registered", "server_command"]


def open_tracker(
    config: TrackingConfig,
    workspace: Workspace,
    *,
    name: str | None = None,
    console: Console | None = None,
) -> Tracker:
    """The tracker the settings ask for; asks nothing of the store before a run is
    opened.

    Args:
        name: the experiment, where the settings name none; None: the workspace folder's
            name.
        console: told once when the store is away, and when it is back; None: the log.
    """
    if not config.enabled:
        return NoTracker()
    store = _store.find(config, workspace, name)
    outbox.adopt_earlier_writes(workspace.scratch)
    folder = workspace.scratch / outbox.OUTBOX_FOLDER
    return MlflowTracker(
        store, folder, console=console, system_metrics=config.system_metrics
    )
