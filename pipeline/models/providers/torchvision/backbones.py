"""Pretrained networks by `provider/name` and a weights reference: found, verified, understood.

Weights are pinned: the first use writes the file's sha256 to `backbone.lock` in the workspace, every later use
must match it (`pipeline.models.references`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor

from pipeline.config import BackboneConfig
from pipeline.context import Context
from pipeline.errors import BackboneError, ConfigError
from pipeline.models import backbone_lock, fetch, references, transfer, weights
from pipeline.models.digests import FileStat
from pipeline.models.providers.torchvision import blocks, torchvision_models
from pipeline.models.references import WeightsFile
from pipeline.records import ImageInputSpec


def architecture(config: BackboneConfig) -> str:
    """The architecture that the configuration names.

    Raises:
        ConfigError: the architecture does not exist; the nearest names are given.
    """
    _, _, name = config.name.partition("/")
    return torchvision_models.check(name)


def resolve(config: BackboneConfig, context: Context, patience: fetch.RetryPolicy | None = None) -> WeightsFile:
    """The weights file that the configuration refers to, fetched if need be and verified.

    Raises:
        ConfigError: the backbone's name does not exist.
        BackboneError: the file cannot be had, or its sha256 is not the one pinned by `backbone.sha256`, by
            `backbone.lock` or by the published file's name. A fetched copy is deleted then, a file of the
            user's never.
    """
    reference = _reference(config, context.root)
    if isinstance(reference, Path):
        if not reference.is_file():
            raise _no_file(config, reference)
        path, source = reference, "shipped" if config.weights == "shipped" else "file"
    else:
        no_network = config.offline or fetch.offline()
        path = fetch.fetch(reference, context.console, no_network=no_network, patience=patience)
        source = transfer.shown(reference)
    stat = FileStat.of(path)
    found = WeightsFile(path, source, fetch.sha256(path), stat)
    published = _published_digest(path) if config.weights == "default" else None
    fetched = isinstance(reference, str)
    references.verify(config, context.root, path, found.sha256, published, fetched=fetched)
    cache = references.digest_cache(context.scratch)
    cache.remember(backbone_lock.entry_name(config), path, stat, found.sha256)
    return found


def refuse_rewritten(found: WeightsFile) -> None:
    """Makes sure that the file which was read is the one which was hashed before.

    Raises:
        BackboneError: it was written to meanwhile.
    """
    if FileStat.of(found.path) != found.stat:
        raise BackboneError(
            str(found.path),
            found="a file that was written to while it was read",
            expected="one that stays as it is",
            hint="thaw run, once it is whole",
        )


def _published_digest(path: Path) -> str | None:
    """The beginning of the sha256 that torchvision puts into the names of its files."""
    named = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    return named[1] if named else None


def reachable(config: BackboneConfig, root: Path) -> str:
    """Where the weights are to be had, in words; a server is asked for the file's beginning and no more.

    Raises:
        ConfigError: the backbone's name does not exist.
        BackboneError: there is no such file, the server refuses or does not answer, or the network is switched off
            and the cache has no copy; says how to bring the file.
    """
    reference = _reference(config, root)
    if isinstance(reference, Path):
        if not reference.is_file():
            raise _no_file(config, reference)
        return f"{config.name}, {reference}"
    fetch.require_reachable(reference, no_network=config.offline or fetch.offline())
    return f"{config.name}, {transfer.shown(reference)}"


def parameters(config: BackboneConfig) -> int:
    """How many parameters the architecture has as published, its head included."""
    offered = torchvision.models.get_model_weights(architecture(config))
    return int(next(iter(offered)).meta["num_params"])


def _reference(config: BackboneConfig, root: Path) -> Path | str:
    """A local file, or a URL."""
    name = architecture(config)
    published = published_url(name) if config.weights == "default" else None
    found = references.locate(config, root, published)
    assert found is not None
    return found


def published_url(name: str) -> str:
    """Where torchvision publishes the weights it recommends for an architecture."""
    return str(torchvision.models.get_model_weights(name).DEFAULT.url)


def _no_file(config: BackboneConfig, path: Path) -> BackboneError:
    if config.weights == "shipped":
        names = sorted(file.stem for file in path.parent.glob("*.safetensors"))
        return BackboneError(
            f"backbone.weights: shipped, for {config.name}", found="Thaw ships none for this architecture",
            expected="one of " + ", ".join(f"torchvision/{name}" for name in names),
            hint="take one of these, or weights: default",
        )  # fmt: skip
    return BackboneError(
        str(path),
        found="no such file",
        expected="a weights file",
        hint="correct backbone.weights: default, shipped, a file or a URL",
    )


def fitted(name: str, loaded: weights.WeightsContent, subject: str) -> blocks.TorchvisionNetwork:
    """The architecture holding the weights, its head included.

    Raises:
        BackboneError: they belong to another architecture; which one it looks like is said where it can be told.
    """
    made_for = loaded.metadata.get("architecture", name)
    if made_for != name:
        raise BackboneError(
            subject,
            found=f"weights of {made_for}",
            expected=f"weights of {name}",
            hint=f"backbone.name: torchvision/{made_for}",
        )
    state = torchvision_models.without_discarded(name, loaded.state)
    model = blocks.build(name, classes(name, state), size=torchvision_models.image_side(state), meta=True)
    try:
        torchvision_models.fill(model.stock, state, subject)
    except BackboneError as fault:
        like = resembled(state)
        raise BackboneError(
            subject, found=f"weights of another network than {name}" + (f": it looks like {like}" if like else ""),
            expected=f"all weights of {name}, and no others", details=fault.details,
            hint=f"backbone.name: torchvision/{like}" if like else "give the architecture the weights were made with",
        ) from fault  # fmt: skip
    return model


def classes(name: str, state: Mapping[str, Tensor]) -> int:
    """How many classes a state dict's head has; 1000 where it has no head of that name."""
    head = next(
        key for key in sorted(torchvision_models.class_dependent(name), reverse=True) if key.endswith(".weight")
    )
    return int(state[head].shape[0]) if head in state and state[head].ndim else 1000


