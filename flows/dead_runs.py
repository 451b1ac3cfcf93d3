"""Retrainings that were killed: Prefect still lists them as running, until the next one
sets them to Crashed.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psutil

from flows.processes import ProcessIdentity, find

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

HOST, PID, STARTED = "thaw.host", "thaw.pid", "thaw.started"
MESSAGE = (
    "Its process ended without reporting: it was killed, or the machine went down."
)


def close_dead_runs(flow: str, workspace: Path) -> int:
    """Marks this flow run with its process, and sets the workspace's runs that nobody
    runs any more to Crashed.

    To be called in a flow run, while this process holds the workspace's lock: so
    whatever else is said to run there does not, but for a run that has let go of the
    lock and is just ending. Such a run is known by its process.

    Args:
        flow: name of the flow.
        workspace: its parameter of that name.

    Returns:
        How many runs were closed.
    """
    from prefect.client.orchestration import get_client
    from prefect.context import get_run_context

    own = get_run_context().flow_run.id  # type: ignore[union-attr]
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(own, _process_labels())
        closed = 0
        for run in _list_running(client, flow):
            if run.id != own and _is_dead(run, workspace):
                _set_crashed(client, run.id)
                closed += 1
    return closed


def _process_labels() -> dict[str, Any]:
    own = ProcessIdentity.of(psutil.Process())
    return {HOST: platform.node(), PID: own.pid, STARTED: own.started}


def _list_running(client: SyncPrefectClient, flow: str) -> list[FlowRun]:
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    running = filters.FlowRunFilterStateType(any_=[StateType.RUNNING])
    return client.read_flow_runs(
        flow_filter=filters.FlowFilter(name=filters.FlowFilterName(any_=[flow])),
        flow_run_filter=filters.FlowRunFilter(
            state=filters.FlowRunFilterState(type=running)
        ),
    )


def _is_dead(run: FlowRun, workspace: Path) -> bool:
    own_workspace = run.parameters.get("workspace")
    if not own_workspace or Path(own_workspace).resolve() != workspace.resolve():
        return False
    return not _is_alive_here(run.labels)


def _is_alive_here(labels: Mapping[str, Any]) -> bool:
    """Whether the process that a run was marked with is one of this machine's."""
    if (
        labels.get(HOST) != platform.node()
        or PID not in labels
        or STARTED not in labels
    ):
        return False
    return find(ProcessIdentity(int(labels[PID]), float(labels[STARTED]))) is not None


def _set_crashed(client: SyncPrefectClient, run: UUID) -> None:
    """The run and its tasks that are said to run."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    running = filters.TaskRunFilterStateType(any_=[StateType.RUNNING])
    tasks = client.read_task_runs(
        flow_run_filter=filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run])),
        task_run_filter=filters.TaskRunFilter(
            state=filters.TaskRunFilterState(type=running)
        ),
    )
    for task in tasks:
        client.set_task_run_state(task.id, Crashed(message=MESSAGE), force=True)
    client.set_flow_run_state(run, Crashed(message=MESSAGE), force=True)
