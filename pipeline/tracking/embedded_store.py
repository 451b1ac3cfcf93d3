"""The store that lies in the workspace: its database, made whole, and its addresses,
right after a move.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
from pathlib import Path
from typing import Any

from pipeline.tracking.store import QUIET, SQLITE, load_client_class
from pipeline.workspace import Workspace


def create(folder: Path) -> None:
    """Makes an embedded store's database where there is none, whole or not at all.

    MLflow makes it in many steps; one that a full disk or a kill cut short it could
    never open again.
    """
    database = folder / "mlflow.db"
    artifacts = folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    if database.exists():
        return
    part = folder / f".mlflow.{secrets.token_hex(4)}.db"
    try:
        _open_database(part, artifacts.as_uri()).engine.dispose()
        with contextlib.suppress(FileExistsError):  # another process was quicker
            database.hardlink_to(part)
    finally:
        for leftover in folder.glob(f"{part.name}*"):
            leftover.unlink()


def relocate(folder: Path) -> None:
    """Makes an embedded store that was moved or copied name its artifacts where they
    are now.

    MLflow keeps absolute addresses; without this, a copied workspace would read, and
    write into, the one it was copied from. Nothing is done where the addresses are
    right.
    """
    database = folder / "mlflow.db"
    address_now = (folder / "artifacts").as_uri()
    marker = folder / "artifacts" / ".address"
    address_then = (
        marker.read_text(encoding="utf-8") if marker.is_file() else address_now
    )
    if database.is_file() and address_then != address_now:
        _replace_addresses(database, address_then, address_now)
    if address_then != address_now or not marker.is_file():
        marker.write_text(address_now, encoding="utf-8")


def server_command(
    workspace: Workspace, host: str, port: int
) -> tuple[list[str], dict[str, str]]:
    """How to run the embedded store as a server: arguments and environment.

    Artifacts stay where the embedded store has them, read and written by clients
    directly, so that runs recorded with and without the server are of one kind.
    """
    folder = workspace.mlflow
    create(folder)
    command = [sys.executable, "-P", "-m", "mlflow", "server"]
    command += ["--host", host, "--port", str(port), "-w", "1"]
    command += ["--backend-store-uri", f"{SQLITE}{folder / 'mlflow.db'}"]
    command += [
        "--default-artifact-root",
        (folder / "artifacts").as_uri(),
        "--no-serve-artifacts",
    ]
    return command, {**QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _open_database(database: Path, artifacts: str) -> Any:
    """MLflow's own store on a database file, which it makes where there is none."""
    load_client_class()  # MLflow is there, and quiet
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store_class: Any = SqlAlchemyStore
    return store_class(f"{SQLITE}{database}", artifacts)


def _replace_addresses(database: Path, address_then: str, address_now: str) -> None:
    """Replaces the beginning of every address in the database, by MLflow's own mapping
    of its tables.
    """
    from sqlalchemy import func, literal, update

    store = _open_database(database, address_now)
    try:
        with store.ManagedSessionMaker(read_only=False) as session:
            for column in _address_columns():
                begins_there = func.substr(column, 1, len(address_then)) == address_then
                ending = func.substr(column, len(address_then) + 1)
                session.execute(
                    update(column.class_)
                    .where(begins_there)
                    .values({column.key: literal(address_now) + ending}),
                    execution_options={"synchronize_session": False},
                )
    finally:
        store.engine.dispose()


def _address_columns() -> list[Any]:
    """Every column in which MLflow keeps an address of artifacts."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
    from mlflow.store.tracking.dbmodels.models import (
        SqlExperiment,
        SqlLoggedModel,
        SqlRun,
    )

    return [
        SqlExperiment.artifact_location,
        SqlRun.artifact_uri,
        SqlLoggedModel.artifact_location,
        SqlModelVersion.source,
        SqlModelVersion.storage_location,
    ]
