"""Receipts: what was registered, decided and reported, so that no server has to be
asked where nothing changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline import served
from pipeline.config import Config
from pipeline.errors import VersioningError
from pipeline.files import replace_json, sha256
from pipeline.promotion_journal import Entry, read_history
from pipeline.records import (
    CandidateRecord,
    EvaluateRecord,
    PromoteRecord,
    Record,
    RegisterRecord,
    digest,
)
from pipeline.redaction import redact_forms
from pipeline.workspace import Workspace

R = TypeVar("R", bound=Record)


def path(workspace: Workspace) -> Path:
    """Where the receipt of the last registration lies."""
    return workspace.scratch / "receipts" / "register.json"


def write(config: Config, workspace: Workspace, record: RegisterRecord) -> None:
    """Keeps a registration as the receipt, with the digest of the settings it followed."""
    _write_record(path(workspace), _settings_digest(config), record)


def load(workspace: Workspace) -> RegisterRecord | None:
    """The last registration; None where there is none, or another version of Thaw wrote
    it.
    """
    return _read_record(path(workspace), RegisterRecord)


def current_receipt(
    config: Config, workspace: Workspace, evaluated: EvaluateRecord
) -> RegisterRecord | None:
    """The receipt, where it is of this evaluation, of what would be served now and of
    these settings; else None.
    """
    record = load(workspace)
    if record is None or record.evaluation != evaluated.digest:
        return None
    if _read_json(path(workspace)).get("settings") != _settings_digest(config):
        return None
    try:
        candidate = CandidateRecord.load(
            workspace.output("finetune") / evaluated.candidate
        )
    except VersioningError:
        return None
    name = workspace.model_name(config)
    if record.model != name or record.key != served.key(config, name, candidate):
        return None
    is_embedded = config.tracking.enabled and config.tracking.uri is None
    if is_embedded and not (workspace.mlflow / "mlflow.db").exists():
        return None
    return record


def write_promotion(
    config: Config, workspace: Workspace, record: PromoteRecord
) -> None:
    """Keeps a decision as the receipt, with the digest of the settings it followed."""
    _write_record(_promotion_path(workspace), _promotion_digest(config), record)


def load_promotion(workspace: Workspace) -> PromoteRecord | None:
    """The last decision; None where there is none, or another version of Thaw wrote it."""
    return _read_record(_promotion_path(workspace), PromoteRecord)


def current_promotion(
    config: Config, workspace: Workspace, registered: RegisterRecord
) -> PromoteRecord | None:
    """The last decision, where it is about this registration, by these settings, and
    the champion is, as far as is known here, the one that it left; else None.
    """
    record = load_promotion(workspace)
    if record is None or record.provisional:
        return None
    if (record.evaluation, record.key, record.version) != (
        registered.evaluation,
        registered.key,
        registered.version,
    ):
        return None
    if _read_json(_promotion_path(workspace)).get("settings") != _promotion_digest(
        config
    ):
        return None
    if not record.version:
        return record
    history = read_history(read_journal(workspace, record.model))
    is_answered = record.waits and not history.find_request(
        record.version, config.promotion.expires_days, datetime.now(UTC)
    )
    if is_answered or history.champion != record.champion:
        return None
    return record


def write_journal(workspace: Workspace, name: str, entries: Sequence[Entry]) -> None:
    """Mirrors the journal of a registered model: what is known of it where the registry
    is not asked.
    """
    values = []
    for entry in entries:
        values.append(entry.model_dump(mode="json", exclude_defaults=True))
    replace_json(_journal_path(workspace), {"model": name, "entries": values})


def read_journal(workspace: Workspace, name: str) -> list[Entry]:
    """The mirrored entries; none where there is no mirror of this model's."""
    values = _read_json(_journal_path(workspace))
    if values.get("model") != name:
        return []
    try:
        return [Entry.model_validate(entry) for entry in values["entries"]]
    except (KeyError, TypeError, ValidationError):
        return []


def _promotion_path(workspace: Workspace) -> Path:
    return workspace.scratch / "receipts" / "promote.json"


def _journal_path(workspace: Workspace) -> Path:
    return workspace.scratch / "receipts" / "journal.json"


def write_report(workspace: Workspace, inputs: str) -> None:
    """Keeps the digest of the page as it is now, and of what it was made from."""
    values = {"inputs": inputs, "page": sha256(workspace.report)}
    replace_json(_report_receipt(workspace), values)


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


def _write_record(file: Path, settings: str, record: Record) -> None:
    """Keeps a record with the digest of the settings that it followed."""
    values = record.model_dump(mode="json")
    replace_json(file, {"settings": settings, "record": values})


def _read_record(file: Path, kind: type[R]) -> R | None:
    try:
        return kind.model_validate(_read_json(file)["record"])
    except (KeyError, ValidationError):
        return None


def _read_json(file: Path) -> dict[str, Any]:
    """The mapping that a receipt holds; empty where it cannot be read."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _settings_digest(config: Config) -> str:
    """The digest of the settings that a registration follows."""
    return digest(
        config.register_.model_dump(exclude={"thresholds"}), _tracking_settings(config)
    )


def _promotion_digest(config: Config) -> str:
    """The digest of the settings that a decision follows."""
    return digest(config.promotion, config.register_, _tracking_settings(config))


def _tracking_settings(config: Config) -> dict[str, Any]:
    tracking = config.tracking.model_dump(mode="json")
    if config.tracking.uri is not None:
        # A new password for the same server is no other server.
        tracking["uri"] = redact_forms(config.tracking.uri)
    return tracking
