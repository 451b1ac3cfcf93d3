"""What the served models of pictures on a canvas have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.tasks import image_serving

if TYPE_CHECKING:
    from pipeline.modalities.image.settings import CanvasSettings
    from pipeline.records import CandidateRecord

# Modules that travel with every such model.
HELPERS = (
    *image_serving.HELPERS,
    "pipeline.serving.canvas",
    "pipeline.serving.canvas_network",
    "pipeline.serving.feature_maps",
    "pipeline.serving.tiles",
)


def canvas_settings(
    settings: CanvasSettings, candidate: CandidateRecord
) -> dict[str, Any]:
    """What a served model reads beside its weights, whatever its head is."""
    served = {
        "architecture": candidate.architecture,
        "design": candidate.design,
        "labels": list(candidate.labels),
        "input": candidate.input.model_dump(mode="json"),
        "limits": image_serving.image_limits(settings.intake),
        "sha256": candidate.model_sha256,
    }
    if candidate.tiles is not None:
        served["tiles"] = candidate.tiles.model_dump(mode="json")
    return served
