"""What a validation says of masks."""

from __future__ import annotations

import numpy as np

from pipeline.objectives import pixel_metrics
from pipeline.objectives.pixel_metrics import Confusions

FUNCTIONS = {
    "mean_iou": pixel_metrics.mean_iou,
    "mean_dice": pixel_metrics.mean_dice,
    "pixel_accuracy": pixel_metrics.pixel_accuracy,
    "mean_class_accuracy": pixel_metrics.mean_class_accuracy,
}


def compute_metrics(confusions: Confusions) -> dict[str, float]:
    """The metrics of pictures (N, classes, classes), each counted once; what nothing
    asks for is 0.
    """
    tallies = pixel_metrics.tally_pixels(confusions, np.ones((len(confusions), 1)))
    return {
        name: float(np.nan_to_num(function(tallies)[0]))
        for name, function in FUNCTIONS.items()
    }
