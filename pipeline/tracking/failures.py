"""What the store's exceptions mean: what may pass by itself, what is a refusal, and
what to tell the user.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pipeline.errors import ThawError, TrackingError
from pipeline.redaction import redact
from pipeline.storage import to_full_disk_error
from pipeline.tracking.probe import probe
from pipeline.tracking.store import TrackingStore

T = TypeVar("T")

# Training waits no longer than this for one request; registering has more patience.
TRAINING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
PATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}

MAX_SHOWN = 400  # characters of a foreign error's text
FIRST_PAUSE = 0.5  # seconds
REFUSALS = (
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "BAD_REQUEST",
)
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextlib.contextmanager
def limit_requests(values: Mapping[str, str]) -> Iterator[None]:
    """Bounds how long MLflow waits and retries inside; it reads these from the
    environment at each request.
    """
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


def with_retries(
    store: TrackingStore, what: str, call: Callable[[], T], seconds: float = 30.0
) -> T:
    """`call()` with the patience that registering has: what may pass is tried again for
    some seconds.

    Raises:
        StorageError: the disk of a SQLite store, or one of this machine, is full or
            read-only.
        TrackingError: the store is away or locked, or refuses; names it, and the holder
            of a locked database.
    """
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE
    while True:
        try:
            with limit_requests(PATIENT):
                return call()
        except ThawError:
            raise
        except Exception as fault:
            # A locked database passes by waiting here; over HTTP MLflow has waited
            # already.
            if not is_locked(fault) or time.monotonic() + pause > deadline:
                raise _to_thaw_error(store, what, fault) from fault
        time.sleep(pause)
        pause *= 2


def is_locked(fault: BaseException) -> bool:
    """Whether another process had a SQLite database for itself."""
    for cause in _chain(fault):
        if (
            isinstance(cause, sqlite3.OperationalError)
            and getattr(cause, "sqlite_errorcode", 0) & 0xFF in BUSY
        ):
            return True
    return False


def comes_from_database(fault: BaseException) -> bool:
    """Whether a database's driver raised it, or what it was made from."""
    from sqlalchemy.exc import DBAPIError

    return any(
        isinstance(cause, (DBAPIError, sqlite3.Error, OSError))
        for cause in _chain(fault)
    )


def is_refusal(store: TrackingStore, fault: BaseException) -> bool:
    """Whether the store understood and said no, so that asking again is no use;
    anything else may pass.

    A proxy in front of a server answers with the same codes: the server's own answers
    are of a type of their own, and for others the server is asked whether it is there.
    """
    from mlflow.exceptions import MlflowException, RestException

    if not isinstance(fault, MlflowException) or fault.error_code not in REFUSALS:
        return False
    if isinstance(fault, RestException) or not store.is_server:
        return True
    try:
        return not probe(store).silent
    except TrackingError:
        return False


def _to_thaw_error(store: TrackingStore, what: str, fault: BaseException) -> ThawError:
    """The error to be told: a disk's, where a disk is the cause."""
    if store.sqlite_file is not None:
        full = to_full_disk_error(fault, store.sqlite_file)
        if full is not None:
            return full
    return to_tracking_error(store, what, fault)


def to_tracking_error(
    store: TrackingStore, what: str, fault: BaseException
) -> TrackingError:
    """The store's own exception as an error that says what to do."""
    if store.sqlite_file is not None and is_locked(fault):
        holders = _describe_holders(store.sqlite_file)
        return TrackingError(
            what,
            found=f"{store.sqlite_file} is locked{holders}",
            expected="a database that can be written",
            hint="end that program, or wait for it; nothing is lost: thaw run goes on from here",
        )
    return TrackingError(
        what,
        found=one_line(fault)[:MAX_SHOWN] or type(fault).__name__,
        expected=f"an answer from {store.shown}",
        hint="see that it is up, reachable and has space, then thaw run: what is finished is not done again",
    )


def one_line(fault: BaseException) -> str:
    """An exception's text on one line, without secrets; redacted before anything is cut
    off it.
    """
    text = redact(str(fault))
    return " ".join(text.split())


def _chain(fault: BaseException) -> Iterator[BaseException]:
    """An exception and everything that it was made from."""
    cause: BaseException | None = fault
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        # SQLAlchemy's name for the driver's exception.
        original = getattr(cause, "orig", None)
        cause = original or cause.__cause__ or cause.__context__


def _describe_holders(file: Path) -> str:
    """The processes that have a file open, in words; empty where it cannot be told."""
    import psutil

    names = []
    for process in psutil.process_iter(["pid", "name"]):
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if any(opened.path == str(file) for opened in process.open_files()):
                names.append(f"process {process.pid} ({process.info['name']})")
    if names:
        return f", held open by {', '.join(names)}"
    return ""
