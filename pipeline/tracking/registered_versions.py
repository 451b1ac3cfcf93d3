"""What is registered, with the alias of the champion where the journal says: what every
command asks first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.tracking import registry
from pipeline.tracking import store as stores
from pipeline.tracking.failures import with_retries
from pipeline.tracking.journal_run import JournalRun
from pipeline.tracking.probe import SECONDS_OF_COMMANDS, require_answer
from pipeline.tracking.registry import ModelVersion

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.workspace import Workspace


def registered(
    config: Config, workspace: Workspace, name: str | None = None
) -> list[ModelVersion]:
    """What is registered under the workspace's name, newest first; empty where nothing
    is.

    Raises:
        TrackingError: the store is away.
    """
    if not config.tracking.enabled:
        return []
    store = stores.find(config.tracking, workspace)
    if store.empty:
        return []
    require_answer(store, SECONDS_OF_COMMANDS)
    wanted = name or workspace.model_name(config)
    JournalRun(store, wanted).reconcile()
    return with_retries(
        store, "asking what is registered", lambda: registry.versions(store, wanted)
    )
