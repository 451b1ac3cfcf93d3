"""The transformers library behind the protocol of backbone providers. Importing this
loads nothing heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import BackboneConfig
    from pipeline.context import Context
    from pipeline.models.network import BlockedNetwork
    from pipeline.records import BackboneRecord, CandidateRecord


class TransformersProvider:
    """Networks of the transformers library; see
    `pipeline.models.providers.base.BackboneProvider`.

    Every method raises a ConfigError where the library is not installed.
    """

    name = "transformers"
    packages = ("torch", "transformers", "tokenizers")

    def fetch(
        self, config: BackboneConfig, out: Path, context: Context
    ) -> BackboneRecord:
        """Rewrites a published folder as weights in fp32, its configuration and its
        tokenizer.
        """
        from pipeline.models.providers.transformers import folders, library

        library.require_installed(config.name)
        return folders.rewrite(config, out, context)

    def check_reachable(self, config: BackboneConfig, root: Path) -> str:
        """Where the network is to be had, in words."""
        from pipeline.models.providers.transformers import folders, library

        library.require_installed(config.name)
        return folders.check_reachable(config, root)

    def count_parameters(self, config: BackboneConfig) -> int:
        """How many parameters the network has where its files are here, else those of a
        network of the usual size.
        """
        from pipeline.models.providers.transformers import folders

        return folders.count_parameters(config)

    def build(
        self, backbone: BackboneRecord, classes: int, *, pretrained: bool, seed: int
    ) -> BlockedNetwork:
        """The network with a new head, and all other weights pretrained or random."""
        from pipeline.models import weights
        from pipeline.models.providers.transformers import builder, library
        from pipeline.records import text_spec

        library.require_installed(backbone.name)
        config = builder.read_config(backbone.folder)
        stock = builder.build_backbone(config, seed=seed, subject=backbone.name)
        if pretrained:
            state = weights.read_weights(backbone.weights, pickles=False).state
            builder.fill_backbone(stock, state, str(backbone.weights))
        pooling = text_spec(backbone.input).pooling
        return builder.with_head(stock, config, classes, pooling, seed, backbone.name)

    def load_finetuned(self, candidate: CandidateRecord) -> BlockedNetwork:
        """The network with a candidate's weights."""
        from pipeline.models import weights
        from pipeline.models.providers.transformers import builder, library
        from pipeline.records import text_spec

        library.require_installed(candidate.backbone)
        config = builder.read_config(candidate.folder)
        stock = builder.build_backbone(config, seed=0, subject=candidate.backbone)
        pooling = text_spec(candidate.input).pooling
        network = builder.with_head(
            stock, config, len(candidate.labels), pooling, 0, candidate.backbone
        )
        state = weights.read_weights(candidate.model, pickles=False).state
        builder.fill_backbone(network.stock, state, str(candidate.model))
        return network
