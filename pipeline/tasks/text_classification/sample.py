"""The sample of text classification: reviews of a repair shop, generated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.tasks.base import SampleFacts


class TextSample:
    """The Sample of texts; see `pipeline.modalities.text.sample_reviews`."""

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        return {
            "data": {"table": "reviews.csv", "header": True},
            "backbone": {"name": "transformers/tiny_text", "weights": "shipped"},
            # It is small, and learns at higher rates.
            "finetune": {"epochs": 6, "body_lr": 1e-3, "scratch_lr": 1e-3},
        }

    def generate(self, folder: Path) -> SampleFacts:
        from pipeline.modalities.text.sample_reviews import generate

        return generate(folder)
