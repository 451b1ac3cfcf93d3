"""The tracking store and model registry: where it is, how it is asked, and what its errors mean."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.config import expand_variables
from pipeline.errors import ConfigError, ThawError, TrackingError
from pipeline.loopback import bypass_proxies
from pipeline.redaction import redact, redact_forms

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipeline.config import TrackingConfig
    from pipeline.workspace import Workspace

T = TypeVar("T")

# Training waits no longer than this for one request; registering has more patience.
TRAINING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
PATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would print the password in the server's address
}
PROBE_SECONDS = 5
_SERVED = ("http://", "https://", "databricks")
_DATABASES = ("postgresql", "mysql", "mssql")
_REFUSED = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")


@dataclass(frozen=True)
class TrackingStore:
    """One tracking store with its registry.

    Args:
        uri: MLflow's tracking URI.
        artifacts: where a new experiment keeps its artifacts; None: where the server says.
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
        """An embedded store that nothing was recorded in yet; it is not made for the asking."""
        return self.embedded is not None and not (self.embedded / "mlflow.db").exists()

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; importing MLflow takes seconds, and so does opening a database.

        Raises:
            TrackingError: MLflow is not installed.
        """
        if self.embedded is not None:
            create(self.embedded)
            relocate(self.embedded)
        return new_client(self.uri)

    @cached_property
    def experiment_id(self) -> str:
        """The experiment, made where it is missing."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(self.client.create_experiment(self.experiment, artifact_location=self.artifacts))
            except MlflowException:
                found = self.client.get_experiment_by_name(self.experiment)  # another process was quicker
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)


def find(config: TrackingConfig, workspace: Workspace, name: str | None = None) -> TrackingStore:
    """The store that the settings name; touches nothing. A relative database path is below the workspace.

    Raises:
        ConfigError: the URI is of no kind that MLflow keeps runs in.
    """
    experiment = config.experiment or name or workspace.root.name
    folder = workspace.mlflow
    uri = expand_variables(config.uri, "tracking.uri") if config.uri is not None else None
    if uri is None:
        return TrackingStore(f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri(), experiment, folder)
    if uri.startswith("sqlite:///"):
        database = workspace.root / uri.removeprefix("sqlite:///")
        return TrackingStore(f"sqlite:///{database}", (database.parent / "artifacts").as_uri(), experiment)
    if not uri.startswith((*_SERVED, *_DATABASES)):
        raise ConfigError(
            "tracking.uri", found=uri, expected="http://…, https://…, sqlite:///…, postgresql://… or mysql://…",
            hint="correct it in params.yaml; null is the store embedded in the workspace",
        )  # fmt: skip
    served = uri.startswith(_SERVED)
    return TrackingStore(uri, None if served else (folder / "artifacts").as_uri(), experiment)


@dataclass(frozen=True)
class ProbeResult:
    """What a store said when it was asked for nothing in particular.

    Args:
        silent: it did not answer, which may pass.
        found: why not, in words.
    """

    silent: bool = False
    found: str = ""


def probe(store: TrackingStore) -> ProbeResult:
    """Asks the store one small question, with little patience; makes nothing.

    Raises:
        TrackingError: it answers and refuses, is no MLflow server, or cannot be written.
    """
    if store.uri.startswith(_SERVED):
        return _probe_server(store)
    if store.uri.startswith("sqlite:///"):
        _require_writable(store)
        return ProbeResult()
    return _probe_database(store)


def _probe_server(store: TrackingStore) -> ProbeResult:
    prepare()
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    endpoint = "/api/2.0/mlflow/experiments/search"
    try:
        response = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(store.uri),  # type: ignore[no-untyped-call]
            endpoint,
            "POST",
            json={"max_results": 1},
            timeout=PROBE_SECONDS,
            max_retries=0,
            raise_on_status=False,
        )
    except MlflowException as fault:
        return ProbeResult(silent=True, found=_reason(fault))
    if response.status_code >= 500 or response.status_code == 429:
        return ProbeResult(silent=True, found=f"HTTP {response.status_code}")
    is_json = "json" in response.headers.get("Content-Type", "")
    if response.status_code == 200 and is_json:
        return ProbeResult()
    refused_user = response.status_code in (401, 403)
    raise TrackingError(
        f"tracking store {store.shown}",
        found=f"HTTP {response.status_code}, {response.headers.get('Content-Type', 'no content type')}",
        expected="an MLflow server that lets this user in",
        hint="check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        if refused_user
        else "check tracking.uri in params.yaml",
    )


def _reason(fault: BaseException) -> str:
    """The innermost cause by its kind, since its text may repeat the address with a password in it."""
    cause = fault
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return type(cause).__name__


def _require_writable(store: TrackingStore) -> None:
    database = Path(store.uri.removeprefix("sqlite:///"))
    folder = next(place for place in database.parents if place.exists())
    wanted = [database] if database.exists() else []
    locked = [path for path in [folder, *wanted] if not os.access(path, os.W_OK)]
    if locked:
        raise TrackingError(
            f"tracking store {store.shown}",
            found=f"{locked[0]} cannot be written",
            expected="a database that can be written",
            hint="give yourself the right to write there, or set tracking.uri",
        )


def _probe_database(store: TrackingStore) -> ProbeResult:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

    try:
        with create_engine(store.uri).connect():
            return ProbeResult()
    except OperationalError as fault:
        return ProbeResult(silent=True, found=_reason(fault))
    except (ArgumentError, NoSuchModuleError, ImportError) as fault:
        raise TrackingError(
            f"tracking store {store.shown}",
            found=f"{type(fault).__name__}: no driver for this kind of database",
            expected="an address that SQLAlchemy understands, and its driver installed",
            hint="correct tracking.uri, or pip install the driver (psycopg2-binary, pymysql, …)",
        ) from fault


