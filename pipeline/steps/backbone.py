"""The backbone step: pretrained weights, wherever they come from, become one verified file in one form."""

from __future__ import annotations

from pathlib import Path

from pipeline import files
from pipeline.config import BackboneConfig
from pipeline.context import Context
from pipeline.records import BackboneRecord


def backbone(config: BackboneConfig, out: Path, context: Context) -> BackboneRecord:
    """Fetches, verifies and rewrites pretrained weights as `weights.safetensors`, a stock fp32 state dict.

    The same weights give the same bytes. The first use of a weights reference is pinned in `backbone.lock`, once the
    file has been found to fit.

    Raises:
        ConfigError: there is no such provider or architecture.
        BackboneError: the weights cannot be had, are not what was pinned, are unsafe, broken or of another network.
    """
    from safetensors.torch import save_file

    from pipeline.models import backbone_lock, backbones, blocks, fetch, weights

    architecture = backbones.architecture(config)
    found = backbones.resolve(config, context)
    loaded = weights.read(found.path)
    model = backbones.fitted(architecture, loaded, str(found.path))
    spec = backbones.input_spec(config, architecture, loaded, str(found.path))
    save_file(blocks.state(model), out / "weights.safetensors")
    files.apply_umask(out / "weights.safetensors")
    backbones.refuse_rewritten(found)
    backbone_lock.pin(config, context.root, found.sha256, found.stat.size)
    record = BackboneRecord(
        name=config.name,
        architecture=architecture,
        source=found.source,
        sha256=found.sha256,
        weights_sha256=fetch.sha256(out / "weights.safetensors"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        classes=model.classes,
        blocks=tuple(model.names),
        input=spec,
    )
    return record.save(out)
