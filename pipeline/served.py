"""What is served of a candidate besides its weights, and the key of the version that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import serving
from pipeline.config import Config
from pipeline.records import CandidateRecord, digest


def code() -> Path:
    """The file that travels with the weights and answers."""
    return Path(serving.__path__[0]) / "model.py"


def settings(config: Config, candidate: CandidateRecord) -> dict[str, Any]:
    """How the served model presents its inputs, what it refuses and how it names its answers."""
    intake = config.task.intake
    limits = {
        "max_bytes": intake.max_bytes,
        "max_pixels": intake.max_pixels,
        "single_frame": intake.animated == "reject",
    }
    return {
        "architecture": candidate.architecture,
        "labels": list(candidate.labels),
        "input": candidate.input.model_dump(mode="json"),
        "limits": limits,
        "sha256": candidate.model_sha256,
    }


def key(config: Config, name: str, candidate: CandidateRecord) -> str:
    """The key of a model version: the same weights, served in the same way, have the same.

    Args:
        name: the model's name in the registry.
    """
    return digest("served", name, settings(config, candidate), code().read_text(encoding="utf-8"))
