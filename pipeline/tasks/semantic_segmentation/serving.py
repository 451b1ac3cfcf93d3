"""How a registered segmenter answers, and how it is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tasks import canvas_serving, image_serving
from pipeline.tasks.base import ServedColumn
from pipeline.tasks.semantic_segmentation.settings import segmentation_settings

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Config
    from pipeline.records import CandidateRecord

# Share of the pixels whose two likeliest classes may be too close to agree on.
PIXEL_TOLERANCE = 1e-3


class PixelServing:
    """The Serving of masks: one image file's content a row."""

    module = "pipeline.serving.pixel_segmentation"
    helpers: tuple[str, ...] = (
        *canvas_serving.HELPERS,
        "pipeline.serving.pixel_head",
        "pipeline.serving.pixel_runs",
    )
    packages = image_serving.PACKAGES
    outputs = (
        ServedColumn("regions", "list of regions"),
        ServedColumn("width", "long"),
        ServedColumn("height", "long"),
    )

    def settings(self, config: Config, candidate: CandidateRecord) -> dict[str, Any]:
        return canvas_serving.canvas_settings(
            segmentation_settings(config.task), candidate
        )

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
        """Whether more pixels have another class than rounding explains."""
        from pipeline.serving.pixel_runs import decode_mask

        width = judged["width"]
        height = judged["height"]
        served = decode_mask(answer["regions"], candidate.labels, width, height)
        expected = decode_mask(
            json.loads(judged["answer"]), candidate.labels, width, height
        )
        share = float((served != expected).mean())
        if share <= PIXEL_TOLERANCE:
            return ""
        return f"{share:.2%} of the pixels have another class"
