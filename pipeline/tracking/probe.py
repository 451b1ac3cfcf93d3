"""One small question to a tracking store, before work is done that it is to be told of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.tracking.store import TrackingStore, prepare_environment

PROBE_SECONDS = 5
SEARCH_EXPERIMENTS = "/api/2.0/mlflow/experiments/search"


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
        TrackingError: it answers and refuses, is no MLflow server, or cannot be
            written.
    """
    if store.is_server:
        return _probe_server(store)
    if store.sqlite_file is not None:
        _require_writable(store, store.sqlite_file)
        return ProbeResult()
    return _probe_database(store)


def _probe_server(store: TrackingStore) -> ProbeResult:
    prepare_environment()
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        response = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(store.uri),  # type: ignore[no-untyped-call]
            SEARCH_EXPERIMENTS,
            "POST",
            json={"max_results": 1},
            timeout=PROBE_SECONDS,
            max_retries=0,
            raise_on_status=False,
        )
    except MlflowException as fault:
        return ProbeResult(silent=True, found=_innermost_cause(fault))
    status = response.status_code
    if status >= 500 or status == 429:
        return ProbeResult(silent=True, found=f"HTTP {status}")
    content_type = response.headers.get("Content-Type", "no content type")
    if status == 200 and "json" in content_type:
        return ProbeResult()
    hint = "check tracking.uri in params.yaml"
    if status in (401, 403):
        hint = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    raise TrackingError(
        f"tracking store {store.shown}",
        found=f"HTTP {status}, {content_type}",
        expected="an MLflow server that lets this user in",
        hint=hint,
    )


def _innermost_cause(fault: BaseException) -> str:
    """The innermost cause by its kind, since its text may repeat the address with a
    password in it.
    """
    cause = fault
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return type(cause).__name__


def _require_writable(store: TrackingStore, database: Path) -> None:
    folder = next(folder for folder in database.parents if folder.exists())
    wanted = [folder]
    if database.exists():
        wanted.append(database)
    for path in wanted:
        if not os.access(path, os.W_OK):
            raise TrackingError(
                f"tracking store {store.shown}",
                found=f"{path} cannot be written",
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
        return ProbeResult(silent=True, found=_innermost_cause(fault))
    except (ArgumentError, NoSuchModuleError, ImportError) as fault:
        raise TrackingError(
            f"tracking store {store.shown}",
            found=f"{type(fault).__name__}: no driver for this kind of database",
            expected="an address that SQLAlchemy understands, and its driver installed",
            hint="correct tracking.uri, or pip install the driver (psycopg2-binary, pymysql, …)",
        ) from fault
