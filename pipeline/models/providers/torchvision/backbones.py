"""torchvision's pretrained weights: where they are published, which network they fit,
how it was shown its inputs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torchvision
from torch import Tensor, nn

from pipeline.config import BackboneConfig
from pipeline.context import Context
from pipeline.errors import BackboneError, ConfigError
from pipeline.models import fetch, references, weights
from pipeline.models.providers.torchvision import (
    blocks,
    torchvision_models,
    whole_networks,
    whole_weights,
)
from pipeline.models.providers.torchvision.whole_networks import WHOLE_NETWORKS
from pipeline.models.references import PublishedWeights, WeightsFile
from pipeline.records import ImageInputSpec

IMAGENET_CLASSES = 1000
_ROOM_FOR_A_HEAD = 5e6  # parameters: a head of any usual size has fewer


def find_architecture(config: BackboneConfig) -> str:
    """The architecture that the configuration names: a classifier, or one of the
    detectors and segmenters that are used whole.

    Raises:
        ConfigError: it does not exist, and the nearest names are given; or it is
            another detector, and those that are used are named.
    """
    _, _, name = config.name.partition("/")
    if name in WHOLE_NETWORKS:
        return name
    kind = torchvision_models.find_kind(name)
    if kind is not None:
        raise ConfigError(
            f"backbone.name: torchvision/{name}",
            found=f"a {kind} of torchvision that is not used whole",
            expected=f"a {kind} that is, or a classifier, which is given a new head",
            hint="choose one of "
            + ", ".join(
                [*whole_networks.list_names(kind), "torchvision/resnet50 and the like"]
            ),
        )
    return torchvision_models.check_architecture(name)


def find_classifier(config: BackboneConfig) -> str:
    """The classifier that the configuration names.

    Raises:
        ConfigError: it is none.
    """
    _, _, name = config.name.partition("/")
    return torchvision_models.check_architecture(name)


def resolve_weights(
    config: BackboneConfig, context: Context, policy: fetch.RetryPolicy | None = None
) -> WeightsFile:
    """The weights file that the configuration refers to, fetched if need be and
    verified.

    Raises:
        ConfigError: the backbone's name does not exist.
        BackboneError: the file cannot be had, or its sha256 is not the one pinned; see
            `references.fetch_weights`.
    """
    published = _published_weights(find_architecture(config))
    return references.fetch_weights(config, context, published, policy)


def check_reachable(config: BackboneConfig, root: Path) -> str:
    """Where the weights are to be had, in words; see `references.check_reachable`.

    Raises:
        ConfigError: the backbone's name does not exist.
        BackboneError: they are not to be had; says how to bring the file.
    """
    url = published_url(find_architecture(config))
    return references.check_reachable(config, root, url)


def count_parameters(config: BackboneConfig) -> int:
    """How many parameters the architecture has as published, its head included.

    Raises:
        ConfigError: the backbone's name does not exist.
    """
    first_published = next(iter(_published_presets(find_architecture(config))))
    return int(first_published.meta["num_params"])


def published_url(architecture: str) -> str:
    """Where torchvision publishes the weights it recommends for an architecture."""
    return str(_published_presets(architecture).DEFAULT.url)


def _published_weights(architecture: str) -> PublishedWeights:
    url = published_url(architecture)
    # torchvision puts the beginning of the sha256 into the names of its files.
    _, _, file_name = url.rpartition("/")
    digest = re.search(r"-([0-9a-f]{8,64})\.", file_name)
    return PublishedWeights(url, digest[1] if digest else None)


def _published_presets(architecture: str) -> Any:
    """torchvision's enum of the weights it publishes for an architecture."""
    return torchvision.models.get_model_weights(architecture)


class FittedWeights(NamedTuple):
    """Weights that were found to be those of an architecture.

    Args:
        stock: torchvision's network holding them, its head included.
        classes: of the head.
        blocks: names of the blocks, from input to output.
    """

    stock: nn.Module
    classes: int
    blocks: tuple[str, ...]


