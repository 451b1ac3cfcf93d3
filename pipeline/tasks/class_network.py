"""A pretrained network with a new head for class targets: shared by the tasks that have
such targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import BackboneConfig
    from pipeline.config_section import TaskConfig
    from pipeline.models.network import BlockedNetwork
    from pipeline.records import BackboneRecord, CandidateRecord, InputSpec


class ClassNetwork:
    """The Network of class targets: what the backbone's provider builds.

    Args:
        provider: whose networks read what the task shows them.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def check_backbone(self, backbone: BackboneConfig, task: TaskConfig) -> str:
        """That the last layer is new.

        Raises:
            ConfigError: the backbone is another provider's, or one of torchvision's
                detectors or segmenters.
        """
        provider, _, _ = backbone.name.partition("/")
        if provider != self._provider:
            raise ConfigError(
                "backbone.name",
                found=f"{backbone.name}, which {task.name} cannot use",
                expected=f"{self._provider}/NAME",
                hint="choose another in params.yaml",
            )
        if provider == "torchvision":
            from pipeline.models.providers.torchvision import backbones

            backbones.find_classifier(backbone)
        return "all of it but the last layer"

    def design(
        self,
        train: pa.Table,
        labels: Sequence[str],
        spec: InputSpec,
        task: TaskConfig,
        backbone: BackboneRecord,
    ) -> dict[str, Any]:
        """Nothing: a linear head follows from the labels."""
        return {}

    def build(
        self,
        backbone: BackboneRecord,
        labels: Sequence[str],
        *,
        design: Mapping[str, Any] | None = None,
        pretrained: bool = True,
        seed: int = 0,
    ) -> BlockedNetwork:
        from pipeline.models.providers import catalog

        provider = catalog.find(backbone.name)
        return provider.build(backbone, len(labels), pretrained=pretrained, seed=seed)

    def load(self, candidate: CandidateRecord) -> BlockedNetwork:
        from pipeline.models.providers import catalog

        return catalog.find(candidate.backbone).load_finetuned(candidate)
