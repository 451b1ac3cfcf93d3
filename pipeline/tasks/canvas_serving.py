"""What the served models of pictures on a canvas have in common."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tasks.base import ServedColumn

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.modalities.image.settings import CanvasSettings
    from pipeline.records import CandidateRecord

PACKAGES = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "safetensors",
    "torch",
    "torchvision",
)
INPUTS = (ServedColumn("image", "binary"),)


def canvas_settings(
    settings: CanvasSettings, candidate: CandidateRecord
) -> dict[str, Any]:
    """What a served model reads beside its weights, whatever its head is."""
    intake = settings.intake
    limits = {
        "max_bytes": intake.max_bytes,
        "max_pixels": intake.max_pixels,
        "single_frame": intake.animated == "reject",
    }
    served = {
        "architecture": candidate.architecture,
        "design": candidate.design,
        "labels": list(candidate.labels),
        "input": candidate.input.model_dump(mode="json"),
        "limits": limits,
        "sha256": candidate.model_sha256,
    }
    if candidate.tiles is not None:
        served["tiles"] = candidate.tiles.model_dump(mode="json")
    return served


def grey_picture() -> pd.DataFrame:
    """A request that shows nobody's data."""
    import pandas as pd
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (64, 48), (128, 128, 128)).save(content, "PNG")
    return pd.DataFrame({"image": [content.getvalue()]})


def file_requests(examples: Sequence[Mapping[str, Any]], data: Path) -> pd.DataFrame:
    """The contents of the files of a manifest's rows."""
    import pandas as pd

    from pipeline.manifest import real_path

    contents = [real_path(data, example["path"]).read_bytes() for example in examples]
    return pd.DataFrame({"image": pd.Series(contents, dtype=object)})
