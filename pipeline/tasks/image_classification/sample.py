"""The sample of image classification: photographs of surface inspection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.tasks.base import SampleFacts


class ImageSample:
    """The Sample of images; see `pipeline.data.sample`."""

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        return {"data": {"table": "metadata.csv"}, "backbone": {"weights": "shipped"}}

    def generate(self, folder: Path) -> SampleFacts:
        from pipeline.data.sample import generate

        made = generate(folder)
        description = f"{made.images} photographs of {made.parts} parts, {len(made.classes)} classes"
        return SampleFacts(description, made.written)