def fit_weights(
    architecture: str, content: weights.WeightsContent, subject: str
) -> FittedWeights:
    """The architecture, a classifier or a whole detector or segmenter, holding the
    weights; see `fit_network`.
    """
    if architecture not in WHOLE_NETWORKS:
        network = fit_network(architecture, content, subject)
        return FittedWeights(network.stock, network.classes, tuple(network.names))
    _refuse_other_architecture(architecture, content, subject)
    state = content.state
    try:
        stock = whole_weights.fit_network(architecture, state, subject)
    except BackboneError as fault:
        raise _misfit_error(architecture, state, subject, fault.details) from fault
    outputs = whole_weights.count_classes(architecture, state)
    # Which is no class of boxes.
    background = 1 if WHOLE_NETWORKS[architecture].kind == "detector" else 0
    classes = outputs - background
    return FittedWeights(stock, classes, tuple(whole_weights.list_blocks(architecture)))


def _refuse_other_architecture(
    architecture: str, content: weights.WeightsContent, subject: str
) -> None:
    """Holds the architecture against what the file says of itself."""
    stated = content.metadata.get("architecture", architecture)
    if stated != architecture:
        raise BackboneError(
            subject,
            found=f"weights of {stated}",
            expected=f"weights of {architecture}",
            hint=f"backbone.name: torchvision/{stated}",
        )


def fit_network(
    architecture: str, content: weights.WeightsContent, subject: str
) -> blocks.TorchvisionNetwork:
    """A classifier holding the weights, its head included.

    Args:
        subject: where the weights are from, for messages.

    Raises:
        BackboneError: they belong to another architecture; which one it looks like is
            said where it can be told.
    """
    _refuse_other_architecture(architecture, content, subject)
    state = torchvision_models.remove_untrained_heads(architecture, content.state)
    classes = count_classes(architecture, state)
    size = torchvision_models.find_image_side(state)
    network = blocks.build_network(architecture, classes, size=size, meta=True)
    try:
        torchvision_models.fill_network(network.stock, state, subject)
    except BackboneError as fault:
        raise _misfit_error(architecture, state, subject, fault.details) from fault
    return network


def _misfit_error(
    architecture: str, state: Mapping[str, Tensor], subject: str, details: Sequence[str]
) -> BackboneError:
    found = f"weights of another network than {architecture}"
    hint = "give the architecture the weights were made with"
    similar = find_similar_architecture(state)
    if similar is not None:
        found += f": it looks like {similar}"
        hint = f"backbone.name: torchvision/{similar}"
    return BackboneError(
        subject,
        found=found,
        expected=f"all weights of {architecture}, and no others",
        hint=hint,
        details=details,
    )


def count_classes(architecture: str, state: Mapping[str, Tensor]) -> int:
    """How many classes a state dict's head has; 1000 where it has no head of that name."""
    names = torchvision_models.class_dependent_names(architecture)
    head_weights = [name for name in names if name.endswith(".weight")]
    head = max(head_weights)  # in Inception's, an auxiliary classifier comes before
    if head in state and state[head].ndim:
        return int(state[head].shape[0])
    return IMAGENET_CLASSES


def find_similar_architecture(state: Mapping[str, Tensor]) -> str | None:
    """The architecture whose names and shapes, all but the head's, are those of the
    state dict.
    """
    return _find_similar_classifier(state) or _find_similar_whole(state)


def _find_similar_whole(state: Mapping[str, Tensor]) -> str | None:
    for architecture in WHOLE_NETWORKS:
        if not _is_of_like_size(architecture, state):
            continue
        try:
            whole_weights.fit_network(architecture, state, architecture)
        except BackboneError:
            continue
        return architecture
    return None


