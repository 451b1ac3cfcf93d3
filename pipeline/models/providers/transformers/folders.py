"""Published folders of the transformers library: found on this machine or on the hub, verified and rewritten."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.config import BackboneConfig, expand_variables
from pipeline.context import Context
from pipeline.errors import BackboneError, ConfigError
from pipeline.files import expanded
from pipeline.models import backbone_lock
from pipeline.models.backbone_lock import LOCK
from pipeline.records import BackboneRecord, TextInputSpec

NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
OPTIONAL = ("tokenizer_config.json", "special_tokens_map.json")
SHIPPED = Path(__file__).resolve().parents[2] / "shipped"
MOST_TOKENS = 512
UNLIMITED = 10**6  # a tokenizer's limit beyond this means that it has none


def rewrite(config: BackboneConfig, out: Path, context: Context) -> BackboneRecord:
    """Writes weights.safetensors, config.json and the tokenizer's files into `out`; see `BackboneProvider.fetch`."""
    from safetensors.torch import save_file

    from pipeline.models.providers.transformers import architectures, builder

    folder, source, revision = find_folder(config, context)
    digests = _verified(config, folder, context.root)
    settings = builder.read_config(folder)
    state = builder.read_published(folder, settings)
    target = out / builder.WEIGHTS
    save_file(state, target)
    files.apply_umask(target)
    copied = []
    for name in (*NEEDED, *OPTIONAL):
        if name != "model.safetensors" and (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
            copied.append(name)
    network = builder.with_head(builder.build_backbone(settings, seed=0), settings, 2, "mean", 0, config.name)
    kind = architectures.find(settings["model_type"], config.name)
    _pin(config, context.root, digests, revision)
    record = BackboneRecord(
        name=config.name,
        architecture=settings["model_type"],
        source=source,
        sha256=digests["model.safetensors"],
        weights_sha256=files.sha256(target),
        parameters=sum(tensor.numel() for tensor in state.values()),
        classes=0,
        blocks=tuple(network.names),
        input=TextInputSpec(max_tokens=_token_limit(folder, settings), pooling=kind.pooling, columns=("text",)),
        files=tuple(copied),
    )
    return record.save(out)


def find_folder(config: BackboneConfig, context: Context) -> tuple[Path, str, str | None]:
    """The folder that the settings refer to, fetched if need be; what it is in words; and the hub's revision.

    Raises:
        BackboneError: there is no such folder, or the hub does not have it or does not answer.
    """
    local = local_folder(config, context.root)
    if local is not None:
        if not local.is_dir():
            raise BackboneError(
                f"backbone.weights: {config.weights}",
                found="no such folder" if not local.exists() else "a file",
                expected="a folder with " + ", ".join(NEEDED),
                hint="correct backbone.weights: default (the hub), shipped, or a folder",
            )
        return local, "shipped" if config.weights == "shipped" else "folder", None
    from pipeline.models.providers.transformers import hub

    return hub.fetch_folder(config, context)


def local_folder(config: BackboneConfig, root: Path) -> Path | None:
    """The folder on this machine that the settings name; None where they mean the hub."""
    if config.weights == "default":
        return None
    if config.weights == "shipped":
        return SHIPPED / config.name.partition("/")[2]
    reference = expand_variables(config.weights, "backbone.weights").removeprefix("file://")
    if "://" in reference:
        raise ConfigError(
            "backbone.weights",
            found="a URL",
            expected="default (the hub), shipped, or a folder on this machine",
            hint="for a mirror of the hub, set backbone.mirror",
        )
    return root / expanded(reference)


def check_reachable(config: BackboneConfig, root: Path) -> str:
    """Where the network is to be had, in words.

    Raises:
        BackboneError: it is not to be had.
    """
    local = local_folder(config, root)
    if local is None:
        from pipeline.models.providers.transformers import hub

        return hub.check_reachable(config)
    missing = [name for name in NEEDED if not (local / name).is_file()]
    if missing:
        raise BackboneError(
            str(local),
            found="no " + ", ".join(missing) if local.is_dir() else "no such folder",
            expected="a folder with " + ", ".join(NEEDED),
            hint="correct backbone.weights in params.yaml",
        )
    return f"{config.name}, {local}"


def _verified(config: BackboneConfig, folder: Path, root: Path) -> dict[str, str]:
    """The sha256 of each file that is read; refuses those that are not what the lock says."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing and missing != ["model.safetensors"]:
        hint = (
            "a network without tokenizer.json has only a slow tokenizer: save it with AutoTokenizer(..., use_fast=True)"
        )
        raise BackboneError(
            str(folder), found="no " + ", ".join(missing), expected="a folder with " + ", ".join(NEEDED), hint=hint
        )
    digests = {}
    for name in (*NEEDED, *OPTIONAL):
        if (folder / name).is_file():
            digests[name] = files.sha256(folder / name)
    locked = backbone_lock.read(root).get(backbone_lock.entry_name(config), {})
    pinned: dict[str, Any] = dict(locked.get("files", {}))
    if config.sha256 is not None:
        pinned["model.safetensors"] = config.sha256
    for name, sha256 in pinned.items():
        if digests.get(name) != sha256:
            raise BackboneError(
                str(folder / name),
                found=f"sha256 {digests.get(name, 'of no file')}",
                expected=f"sha256 {sha256}, which {LOCK if config.sha256 is None else 'backbone.sha256'} holds",
                hint=f"bring that file back; or, to train from this one, remove its entry from {LOCK}",
            )
    return digests


def _pin(config: BackboneConfig, root: Path, digests: dict[str, str], revision: str | None) -> None:
    extra: dict[str, Any] = {"files": digests}
    if revision is not None:
        extra["revision"] = revision
    backbone_lock.pin_folder(config, root, digests["model.safetensors"], extra)


def _token_limit(folder: Path, settings: dict[str, Any]) -> int:
    """Most tokens the network takes, as its files say, and at most 512."""
    limits = [MOST_TOKENS]
    for key in ("max_position_embeddings", "n_positions"):
        value = settings.get(key)
        if isinstance(value, int) and value > 0:
            # RoBERTa counts positions from behind the padding's index.
            offset = 2 if settings["model_type"] in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
            limits.append(value - offset)
    path = folder / "tokenizer_config.json"
    if path.is_file():
        import json

        value = json.loads(path.read_text(encoding="utf-8")).get("model_max_length")
        if isinstance(value, int) and 0 < value < UNLIMITED:
            limits.append(value)
    return min(limits)
