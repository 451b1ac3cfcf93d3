"""Receipts: what was registered, so that no server has to be asked where nothing changed."""

from __future__ import annotations

import json
from pathlib import Path

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
    values = {"settings": _settings(config), "record": record.model_dump(mode="json")}
    replace_text(path(workspace), json.dumps(values, indent=2) + "\n")


def receipt_is_current(config: Config, workspace: Workspace, evaluated: EvaluateRecord) -> RegisterRecord | None:
    """The receipt, where it is of this evaluation, of what would be served now and of these settings; else None."""
    name = workspace.model_name(config)
    try:
        values = json.loads(path(workspace).read_text(encoding="utf-8"))
        record = RegisterRecord.model_validate(values["record"])
        candidate = CandidateRecord.load(workspace.output("finetune") / evaluated.candidate)
    except (OSError, ValueError, KeyError, TypeError, ValidationError, VersioningError):
        return None
    if values.get("settings") != _settings(config) or record.evaluation != evaluated.digest:
        return None
    if record.model != name or record.key != served.key(config, name, candidate):
        return None
    embedded = config.tracking.enabled and config.tracking.uri is None
    gone = embedded and not (workspace.mlflow / "mlflow.db").exists()
    return None if gone else record


def write_report(workspace: Workspace, inputs: str) -> None:
    """Remembers the page as it is now, and the digest of what it was made from."""
    values = {"inputs": inputs, "page": sha256(workspace.report)}
    replace_text(_report_receipt(workspace), json.dumps(values, indent=2) + "\n")


def report_fault(workspace: Workspace, inputs: str) -> str:
    """Why the page is not the one that was made from these inputs; empty where it is."""
    name = workspace.report.name
    if not workspace.report.is_file():
        return f"{name} is missing"
    try:
        known = json.loads(_report_receipt(workspace).read_text(encoding="utf-8"))
        made_from, page = known["inputs"], known["page"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"it is not known what {name} was made from"
    if made_from != inputs:
        return f"{name} was made from earlier results"
    return "" if page == sha256(workspace.report) else f"{name} was edited"


def _report_receipt(workspace: Workspace) -> Path:
    return workspace.scratch / "receipts" / "report.json"


def _settings(config: Config) -> str:
    tracking = config.tracking.model_dump(mode="json")
    uri = config.tracking.uri
    # A new password for the same server is no other server.
    return digest(config.register_, {**tracking, "uri": redact_forms(uri) if uri is not None else None})
