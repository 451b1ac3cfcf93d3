"""The sample of semantic segmentation: photographs of trays with small parts, and masks
of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.tasks.base import SampleFacts


class SegmentationSample:
    """The Sample of images with masks; see `pipeline.data.sample_trays`."""

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        from pipeline.data.sample_trays import BACKGROUND, LABELS

        classes = {label: number for number, label in enumerate((BACKGROUND, *LABELS))}
        task = {"masks": {"values": {"classes": classes}}, "input": {"size": 128}}
        return {
            "task": task,
            "backbone": {"weights": "shipped"},
            "finetune": {"epochs": 6, "patience": 5},
        }

    def generate(self, folder: Path) -> SampleFacts:
        from pipeline.data.sample_trays import LABELS, generate_masks

        made = generate_masks(folder)
        description = f"{made.images} photographs of {made.trays} trays, masks of {len(LABELS)} classes"
        return SampleFacts(description, made.written)
