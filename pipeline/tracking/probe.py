"""One small question to a tracking store, before work is done that it is to be told of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import TrackingError
from pipeline.tracking.store import TrackingStore, prepare_environment

PROBE_SECONDS = 5
# A command that someone waits for gives up on a server that is silent for so long, and
# a run, which has what it trained to tell, after a minute.
SECONDS_OF_COMMANDS = 15
SECONDS_OF_RUNS = 60
SEARCH_EXPERIMENTS = "/api/2.0/mlflow/experiments/search"


@dataclass(frozen=True)
class ProbeResult:
    """What a store said when it was asked for nothing in particular.

    Args:
        silent: it did not answer, which may pass.
        found: why not, in words.
        late: it took longer than it had.
    """

    silent: bool = False
    found: str = ""
    late: bool = False


def require_answer(store: TrackingStore, seconds: float) -> None:
    """Makes sure that a server is not silent: each request to one would wait, and wait
    again. What it answers with is left to the requests to come.

    Raises:
        TrackingError: there is no answer within so many seconds; or it answers and
            refuses, or is no MLflow server.
    """
    if store.is_server and probe(store, seconds).late:
        raise TrackingError(
            f"tracking store {store.shown}",
            found=f"no answer within {seconds:g} s",
            expected="an MLflow server that answers",
            hint="see that it is up and not overloaded, then try again; nothing is lost",
        )


def probe(store: TrackingStore, seconds: float = PROBE_SECONDS) -> ProbeResult:
    """Asks the store one small question, with little patience; makes nothing.

    Args:
        seconds: that a server has to answer.

    Raises:
        TrackingError: it answers and refuses, is no MLflow server, or cannot be
            written.
    """
    if store.is_server:
        return _probe_server(store, seconds)
    if store.sqlite_file is not None:
        _require_writable(store, store.sqlite_file)
        return ProbeResult()
    return _probe_database(store)


def _probe_server(store: TrackingStore, seconds: float) -> ProbeResult:
    prepare_environment()
    from mlflow.exceptions import MlflowException

    try:
        response = _search_experiments(store, seconds)
    except MlflowException as fault:
        cause = _innermost_cause(fault)
        is_late = isinstance(cause, TimeoutError)
        return ProbeResult(silent=True, found=type(cause).__name__, late=is_late)
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


def _search_experiments(store: TrackingStore, seconds: float) -> Any:
    """The server's response to the cheapest question that needs its database."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    return http_request(  # type: ignore[no-untyped-call]
        get_default_host_creds(store.uri),  # type: ignore[no-untyped-call]
        SEARCH_EXPERIMENTS,
        "POST",
        json={"max_results": 1},
        timeout=seconds,
        max_retries=0,
        raise_on_status=False,
    )


def _innermost_cause(fault: BaseException) -> BaseException:
    """The innermost cause. It is told by its kind, since its text may repeat the address
    with a password in it.
    """
    cause = fault
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return cause


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
        cause = _innermost_cause(fault)
        return ProbeResult(silent=True, found=type(cause).__name__)
    except (ArgumentError, NoSuchModuleError, ImportError) as fault:
        raise TrackingError(
            f"tracking store {store.shown}",
            found=f"{type(fault).__name__}: no driver for this kind of database",
            expected="an address that SQLAlchemy understands, and its driver installed",
            hint="correct tracking.uri, or pip install the driver (psycopg2-binary, pymysql, …)",
        ) from fault
