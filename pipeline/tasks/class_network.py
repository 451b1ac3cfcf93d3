"""A pretrained network with a new head for class targets: shared by the tasks that have such targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.models.network import BlockedNetwork
    from pipeline.records import BackboneRecord, CandidateRecord


class ClassNetwork:
    """The Network of class targets: what the backbone's provider builds."""

    def build(
        self, backbone: BackboneRecord, labels: Sequence[str], *, pretrained: bool = True, seed: int = 0
    ) -> BlockedNetwork:
        from pipeline.models.providers import catalog

        provider = catalog.find(backbone.name)
        return provider.build(backbone, len(labels), pretrained=pretrained, seed=seed)

    def load(self, candidate: CandidateRecord) -> BlockedNetwork:
        from pipeline.models.providers import catalog

        return catalog.find(candidate.backbone).load_finetuned(candidate)
