"""Which version is to be served: the one place that `thaw serve` asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ServingError

if TYPE_CHECKING:
    from pipeline.tracking.registry import ModelVersion
    from pipeline.workspace import Workspace


def find_served_version(workspace: Workspace, pinned: int | None) -> ModelVersion:
    """The champion, or the version that the command line names.

    Raises:
        ServingError: there is no such version.
        TrackingError: the registry is away.
    """
    from pipeline.tracking import registry
    from pipeline.tracking.registered_versions import registered

    config = workspace.config()
    versions = registered(config, workspace)
    name = workspace.model_name(config)
    if pinned is None:
        champion = registry.find_champion(versions)
        if champion is not None:
            return champion
    for version in versions:
        if version.version == str(pinned):
            return version
    raise _missing_version(name, versions, pinned)


def _missing_version(
    name: str, versions: list[ModelVersion], pinned: int | None
) -> ServingError:
    wanted = "a champion" if pinned is None else f"version {pinned}"
    if not versions:
        return ServingError(
            f"model {name}",
            found="nothing is registered",
            expected=wanted,
            hint="thaw run",
        )
    newest = versions[0].version
    return ServingError(
        f"model {name}",
        found="no version has the alias champion"
        if pinned is None
        else f"no version {pinned}",
        expected=wanted,
        hint=f"thaw serve --version {newest}",
        details=[str(version) for version in versions],
    )


def fetch_version(workspace: Workspace, version: ModelVersion) -> Path:
    """The folder of a version's files on this machine.

    Raises:
        TrackingError: they cannot be fetched.
    """
    from pipeline.tracking import registry
    from pipeline.tracking import store as stores

    store = stores.find(workspace.config().tracking, workspace)
    return registry.fetch(store, version)
