"""What the served models of class targets have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.tasks.base import ServedColumn

if TYPE_CHECKING:
    from pipeline.records import CandidateRecord

OUTPUTS = (
    ServedColumn("label", "string"),
    ServedColumn("score", "double"),  # the label's probability
    ServedColumn("probabilities", "map of doubles"),  # by label
)

# Modules that travel with every such model: how it answers.
HELPERS = ("pipeline.serving.class_answers",)


def class_settings(
    candidate: CandidateRecord, limits: Mapping[str, Any]
) -> dict[str, Any]:
    """What a served classifier reads beside its weights.

    Args:
        limits: what it refuses.
    """
    return {
        "architecture": candidate.architecture,
        "labels": list(candidate.labels),
        "input": candidate.input.model_dump(mode="json"),
        "limits": dict(limits),
        "sha256": candidate.model_sha256,
    }


TOLERANCE = 1e-3  # in probability


def class_difference(
    answer: Mapping[str, Any], judged: Mapping[str, Any], candidate: CandidateRecord
) -> str:
    """Where a served classifier's probabilities differ from the evaluation's by more
    than `TOLERANCE`.
    """
    probabilities = answer["probabilities"]
    differences = []
    for label in candidate.labels:
        differences.append(abs(probabilities[label] - judged[f"p.{label}"]))
    largest = max(differences)
    if largest <= TOLERANCE:
        return ""
    return f"a probability differs by {largest:.3g}, expected within {TOLERANCE}"
