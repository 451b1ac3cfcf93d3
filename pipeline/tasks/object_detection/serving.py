"""How a registered detector answers, and how it is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tasks import canvas_serving, image_serving
from pipeline.tasks.base import ServedColumn
from pipeline.tasks.object_detection.settings import detection_settings

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Config
    from pipeline.records import CandidateRecord

SCORE_TOLERANCE = 0.02
LEAST_OVERLAP = 0.95  # of a served box and the one that was judged


class BoxServing:
    """The Serving of boxes: one image file's content a row."""

    module = "pipeline.serving.box_detection"
    helpers: tuple[str, ...] = (
        *canvas_serving.HELPERS,
        "pipeline.serving.box_head",
        "pipeline.serving.box_tiles",
    )
    packages = image_serving.PACKAGES
    outputs = (
        ServedColumn("objects", "list of objects"),
        ServedColumn("width", "long"),
        ServedColumn("height", "long"),
    )

    def settings(self, config: Config, candidate: CandidateRecord) -> dict[str, Any]:
        """Boxes below the score that was best on validation are left out of an answer."""
        from pipeline.objectives.box_validation import BEST_SCORE

        common = canvas_serving.canvas_settings(
            detection_settings(config.task), candidate
        )
        return {**common, "least_score": candidate.val[BEST_SCORE]}

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
        """Whether every box that was judged surely above the least score is among those
        that are served.
        """
        from pipeline.objectives.box_validation import BEST_SCORE

        sure = candidate.val[BEST_SCORE] + SCORE_TOLERANCE
        wanted = [one for one in json.loads(judged["answer"]) if one["score"] >= sure]
        missing = [one for one in wanted if not _is_among(one, answer["objects"])]
        if missing:
            return f"{len(missing)} of {len(wanted)} boxes are not among those served"
        return ""


def _is_among(wanted: Mapping[str, Any], served: Sequence[Mapping[str, Any]]) -> bool:
    for one in served:
        is_alike = (
            one["label"] == wanted["label"]
            and abs(one["score"] - wanted["score"]) <= SCORE_TOLERANCE
        )
        if is_alike and _overlap(one["box"], wanted["box"]) >= LEAST_OVERLAP:
            return True
    return False


def _overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union."""
    import numpy as np

    from pipeline.objectives.box_matching import intersection_over_union

    overlaps = intersection_over_union(
        np.array([first]), np.array([second]), np.zeros(1, np.bool_)
    )
    return float(overlaps[0, 0])
