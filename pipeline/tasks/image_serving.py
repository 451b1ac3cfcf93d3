"""What the served models of images have in common: one image file's content a row."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tasks.base import ServedColumn

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.modalities.image.settings import ImageIntakeConfig

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
# Modules that travel with the model: its pixels, and what it is asked.
HELPERS = ("pipeline.serving.image_pixels", "pipeline.serving.image_requests")


def image_limits(intake: ImageIntakeConfig) -> dict[str, Any]:
    """What a served model refuses."""
    return {
        "max_bytes": intake.max_bytes,
        "max_pixels": intake.max_pixels,
        "single_frame": intake.animated == "reject",
    }


def grey_picture() -> pd.DataFrame:
    """A request that shows nobody's data to everyone who may see the registry."""
    import pandas as pd
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (64, 48), (128, 128, 128)).save(content, "PNG")
    return pd.DataFrame({"image": [content.getvalue()]})


def file_requests(examples: Sequence[Mapping[str, Any]], data: Path) -> pd.DataFrame:
    """The contents of the files of a manifest's rows."""
    import pandas as pd

    # Takes pyarrow, which a run with nothing to do has no use for.
    from pipeline.manifest import real_path

    contents = [real_path(data, example["path"]).read_bytes() for example in examples]
    return pd.DataFrame({"image": pd.Series(contents, dtype=object)})
