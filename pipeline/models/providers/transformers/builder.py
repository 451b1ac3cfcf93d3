"""Stock networks of the transformers library, built from a config.json and filled from
files, without the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import BackboneError
from pipeline.models import weights
from pipeline.models.providers.transformers import architectures
from pipeline.models.providers.transformers.architectures import Pooling
from pipeline.models.providers.transformers.library import quiet_library
from pipeline.models.providers.transformers.network import (
    StockWithHead,
    TransformerNetwork,
)
from pipeline.serving import stock_networks

CONFIG, WEIGHTS = "config.json", "weights.safetensors"


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
        BackboneError: it is missing, no JSON, asks for code of its own, or names a kind
            of network that is not known.
    """
    path = folder / CONFIG
    content = read_json(path)
    if not isinstance(content.get("model_type"), str):
        raise BackboneError(
            str(path),
            found="no model_type",
            expected="a configuration of the transformers library",
        )
    if "auto_map" in content:
        raise BackboneError(
            str(path),
            found="auto_map: the network runs code from its own repository",
            expected="a network that the transformers library itself has",
            hint="choose another backbone; code from a repository is never run",
        )
    architectures.find(content["model_type"], str(path))
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        BackboneError: it is missing or no such file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise BackboneError(
            str(path),
            found=fault.strerror or str(fault),
            expected="a file of the network",
        ) from fault
    except ValueError as fault:
        raise BackboneError(
            str(path), found=str(fault), expected="JSON", hint="fetch it again"
        ) from fault
    if not isinstance(content, dict):
        raise BackboneError(
            str(path), found=f"a {type(content).__name__}", expected="a JSON object"
        )
    return content


def build_backbone(config: Mapping[str, Any], *, seed: int, subject: str) -> nn.Module:
    """The stock network with random weights, in fp32; the global random state stays as
    it is.

    Args:
        config: the content of its config.json.
        subject: where that lies, for errors.

    Raises:
        BackboneError: the library cannot make a network of it.
    """
    with quiet_library(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            stock: nn.Module = stock_networks.build(config)
        except Exception as fault:
            # What a wrong value raises is up to each kind of network.
            if str(fault):
                reason = str(fault).splitlines()[0]
            else:
                reason = type(fault).__name__
            raise BackboneError(
                subject,
                found=reason,
                expected="a configuration of the transformers library",
                hint="fetch it again",
            ) from fault
    stock.eval()
    return stock


def fill_backbone(
    backbone: nn.Module, state: Mapping[str, Tensor], subject: str
) -> None:
    """Gives the network exactly these weights.

    Raises:
        BackboneError: a name is missing, unexpected or of another shape.
    """
    differences = weights.list_differences(backbone, state)
    if differences:
        raise BackboneError(
            subject,
            found="weights of another network",
            expected="its own",
            details=differences,
        )
    backbone.load_state_dict(dict(state), strict=True)


def with_head(
    backbone: nn.Module,
    config: Mapping[str, Any],
    classes: int,
    pooling: Pooling,
    seed: int,
    subject: str,
) -> TransformerNetwork:
    """The network in blocks with a new head; the global random state stays as it is."""
    settings: Any = backbone.config
    width = int(settings.hidden_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stock = StockWithHead(backbone, width, classes)
    stock.eval()
    return TransformerNetwork(
        stock, architectures.find(config["model_type"], subject), pooling, subject
    )
