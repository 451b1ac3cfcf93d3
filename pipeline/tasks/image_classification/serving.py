"""How a registered image classifier answers, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tasks import image_serving
from pipeline.tasks.base import ServedColumn
from pipeline.tasks.class_serving import (
    HELPERS,
    OUTPUTS,
    class_difference,
    class_settings,
)
from pipeline.tasks.image_classification.settings import image_settings

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Config
    from pipeline.records import CandidateRecord


class ImageServing:
    """The Serving of images: one image file's content a row."""

    module = "pipeline.serving.image_classification"
    helpers: tuple[str, ...] = (*image_serving.HELPERS, *HELPERS)
    packages: tuple[str, ...] = image_serving.PACKAGES
    outputs = OUTPUTS

    def settings(self, config: Config, candidate: CandidateRecord) -> dict[str, Any]:
        intake = image_settings(config.task).intake
        return class_settings(candidate, image_serving.image_limits(intake))

    def inputs(self, config: Config) -> tuple[ServedColumn, ...]:
        """An image file's content."""
        return image_serving.INPUTS

    def input_example(self, config: Config) -> pd.DataFrame:
        return image_serving.grey_picture()

    def requests(
        self, examples: Sequence[Mapping[str, Any]], data: Path
    ) -> pd.DataFrame:
        return image_serving.file_requests(examples, data)

    def difference(
        self,
        answer: Mapping[str, Any],
        judged: Mapping[str, Any],
        candidate: CandidateRecord,
    ) -> str:
        return class_difference(answer, judged, candidate)