def new_client(uri: str) -> MlflowClient:
    """A client for any URI, quietly; raises TrackingError where MLflow is not installed."""
    return _client_class()(tracking_uri=uri, registry_uri=uri)


def _client_class() -> type[MlflowClient]:
    prepare()
    try:
        from mlflow import MlflowClient
    except ImportError as fault:
        raise TrackingError(
            "MLflow", found=str(fault), expected="the package mlflow", hint="pip install mlflow, or run make"
        ) from fault
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return MlflowClient


def prepare() -> None:
    """Turns off MLflow's telemetry, progress bars, chatter and the loading of pickles, unless the user set them."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    bypass_proxies()


@contextlib.contextmanager
def limits(values: Mapping[str, str]) -> Iterator[None]:
    """Bounds how long MLflow waits and retries inside; it reads these from the environment at each request."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def refused(fault: BaseException) -> bool:
    """Whether the store understood and said no, so that asking again is no use; anything else may pass."""
    code = getattr(fault, "error_code", None)
    return code in _REFUSED and not str(fault).startswith("API request to")


def with_retries(store: TrackingStore, what: str, call: Callable[[], T], seconds: float = 30.0) -> T:
    """`call()` with the patience that registering has: what may pass is tried again for some seconds.

    Raises:
        TrackingError: the store is away, locked or full, or refuses; names it, and the holder of a locked database.
    """
    until = time.monotonic() + seconds
    pause = 0.5
    while True:
        try:
            with limits(PATIENT):
                return call()
        except ThawError:
            raise
        except Exception as fault:
            if refused(fault) or time.monotonic() + pause > until or not _transient(fault):
                raise to_tracking_error(store, what, fault) from fault
        time.sleep(pause)
        pause *= 2


def _transient(fault: BaseException) -> bool:
    """A locked database passes by waiting here; over HTTP MLflow has waited already."""
    return "locked" in str(fault)


def to_tracking_error(store: TrackingStore, what: str, fault: BaseException) -> TrackingError:
    """The store's own exception as an error that says what to do."""
    found = one_line(fault)[:400] or type(fault).__name__
    if "locked" in found and store.uri.startswith("sqlite:///"):
        path = store.uri.removeprefix("sqlite:///")
        return TrackingError(
            what, found=f"{path} is locked{_holders(path)}", expected="a database that can be written",
            hint="end that program, or wait for it; nothing is lost: thaw run goes on from here",
        )  # fmt: skip
    if "out-of-date database schema" in found:
        return TrackingError(
            what, found=found, expected="the database version of the MLflow installed here",
            hint=f"copy the database aside, then: mlflow db upgrade {store.shown}",
        )  # fmt: skip
    return TrackingError(
        what, found=found, expected=f"an answer from {store.shown}",
        hint="see that it is up, reachable and has space, then thaw run: what is finished is not done again",
    )  # fmt: skip


def one_line(fault: BaseException) -> str:
    """An exception's text on one line, without secrets; redacted before anything is cut off it."""
    return " ".join(redact(str(fault)).split())


def _holders(path: str) -> str:
    """The processes that have a file open, in words; empty where it cannot be told."""
    import psutil

    names = []
    for process in psutil.process_iter(["pid", "name"]):
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(opened.path == path for opened in process.open_files()):
                names.append(f"process {process.pid} ({process.info['name']})")
    return f", held open by {', '.join(names)}" if names else ""


def create(folder: Path) -> None:
    """Makes an embedded store's database where there is none, whole or not at all.

    MLflow makes it in many steps; one that a full disk or a kill cut short it could never open again.
    """
    database, artifacts = folder / "mlflow.db", folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    if database.exists():
        return
    _client_class()  # MLflow is there, and quiet
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    make: Any = SqlAlchemyStore
    part = folder / f".mlflow.{secrets.token_hex(4)}.db"
    try:
        make(f"sqlite:///{part}", artifacts.as_uri()).engine.dispose()
        with contextlib.suppress(FileExistsError):  # another process was quicker
            database.hardlink_to(part)
    finally:
        for left in folder.glob(f"{part.name}*"):
            left.unlink()


def relocate(folder: Path) -> None:
    """Makes an embedded store that was moved or copied name its artifacts where they are now.

    MLflow keeps absolute addresses; without this, a copied workspace would read, and write into, the one it was
    copied from. Nothing is done where the addresses are right.
    """
    database, here = folder / "mlflow.db", (folder / "artifacts").as_uri()
    marker = folder / "artifacts" / ".address"
    if not database.is_file():  # it is about to be made, with these addresses
        marker.write_text(here, encoding="utf-8")
        return
    there = marker.read_text(encoding="utf-8") if marker.is_file() else here
    if there != here:
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            for table, column in _ADDRESSES:
                statement = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                connection.execute(statement, (here, len(there) + 1, len(there), there))
    if there != here or not marker.is_file():
        marker.write_text(here, encoding="utf-8")


_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def server_command(workspace: Workspace, host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """How to run the embedded store as a server: arguments and environment.

    Artifacts stay where the embedded store has them, read and written by clients directly, so that runs recorded
    with and without the server are of one kind.
    """
    folder = workspace.mlflow
    create(folder)
    argv = [
        sys.executable, "-P", "-m", "mlflow", "server", "--host", host, "--port", str(port), "-w", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--default-artifact-root", (folder / "artifacts").as_uri(), "--no-serve-artifacts",
    ]  # fmt: skip
    return argv, {**_QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def history(client: Any, run_id: str, name: str) -> dict[int, float]:
    """A metric's values by step, the latest where a step has several."""
    points = client.get_metric_history(run_id, name)
    return {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}
