"""torchvision behind the protocol of backbone providers. Importing this loads nothing
heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import BackboneConfig
    from pipeline.context import Context
    from pipeline.models.providers.torchvision.blocks import TorchvisionNetwork
    from pipeline.records import BackboneRecord, CandidateRecord


class TorchvisionProvider:
    """torchvision's classifiers, and some of its detectors and segmenters; see
    `pipeline.models.providers.base.BackboneProvider`.
    """

    name = "torchvision"
    packages = ("torch", "torchvision")

    def fetch(
        self, config: BackboneConfig, out: Path, context: Context
    ) -> BackboneRecord:
        """Rewrites pretrained weights, wherever they come from, as one verified file in
        one form.
        """
        from pipeline import files
        from pipeline.models import backbone_lock, references, weights
        from pipeline.models.network import copy_state
        from pipeline.models.providers.torchvision import backbones
        from pipeline.records import BackboneRecord
        from pipeline.storage import save_tensors

        architecture = backbones.find_architecture(config)
        source = backbones.resolve_weights(config, context)
        content = weights.read_weights(source.path)
        fitted = backbones.fit_weights(architecture, content, str(source.path))
        spec = backbones.derive_input_spec(
            config, architecture, content, str(source.path)
        )
        target = out / "weights.safetensors"
        save_tensors(copy_state(fitted.stock), target)
        references.refuse_rewritten_file(source)
        backbone_lock.pin_file(config, context.root, source.sha256, source.stat.size)
        record = BackboneRecord(
            name=config.name,
            architecture=architecture,
            source=source.source,
            sha256=source.sha256,
            weights_sha256=files.sha256(target),
            parameters=sum(
                parameter.numel() for parameter in fitted.stock.parameters()
            ),
            classes=fitted.classes,
            blocks=fitted.blocks,
            input=spec,
        )
        return record.save(out)

    def check_reachable(self, config: BackboneConfig, root: Path) -> str:
        """Where the weights are to be had, in words."""
        from pipeline.models.providers.torchvision import backbones

        return backbones.check_reachable(config, root)

    def count_parameters(self, config: BackboneConfig) -> int:
        """How many parameters the architecture has as published, its head included."""
        from pipeline.models.providers.torchvision import backbones

        return backbones.count_parameters(config)

    def build(
        self, backbone: BackboneRecord, classes: int, *, pretrained: bool, seed: int
    ) -> TorchvisionNetwork:
        """The architecture with a new head, and all other weights pretrained or random."""
        from pipeline.models.providers.torchvision import blocks
        from pipeline.records import image_spec

        size = image_spec(backbone.input).size
        network = blocks.build_network(
            backbone.architecture, classes, size=size, meta=pretrained, seed=seed
        )
        if pretrained:
            blocks.load_pretrained(network, backbone.weights, seed=seed)
        return network

    def load_finetuned(self, candidate: CandidateRecord) -> TorchvisionNetwork:
        """The architecture with a candidate's weights."""
        from pipeline.models.providers.torchvision import blocks
        from pipeline.records import image_spec

        size = image_spec(candidate.input).size
        return blocks.load_finetuned(
            candidate.architecture, len(candidate.labels), candidate.model, size=size
        )