def _find_similar_classifier(state: Mapping[str, Tensor]) -> str | None:
    for architecture in torchvision_models.list_architectures():
        if not _is_of_like_size(architecture, state):
            continue
        classes = count_classes(architecture, state)
        expected = blocks.build_network(architecture, classes, meta=True).stock
        trained = torchvision_models.remove_untrained_heads(architecture, state)
        if not weights.list_differences(expected, trained):
            return architecture
    return None


def _is_of_like_size(architecture: str, state: Mapping[str, Tensor]) -> bool:
    published = _published_presets(architecture).DEFAULT.meta["num_params"]
    parameters = sum(value.numel() for value in state.values())
    fewest = 0.5 * published
    most = 1.5 * published + _ROOM_FOR_A_HEAD
    return bool(fewest < parameters < most)


def derive_input_spec(
    config: BackboneConfig,
    architecture: str,
    content: weights.WeightsContent,
    subject: str,
) -> ImageInputSpec:
    """How the backbone was shown its inputs: by the settings, else the file's metadata,
    else the provider.

    Args:
        subject: where the weights are from, for messages.

    Raises:
        BackboneError: the file's metadata cannot be understood.
        ConfigError: the weights are those of a transformer for another size than the
            one set.
    """
    spec = _published_spec(config, architecture)
    side = torchvision_models.find_image_side(content.state)
    if side is not None:
        spec = _resize_spec(spec, side)
    try:
        spec = _apply_metadata(spec, content.metadata)
    except (TypeError, ValueError) as fault:
        raise BackboneError(
            subject,
            found=f"metadata that says how to present inputs, and cannot be read: {fault}",
            expected="size as a number, mean and std as JSON lists of three",
            hint="save the weights again",
        ) from fault
    spec = _apply_settings(spec, config)
    if side is not None and spec.size != side:
        raise ConfigError(
            "backbone.size",
            found=f"{spec.size} pixels",
            expected=f"{side} pixels, which the weights' positions fit",
            hint="set it to that, or to null",
        )
    return spec


def _published_spec(config: BackboneConfig, architecture: str) -> ImageInputSpec:
    # Torchvision normalises all of them as ImageNet is.
    if architecture in WHOLE_NETWORKS:
        side = WHOLE_NETWORKS[architecture].side
        return ImageInputSpec(size=side, resize=side)
    presets = _published_presets(architecture)
    # A file that does not say how its network was shown images was most likely trained
    # as the architecture's first published weights were (resize 256, crop 224), not by
    # the provider's newer recipes (resize 232).
    if config.weights == "default":
        preset = presets.DEFAULT
    else:
        preset = next(iter(presets))
    transforms = preset.transforms()
    mean, std = torchvision_models.find_normalisation(architecture) or (
        transforms.mean,
        transforms.std,
    )
    return ImageInputSpec(
        size=int(transforms.crop_size[0]),
        resize=int(transforms.resize_size[0]),
        interpolation=transforms.interpolation.value,
        mean=tuple(mean),
        std=tuple(std),
    )


def _resize_spec(spec: ImageInputSpec, size: int) -> ImageInputSpec:
    """The same presentation at another side, in pixels."""
    resize = round(spec.resize * size / spec.size)
    changes = {"size": size, "resize": resize}
    return spec.model_copy(update=changes)


def _apply_metadata(
    spec: ImageInputSpec, metadata: Mapping[str, str]
) -> ImageInputSpec:
    values = spec.model_dump()
    for name in ("mean", "std"):
        if name in metadata:
            values[name] = tuple(json.loads(metadata[name]))
    if "size" in metadata:
        values["size"] = int(metadata["size"])
        values["resize"] = int(metadata.get("resize", values["size"]))
    return ImageInputSpec.model_validate(values)


def _apply_settings(spec: ImageInputSpec, config: BackboneConfig) -> ImageInputSpec:
    if config.size is not None:
        spec = _resize_spec(spec, config.size)
    if config.mean is not None:
        spec = spec.model_copy(update={"mean": config.mean})
    if config.std is not None:
        spec = spec.model_copy(update={"std": config.std})
    return spec
