"""How a registered image classifier answers, and how it is asked."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tasks.base import ServedColumn
from pipeline.tasks.class_serving import OUTPUTS, class_difference, class_settings
from pipeline.tasks.image_classification.settings import image_settings

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Config
    from pipeline.records import CandidateRecord


class ImageServing:
    """The Serving of images: one image file's content a row."""

    module = "pipeline.serving.model"
    helpers: tuple[str, ...] = ()
    packages: tuple[str, ...] = (
        "mlflow",
        "numpy",
        "pandas",
        "pillow",
        "safetensors",
        "torch",
        "torchvision",
    )
    outputs = OUTPUTS

    def settings(self, config: Config, candidate: CandidateRecord) -> dict[str, Any]:
        intake = image_settings(config.task).intake
        limits = {
            "max_bytes": intake.max_bytes,
            "max_pixels": intake.max_pixels,
            "single_frame": intake.animated == "reject",
        }
        return class_settings(candidate, limits)

    def inputs(self, config: Config) -> tuple[ServedColumn, ...]:
        """An image file's content."""
        return (ServedColumn("image", "binary"),)

    def input_example(self, config: Config) -> pd.DataFrame:
        """A plain grey image, so that no one's data is shown to everyone who may see
        the registry.
        """
        import pandas as pd
        from PIL import Image

        content = io.BytesIO()
        Image.new("RGB", (32, 32), (128, 128, 128)).save(content, "PNG")
        return pd.DataFrame({"image": [content.getvalue()]})

    def requests(
        self, examples: Sequence[Mapping[str, Any]], data: Path
    ) -> pd.DataFrame:
        import pandas as pd

        # Takes pyarrow, which a run with nothing to do has no use for.
        from pipeline.manifest import real_path

        contents = [
            real_path(data, example["path"]).read_bytes() for example in examples
        ]
        return pd.DataFrame({"image": pd.Series(contents, dtype=object)})

    def difference(
        self,
        answer: Mapping[str, Any],
        judged: Mapping[str, Any],
        candidate: CandidateRecord,
    ) -> str:
        return class_difference(answer, judged, candidate)
