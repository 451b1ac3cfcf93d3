"""`thaw doctor`: what this machine and workspace have, what is wrong, and the hint."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline import loopback
from pipeline.config import Config
from pipeline.cores import cores
from pipeline.errors import ThawError
from pipeline.step_table import DVC_STAGES
from pipeline.text import pluralize
from pipeline.workspace import Workspace

# What is known to work: docs/decisions/0002-pins.md says why each bound is there.
BOUNDS = {
    "torch": "==2.15.0",
    "torchvision": "==0.29.2",
    "prefect": ">=3.8,<3.9",
    "mlflow": ">=3.17,<3.18",
    "dvc": ">=3.67,<4",
    "great-expectations": ">=1.24,<2",
    "fastapi": "<0.151",
    "sqlalchemy": ">=2.0,<2.1",
}
ENOUGH_DISK_BYTES = 5 * 2**30
CheckState = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class DiagnosticCheck:
    """One thing looked at."""

    name: str
    state: CheckState
    found: str
    hint: str = ""


def examine(start: Path) -> Iterator[DiagnosticCheck]:
    """Looks at everything in turn; a check that itself fails is a bad check, never a
    traceback.
    """
    loopback.bypass_proxies()
    yield _check_python()
    yield from _check_versions()
    workspace: Workspace | None = None
    try:
        workspace = Workspace.find(start)
    except ThawError as fault:
        yield DiagnosticCheck("workspace", "note", fault.found, fault.hint)
    root = workspace.root if workspace else start
    yield _check_disk(root)
    yield _check_write_access(root)
    if workspace:
        yield _check_settings(workspace)
        yield from _check_workspace(workspace)
    yield _check_git()
    yield _check_accelerator()


def _check_python() -> DiagnosticCheck:
    return DiagnosticCheck(
        "python", "ok", f"{platform.python_version()} at {sys.executable}"
    )


def _check_versions() -> Iterator[DiagnosticCheck]:
    from packaging.specifiers import SpecifierSet

    for name, bound in BOUNDS.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield DiagnosticCheck(
                name, "bad", "not installed", f"pip install '{name}{bound}'"
            )
            continue
        fits = SpecifierSet(bound).contains(installed, prereleases=True)
        hint = "" if fits else f"pip install '{name}{bound}'"
        yield DiagnosticCheck(
            name, "ok" if fits else "bad", f"{installed} ({bound})", hint
        )


def _check_disk(root: Path) -> DiagnosticCheck:
    free = shutil.disk_usage(root).free
    if free < ENOUGH_DISK_BYTES:
        return DiagnosticCheck(
            "disk", "bad", f"{free / 2**30:.1f} GiB free", "make room, or: thaw clean"
        )
    return DiagnosticCheck("disk", "ok", f"{free / 2**30:.0f} GiB free")


def _check_write_access(root: Path) -> DiagnosticCheck:
    try:
        with tempfile.NamedTemporaryFile(dir=root, prefix=".thaw-doctor-"):
            return DiagnosticCheck("write access", "ok", str(root))
    except OSError as fault:
        return DiagnosticCheck(
            "write access",
            "bad",
            str(fault),
            f"chown or chmod {shlex.quote(str(root))}",
        )


def _check_settings(workspace: Workspace) -> DiagnosticCheck:
    try:
        workspace.config()
        return DiagnosticCheck("params.yaml", "ok", "every setting understood")
    except ThawError as fault:
        return DiagnosticCheck(
            "params.yaml", "bad", "; ".join(fault.details) or fault.found, fault.hint
        )


def _check_workspace(workspace: Workspace) -> Iterator[DiagnosticCheck]:
    """What can only be looked at where params.yaml can be read."""
    try:
        config = workspace.config()
    except ThawError:
        return  # said already
    yield from _check_preflight(workspace, config)
    yield _check_data(workspace, config)
    yield _check_servers(workspace)


def _check_preflight(workspace: Workspace, config: Config) -> Iterator[DiagnosticCheck]:
    """What a run would check before it begins, for the steps that it would run."""
    from pipeline import preflight

    needed = preflight.needed_steps(_list_stale_steps(workspace))
    states: dict[str, CheckState] = {"ok": "ok", "warning": "note", "error": "bad"}
    for run_checks in (preflight.quick_checks, preflight.thorough_checks):
        for check in run_checks(workspace, config, needed):
            found = check.found
            if check.state != "ok" and check.expected:
                found += f"; {check.expected}"
            yield DiagnosticCheck(check.name, states[check.state], found, check.hint)


def _list_stale_steps(workspace: Workspace) -> Sequence[str]:
    """All steps where DVC cannot be asked; why it cannot is another check's to say."""
    from pipeline.versioning import Versioning

    try:
        states = Versioning(workspace.root).states()
    except ThawError:
        return DVC_STAGES
    return [name for name, state in states.items() if not state.fresh]


