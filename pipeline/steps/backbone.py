"""The backbone step: a pretrained network, wherever it comes from, as verified files in
one form.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config import BackboneConfig
from pipeline.context import Context
from pipeline.records import BackboneRecord


def backbone(config: BackboneConfig, out: Path, context: Context) -> BackboneRecord:
    """Has the backbone's provider fetch it into `out`; see `BackboneProvider.fetch`.

    Raises:
        ConfigError: there is no such provider or network.
        BackboneError: the weights cannot be had, are not what was pinned, are unsafe,
            broken or of another network.
    """
    from pipeline.models.providers import catalog

    provider = catalog.find(config.name)
    return provider.fetch(config, out, context)