def resembled(state: Mapping[str, Tensor]) -> str | None:
    """The architecture whose names and shapes, all but the head's, are those of the state dict."""
    size = sum(value.numel() for value in state.values())
    for name in torchvision_models.architectures():
        published = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
        if not 0.5 * published < size < 1.5 * published + 5e6:  # leaves room for a head of any size
            continue
        expected = blocks.build(name, classes(name, state), meta=True).stock
        if not weights.differences(expected, torchvision_models.without_discarded(name, state)):
            return name
    return None


def input_spec(config: BackboneConfig, name: str, loaded: weights.WeightsContent, subject: str) -> ImageInputSpec:
    """How the backbone was shown its inputs: by the settings, else the file's metadata, else the provider.

    Raises:
        BackboneError: the file's metadata cannot be understood.
        ConfigError: the weights are those of a transformer for another size than the one set.
    """
    offered = torchvision.models.get_model_weights(name)
    # A file that does not say how its network was shown images was most likely trained as the architecture's first
    # published weights were (resize 256, crop 224), not by the provider's newer recipes (resize 232).
    published = (offered.DEFAULT if config.weights == "default" else next(iter(offered))).transforms()
    size, resize = int(published.crop_size[0]), int(published.resize_size[0])
    values: dict[str, Any] = {"interpolation": published.interpolation.value}
    values |= torchvision_models.normalisation(name) or {"mean": tuple(published.mean), "std": tuple(published.std)}
    side = torchvision_models.image_side(loaded.state)
    if side is not None and side != size:
        size, resize = side, round(resize * side / size)
    try:
        values |= {key: tuple(json.loads(text)) for key, text in loaded.metadata.items() if key in ("mean", "std")}
        if "size" in loaded.metadata:
            size = int(loaded.metadata["size"])
            resize = int(loaded.metadata.get("resize", size))
        if config.size is not None:
            size, resize = config.size, round(resize * config.size / size)
        values |= {key: own for key in ("mean", "std") if (own := getattr(config, key)) is not None}
        spec = ImageInputSpec(size=size, resize=resize, **values)
    except (TypeError, ValueError) as fault:
        raise BackboneError(
            subject, found=f"metadata that says how to present inputs, and cannot be read: {fault}",
            expected="size as a number, mean and std as JSON lists of three", hint="save the weights again",
        ) from fault  # fmt: skip
    if side is not None and spec.size != side:
        raise ConfigError(
            "backbone.size", found=f"{spec.size} pixels", expected=f"{side} pixels, which the weights' positions fit",
            hint="set it to that, or to null",
        )  # fmt: skip
    return spec
