"""Stock networks of the transformers library, built from a config.json and filled from files, without the network."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import BackboneError
from pipeline.models import weights
from pipeline.models.providers.transformers import architectures
from pipeline.models.providers.transformers.architectures import Pooling
from pipeline.models.providers.transformers.network import StockWithHead, TransformerNetwork

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_XET": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# Parts of published files that belong to what the network was pretrained for, and not to the network.
PRETRAINING_HEADS = (
    "cls.",
    "lm_head",
    "classifier.",
    "decoder.",
    "discriminator_predictions.",
    "generator_predictions.",
    "head.",
    "lm_predictions.",
    "mask_predictions.",
    "qa_outputs.",
    "score.",
    "vocab_",
)


@contextmanager
def quiet_library() -> Iterator[None]:
    """The library without progress bars, telemetry and network, and the environment as it was afterwards."""
    before = {name: os.environ.get(name) for name in QUIET}
    os.environ.update(QUIET)
    try:
        import transformers

        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logger = logging.getLogger("transformers")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
        BackboneError: it is missing, no JSON, asks for code of its own, or names a kind of network that is not known.
    """
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        raise BackboneError(
            str(path), found="no such file", expected="config.json, model.safetensors and tokenizer.json in one folder"
        ) from fault
    except (OSError, ValueError) as fault:
        raise BackboneError(str(path), found=str(fault), expected="JSON", hint="fetch it again") from fault
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise BackboneError(str(path), found="no model_type", expected="a configuration of the transformers library")
    if "auto_map" in content:
        raise BackboneError(
            str(path),
            found="auto_map: the network runs code from its own repository",
            expected="a network that the transformers library itself has",
            hint="choose another backbone; code from a repository is never run",
        )
    architectures.find(content["model_type"], str(path))
    return content


def build_backbone(config: Mapping[str, Any], *, seed: int) -> nn.Module:
    """The stock network with random weights, in fp32; the global random state stays as it is."""
    with quiet_library(), torch.random.fork_rng(devices=[]):
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

        torch.manual_seed(seed)
        values = {key: value for key, value in config.items() if key not in ("model_type", "dtype", "torch_dtype")}
        settings = AutoConfig.for_model(config["model_type"], **values)
        builder: Any = AutoModelForTextEncoding if config["model_type"] == "t5" else AutoModel
        model: Any = builder.from_config(settings, dtype=torch.float32)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # vectors are pooled by their mean, or one of them is taken
    model.eval()
    result: nn.Module = model
    return result


def read_published(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a published folder by the names of the stock network, fp32.

    Raises:
        BackboneError: model.safetensors is missing, broken, or holds the weights of another network.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        pickles = sorted(folder.glob("pytorch_model*.bin"))
        found = "only " + pickles[0].name + ", a pickle, which is never opened" if pickles else "no such file"
        raise BackboneError(
            str(path),
            found=found,
            expected="the weights as safetensors",
            hint="take a revision of the network that has model.safetensors, or save it again",
        )
    content = weights.read(path)
    model = build_backbone(config, seed=0)
    prefix = getattr(model, "base_model_prefix", "")
    state = _without_prefix(content.state, prefix, set(model.state_dict()))
    expected = model.state_dict()
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(name for name in set(state) - set(expected) if not _belongs_to_pretraining(name))
    shapes = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    if missing or unexpected or shapes:
        details = []
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("other shape", shapes)):
            if names:
                details.append(f"{kind} ({len(names)}): {', '.join(names[:6])}")
        raise BackboneError(
            str(path),
            found=f"weights of another network than {config['model_type']} as config.json describes it",
            expected="all its weights, and no others",
            hint="keep config.json and model.safetensors of one network together",
            details=details,
        )
    return {name: state[name].contiguous() for name in sorted(expected)}


def _without_prefix(state: Mapping[str, Tensor], prefix: str, wanted: set[str]) -> dict[str, Tensor]:
    """The state dict with names as the stock network has them, whichever network with a head it was saved from."""
    renamed = {}
    for name, tensor in state.items():
        bare = name.removeprefix(f"{prefix}.")
        bare = bare.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        renamed[bare if bare in wanted else name] = tensor
    return renamed


def _belongs_to_pretraining(name: str) -> bool:
    return "pooler." in name or name.endswith("position_ids") or name.startswith(PRETRAINING_HEADS)


def fill_backbone(backbone: nn.Module, state: Mapping[str, Tensor], subject: str) -> None:
    """Gives the network exactly these weights.

    Raises:
        BackboneError: a name is missing, unexpected or of another shape.
    """
    found = weights.differences(backbone, state)
    if found:
        raise BackboneError(subject, found="weights of another network", expected="its own", details=found)
    backbone.load_state_dict(dict(state), strict=True)


def with_head(
    backbone: nn.Module, config: Mapping[str, Any], classes: int, pooling: Pooling, seed: int, subject: str
) -> TransformerNetwork:
    """The network in blocks with a new head; the global random state stays as it is."""
    settings: Any = backbone.config
    width = int(settings.hidden_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stock = StockWithHead(backbone, width, classes)
    stock.eval()
    return TransformerNetwork(stock, architectures.find(config["model_type"], subject), pooling, subject)
