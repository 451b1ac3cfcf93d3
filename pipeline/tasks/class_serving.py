"""What the served models of class targets have in common."""

from __future__ import annotations

from pipeline.tasks.base import ServedColumn

OUTPUTS = (
    ServedColumn("label", "string"),
    ServedColumn("score", "double"),  # the label's probability
    ServedColumn("probabilities", "map of doubles"),  # by label
)
