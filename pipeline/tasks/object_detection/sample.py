"""The sample of object detection: photographs of trays with small parts, and boxes
around them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.tasks.base import SampleFacts


class DetectionSample:
    """The Sample of images with boxes; see `pipeline.data.sample_trays`."""

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        # Small pictures of few things: a small head learns them as well, in a third of
        # the time, and needs no more epochs than many pictures do.
        head = {
            "channels": 32,
            "hidden": 64,
            "proposals_before": 300,
            "proposals": 100,
            "sampled_regions": 64,
        }
        task = {"input": {"size": 128}, "head": head}
        return {
            "task": task,
            "backbone": {"weights": "shipped"},
            "finetune": {"epochs": 12, "patience": 5},
        }

    def generate(self, folder: Path) -> SampleFacts:
        from pipeline.data.sample_trays import LABELS, generate_boxes

        made = generate_boxes(folder)
        description = f"{made.images} photographs of {made.trays} trays, boxes of {len(LABELS)} classes"
        return SampleFacts(description, made.written)
