"""The network of image classification: a torchvision classifier with a new head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.models.blocks import BlockedModel
    from pipeline.records import BackboneRecord, CandidateRecord


class ImageNetwork:
    """The Network of a classifier."""

    def build(
        self, backbone: BackboneRecord, labels: Sequence[str], *, pretrained: bool = True, seed: int = 0
    ) -> BlockedModel:
        from pipeline.models import blocks

        model = blocks.build(backbone.architecture, len(labels), size=backbone.input.size, meta=pretrained, seed=seed)
        if pretrained:
            blocks.load_pretrained(model, backbone.weights, seed=seed)
        return model

    def load(self, candidate: CandidateRecord) -> BlockedModel:
        from pipeline.models import blocks

        return blocks.load_finetuned(
            candidate.architecture, len(candidate.labels), candidate.model, size=candidate.input.size
        )
