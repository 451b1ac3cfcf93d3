"""The environment the libraries are started in: set before the first of them is imported.

Every library's telemetry is off, servers bind loopback, and where nothing is configured Prefect keeps its
database in the workspace. What the user has set in the environment wins, telemetry included.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SERVERS = "servers.json"  # in the scratch folder, written by `thaw up`

# OpenMP's threads spin while they wait for each other; on cores that other programs use too, that made every
# convolution four times slower. A short spin costs nothing measurable on an idle machine.
PATIENT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}

QUIET = {
    **PATIENT,
    "DO_NOT_TRACK": "true",  # MLflow understands `true` alone
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
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
    if os.environ.get("PREFECT_API_URL"):
        return
    running = servers(scratch)
    if running:
        os.environ["PREFECT_API_URL"] = running["prefect"]
        os.environ.setdefault("PREFECT_API_AUTH_STRING", running["prefect_auth"])
    elif "PREFECT_API_DATABASE_CONNECTION_URL" not in os.environ and "PREFECT_PROFILE" not in os.environ:
        os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = prefect_database(scratch)


def prefect_database(scratch: Path) -> str:
    """The embedded Prefect database's address; its folder is made."""
    folder = scratch / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite+aiosqlite:///{folder / 'prefect.db'}"


def servers(scratch: Path) -> dict[str, Any] | None:
    """The servers `thaw up` started for this workspace, where Prefect's answers; else None."""
    try:
        known: dict[str, Any] = json.loads((scratch / SERVERS).read_text())
        with urllib.request.urlopen(f"{known['prefect']}/health", timeout=1):
            return known
    except urllib.error.HTTPError:
        return known
    except (OSError, ValueError, KeyError):
        return None
