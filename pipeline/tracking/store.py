"""The tracking store and model registry: where it is, and MLflow's client for it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import expand_variables
from pipeline.errors import ConfigError, TrackingError
from pipeline.loopback import bypass_proxies
from pipeline.redaction import redact_forms

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipeline.config import TrackingConfig
    from pipeline.workspace import Workspace

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # It would print the password in the server's address.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
SQLITE = "sqlite:///"
_SERVERS = ("http://", "https://", "databricks")
_DATABASES = ("postgresql", "mysql", "mssql")


@dataclass(frozen=True)
class TrackingStore:
    """One tracking store with its registry.

    Args:
        uri: MLflow's tracking URI.
        artifacts: where a new experiment keeps its artifacts; None: where the server
            says.
        experiment: the experiment's name.
        embedded: the folder of the embedded store; None: the store is elsewhere.
    """

    uri: str
    artifacts: str | None
    experiment: str
    embedded: Path | None = None

    @property
    def shown(self) -> str:
        """The URI without a password."""
        return redact_forms(self.uri)

    @property
    def empty(self) -> bool:
        """An embedded store that nothing was recorded in yet; it is not made for the
        asking.
        """
        if self.embedded is None:
            return False
        database = self.embedded / "mlflow.db"
        return not database.exists()

    @property
    def is_server(self) -> bool:
        """Whether it is asked over HTTP; else it is a database that MLflow opens in
        this process.
        """
        return self.uri.startswith(_SERVERS)

    @property
    def sqlite_file(self) -> Path | None:
        """The database's file; None where it is none."""
        if not self.uri.startswith(SQLITE):
            return None
        return Path(self.uri.removeprefix(SQLITE))

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; importing MLflow takes seconds, and so does opening a
        database.

        Raises:
            TrackingError: MLflow is not installed, or refuses the database, which
                another version of it made.
        """
        from pipeline.tracking import embedded_store, failures

        client_class = load_client_class()
        from mlflow.exceptions import MlflowException

        try:
            if self.embedded is not None:
                embedded_store.create(self.embedded)
                embedded_store.relocate(self.embedded)
            return client_class(tracking_uri=self.uri, registry_uri=self.uri)
        except MlflowException as fault:
            if self.is_server or failures.comes_from_database(fault):
                raise
            raise TrackingError(
                f"tracking store {self.shown}",
                found=failures.one_line(fault)[: failures.MAX_SHOWN],
                expected="a database of the version of MLflow that is installed here",
                hint=f"copy the database aside, then: mlflow db upgrade {self.shown}",
            ) from fault

    @cached_property
    def experiment_id(self) -> str:
        """The experiment, made where it is missing."""
        from mlflow.exceptions import MlflowException

        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            try:
                return str(
                    self.client.create_experiment(
                        self.experiment, artifact_location=self.artifacts
                    )
                )
            except MlflowException:
                # Another process was quicker.
                experiment = self.client.get_experiment_by_name(self.experiment)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)


def find(
    config: TrackingConfig, workspace: Workspace, name: str | None = None
) -> TrackingStore:
    """The store that the settings name; touches nothing. A relative database path is
    below the workspace.

    Args:
        name: the experiment, where the settings name none; None: the workspace folder's
            name.

    Raises:
        ConfigError: the URI is of no kind that MLflow keeps runs in.
    """
    experiment = config.experiment or name or workspace.root.name
    folder = workspace.mlflow
    own_artifacts = (folder / "artifacts").as_uri()
    if config.uri is None:
        return TrackingStore(
            f"{SQLITE}{folder / 'mlflow.db'}", own_artifacts, experiment, folder
        )
    uri = expand_variables(config.uri, "tracking.uri")
    if uri.startswith(SQLITE):
        database = workspace.root / uri.removeprefix(SQLITE)
        return TrackingStore(
            f"{SQLITE}{database}", (database.parent / "artifacts").as_uri(), experiment
        )
    if uri.startswith(_SERVERS):
        return TrackingStore(uri, None, experiment)
    if uri.startswith(_DATABASES):
        return TrackingStore(uri, own_artifacts, experiment)
    raise ConfigError(
        "tracking.uri",
        found=uri,
        expected="http://…, https://…, sqlite:///…, postgresql://… or mysql://…",
        hint="correct it in params.yaml; null is the store embedded in the workspace",
    )


def load_client_class() -> type[MlflowClient]:
    """MLflow's client, imported quietly.

    Raises:
        TrackingError: MLflow is not installed.
    """
    prepare_environment()
    try:
        from mlflow import MlflowClient
    except ImportError as fault:
        raise TrackingError(
            "MLflow",
            found=str(fault),
            expected="the package mlflow",
            hint="pip install mlflow, or run make",
        ) from fault
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It prints tracebacks of what a database refuses, which is told as an error.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient


def prepare_environment() -> None:
    """Turns off MLflow's telemetry, progress bars, chatter and the loading of pickles,
    unless the user set them.
    """
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    bypass_proxies()
