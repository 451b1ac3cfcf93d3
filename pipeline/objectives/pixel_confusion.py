"""How many pixels of each class were given which class: kept for every picture, so that
any example weights apply.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.objectives.pixel_targets import IGNORED, Masks


def count_confusion(
    truth: Masks, answer: NDArray[np.integer[Any]], classes: int
) -> NDArray[np.int64]:
    """(classes, classes): rows are the truth, columns the answer; ignored pixels are
    left out.

    Args:
        truth: (H, W), `IGNORED` where a pixel does not count.
        answer: (H, W) class of each pixel.
    """
    counted = truth != IGNORED
    cells = truth[counted].astype(np.int64) * classes + answer[counted].astype(np.int64)
    return (
        np.bincount(cells, minlength=classes * classes)
        .reshape(classes, classes)
        .astype(np.int64)
    )
