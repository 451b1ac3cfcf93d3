"""Receipts: what was registered and reported, so that no server has to be asked where nothing changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline import served
from pipeline.config import Config
from pipeline.errors import VersioningError
from pipeline.files import replace_text, sha256
from pipeline.records import CandidateRecord, EvaluateRecord, RegisterRecord, digest
from pipeline.redaction import redact_forms
from pipeline.workspace import Workspace


def path(workspace: Workspace) -> Path:
    """Where the receipt of the last registration lies."""
    return workspace.scratch / "receipts" / "register.json"


def write(config: Config, workspace: Workspace, record: RegisterRecord) -> None:
    """Keeps a registration as the receipt, with the digest of the settings it followed."""
    values = {"settings": _settings_digest(config), "record": record.model_dump(mode="json")}
    _write_json(path(workspace), values)


def load(workspace: Workspace) -> RegisterRecord | None:
    """The last registration; None where there is none, or another version of Thaw wrote it."""
    try:
        return RegisterRecord.model_validate(_read_json(path(workspace))["record"])
    except (KeyError, ValidationError):
        return None


def current_receipt(config: Config, workspace: Workspace, evaluated: EvaluateRecord) -> RegisterRecord | None:
    """The receipt, where it is of this evaluation, of what would be served now and of these settings; else None."""
    record = load(workspace)
    if record is None or record.evaluation != evaluated.digest:
        return None
    if _read_json(path(workspace)).get("settings") != _settings_digest(config):
        return None
    try:
        candidate = CandidateRecord.load(workspace.output("finetune") / evaluated.candidate)
    except VersioningError:
        return None
    name = workspace.model_name(config)
    if record.model != name or record.key != served.key(config, name, candidate):
        return None
    is_embedded = config.tracking.enabled and config.tracking.uri is None
    if is_embedded and not (workspace.mlflow / "mlflow.db").exists():
        return None
    return record


def write_report(workspace: Workspace, inputs: str) -> None:
    """Keeps the digest of the page as it is now, and of what it was made from."""
    values = {"inputs": inputs, "page": sha256(workspace.report)}
    _write_json(_report_receipt(workspace), values)


def report_fault(workspace: Workspace, inputs: str) -> str:
    """Why the page is not the one that was made from these inputs; empty where it is."""
    name = workspace.report.name
    if not workspace.report.is_file():
        return f"{name} is missing"
    receipt = _read_json(_report_receipt(workspace))
    if not {"inputs", "page"} <= receipt.keys():
        return f"it is not known what {name} was made from"
    if receipt["inputs"] != inputs:
        return f"{name} was made from earlier results"
    if receipt["page"] != sha256(workspace.report):
        return f"{name} was edited"
    return ""


def _report_receipt(workspace: Workspace) -> Path:
    return workspace.scratch / "receipts" / "report.json"


def _read_json(file: Path) -> dict[str, Any]:
    """The mapping that a receipt holds; empty where it cannot be read."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _write_json(file: Path, values: dict[str, Any]) -> None:
    replace_text(file, json.dumps(values, indent=2) + "\n")


def _settings_digest(config: Config) -> str:
    """The digest of the settings that a registration follows."""
    tracking = config.tracking.model_dump(mode="json")
    if config.tracking.uri is not None:
        tracking["uri"] = redact_forms(config.tracking.uri)  # a new password for the same server is no other server
    return digest(config.register_, tracking)
