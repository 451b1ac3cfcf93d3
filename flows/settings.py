"""The environment the libraries are started in: set before the first of them is
imported.

Every library's telemetry is off, servers bind loopback, and where nothing is configured
Prefect keeps its database in the workspace. What the user has set in the environment
wins, telemetry included.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipeline import loopback

SERVERS = "servers.json"  # in the scratch folder, written by `thaw up`

# OpenMP's threads spin while they wait for each other; on cores that other programs use
# too, that made every convolution four times slower. A short spin costs nothing
# measurable on an idle machine.
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}

QUIET = {
    **PATIENT_THREADS,
    "DO_NOT_TRACK": "true",  # MLflow understands `true` alone
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "PREFECT_CLI_PROMPT": "false",
}


def prepare(scratch: Path) -> None:
    """Sets what is not set yet; `scratch` is the workspace's `.thaw`."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    loopback.bypass_proxies()
    if os.environ.get("PREFECT_API_URL"):
        return
    running = servers(scratch)
    if running:
        os.environ["PREFECT_API_URL"] = running["prefect"]
        os.environ.setdefault("PREFECT_API_AUTH_STRING", running["prefect_auth"])
    elif (
        "PREFECT_API_DATABASE_CONNECTION_URL" not in os.environ
        and "PREFECT_PROFILE" not in os.environ
    ):
        os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = prefect_database(scratch)


def prefect_database(scratch: Path) -> str:
    """The embedded Prefect database's address; its folder is made."""
    folder = scratch / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite+aiosqlite:///{folder / 'prefect.db'}"


def servers(scratch: Path) -> dict[str, Any] | None:
    """The servers that `thaw up` runs for this workspace; None where none run, or where
    others have their ports.
    """
    known = noted_servers(scratch)
    if known is not None and is_prefect_with(known["prefect"], known["prefect_auth"]):
        return known
    return None


def noted_servers(scratch: Path) -> dict[str, Any] | None:
    """What the last `thaw up` wrote down of its servers, whether or not they run; None
    where it ended in order.
    """
    try:
        known = json.loads((scratch / SERVERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    expected = ("prefect", "prefect_ui", "prefect_auth", "mlflow")
    if isinstance(known, dict) and all(
        isinstance(known.get(name), str) for name in expected
    ):
        return known
    return None


def is_prefect_with(api: str, secret: str) -> bool:
    """Whether the Prefect server whose secret this is answers at an address: nobody
    else knows it.

    The address is asked without it first, so that a stranger is not told.
    """
    url = f"{api}/admin/version"
    refuses_strangers = loopback.status(url) == 401
    return refuses_strangers and loopback.status(url, secret) == 200
