"""What a served classifier answers: travels with registered models, so it imports
nothing else of Thaw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def to_table(
    labels: Sequence[str], probabilities: np.ndarray[Any, Any]
) -> pd.DataFrame:
    """A row an example: `label`, `score` (its probability) and `probabilities` (of
    every label).

    Args:
        probabilities: (N, classes).
    """
    chosen: list[str] = []
    scores: list[float] = []
    by_label: list[dict[str, float]] = []
    for row in probabilities:
        best = int(row.argmax())
        chosen.append(labels[best])
        scores.append(float(row[best]))
        by_label.append(dict(zip(labels, map(float, row), strict=True)))
    return pd.DataFrame({"label": chosen, "score": scores, "probabilities": by_label})