def _check_data(workspace: Workspace, config: Config) -> DiagnosticCheck:
    from pipeline.versioning import Versioning

    try:
        version = Versioning(workspace.root).data_version()
    except ThawError as fault:
        hint = _hint_for_data(workspace, config, fault)
        return DiagnosticCheck("data", "bad", fault.found or fault.subject, hint)
    found = f"{pluralize(version.files, 'file')}, {version.md5}"
    if version.dirty:
        return DiagnosticCheck("data", "note", f"{found}; {version.dirty_reason}")
    return DiagnosticCheck("data", "ok", found)


def _hint_for_data(workspace: Workspace, config: Config, fault: ThawError) -> str:
    if not (workspace.root / config.data.path).is_dir():
        return "bring the data: dvc pull; or correct data.path in params.yaml"
    if not (workspace.root / ".dvc").is_dir():
        return "bring .dvc/ back, as Git has it; or make another workspace: thaw init"
    return "" if fault.hint == "thaw doctor" else fault.hint


def _check_servers(workspace: Workspace) -> DiagnosticCheck:
    from flows import settings

    known = settings.servers(workspace.scratch)
    if known:
        return DiagnosticCheck(
            "servers", "ok", f"Prefect {known['prefect_ui']}, MLflow {known['mlflow']}"
        )
    address = os.environ.get("PREFECT_API_URL")
    if address:
        return _check_reachable("Prefect", f"{address}/health")
    return DiagnosticCheck(
        "servers",
        "note",
        "none running: each run starts its own for a few seconds",
        "thaw up",
    )


def _check_reachable(name: str, url: str) -> DiagnosticCheck:
    import urllib.error

    from pipeline.models import transfer

    plain, login = transfer.split_login(url)
    try:
        with transfer.build_opener(plain, login).open(plain, timeout=3):
            return DiagnosticCheck(name, "ok", plain)
    except urllib.error.HTTPError as fault:
        return DiagnosticCheck(
            name,
            "note",
            f"{plain} answers {fault.code}",
            "check the user and password in its address",
        )
    except OSError as fault:
        return DiagnosticCheck(
            name,
            "bad",
            f"{plain}: {fault}",
            "start it, or unset its address to use the embedded one",
        )


def _check_git() -> DiagnosticCheck:
    program = shutil.which("git")
    return DiagnosticCheck(
        "git",
        "ok" if program else "note",
        program or "not installed: data versions carry no revision",
    )


def _check_accelerator() -> DiagnosticCheck:
    import torch

    if torch.cuda.is_available():
        return DiagnosticCheck("accelerator", "ok", torch.cuda.get_device_name(0))
    if torch.backends.mps.is_available():
        return DiagnosticCheck("accelerator", "ok", "Apple MPS")
    return DiagnosticCheck(
        "accelerator",
        "note",
        f"none: {cores()} CPU cores, {torch.backends.cpu.get_cpu_capability()}",
    )
