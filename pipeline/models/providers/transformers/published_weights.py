"""The weights of a published folder, by the names of the stock network: whole, of the
right network, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.errors import BackboneError
from pipeline.models import weights

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Buffers that older versions of the library saved, and layers that only pretraining or
# classification used.
NOT_OF_THE_BACKBONE = (
    r"(^|\.)position_ids$",
    r"(^|\.)rotary_emb\.inv_freq$",
    r"(^|\.)masked_bias$",
    r"(^|\.)pooler\.",
    r"^lm_head\.",
)


def read_published(folder: Path, stock: nn.Module) -> dict[str, Tensor]:
    """The weights of a published folder, fp32, for every name of the stock network's
    state dict.

    What the file holds beside them is left out where it is known to be no part of the
    network: heads of pretraining, the pooler, constants.

    Args:
        folder: with model.safetensors.
        stock: the network that the folder's config.json describes.

    Raises:
        BackboneError: the file is missing, no safetensors, broken, or holds the weights
            of another network; the names that are missing, unexpected or of another
            shape are listed.
    """
    path = weights_file(folder)
    content = weights.read_weights(path, pickles=False)
    state = _by_stock_names(content.state, stock)
    differences = weights.list_differences(stock, state)
    if differences:
        raise BackboneError(
            str(path),
            found=f"weights of another network than {type(stock).__name__} as config.json describes it",
            expected="all its weights, and no others",
            hint="keep config.json and model.safetensors of one network together",
            details=differences,
        )
    return state


def weights_file(folder: Path) -> Path:
    """A folder's model.safetensors.

    Raises:
        BackboneError: there is none; what there is instead is named.
    """
    path = folder / FILE
    if path.is_file():
        return path
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if (folder / INDEX).is_file():
        found = "weights in several files"
        hint = "save it as one: model.save_pretrained(folder, max_shard_size='100GB')"
    elif pickles:
        found = f"only {pickles[0].name}, a pickle, which is never opened"
        hint = "take a revision that has model.safetensors, or save it again: model.save_pretrained(folder)"
    else:
        found = "no such file"
        hint = "take a network that is published as model.safetensors; pickles are never opened"
    raise BackboneError(
        str(path),
        found=found,
        expected="the weights as one safetensors file",
        hint=hint,
    )


def _by_stock_names(
    published: Mapping[str, Tensor], stock: nn.Module
) -> dict[str, Tensor]:
    """The state dict by the names of the stock network, whichever network with a head
    it was saved from.
    """
    wanted = stock.state_dict()
    prefix = f"{getattr(stock, 'base_model_prefix', '')}."
    with_head = prefix != "." and any(name.startswith(prefix) for name in published)
    state = {}
    for name, tensor in published.items():
        bare = _current_name(name.removeprefix(prefix))
        of_head = with_head and not name.startswith(prefix)
        if bare in wanted:
            state[bare] = tensor
        elif not of_head and not _is_left_out(bare, stock):
            state[name] = tensor
    for name, other in _tied_names(stock).items():
        if name not in state and other in state:
            state[name] = state[other].clone()
    return {name: state[name].contiguous() for name in sorted(state)}


def _current_name(name: str) -> str:
    """A parameter's name as the library has it now: LayerNorm's were called gamma and
    beta.
    """
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _is_left_out(name: str, stock: nn.Module) -> bool:
    own: Any = getattr(stock, "_keys_to_ignore_on_load_unexpected", None) or ()
    patterns = (*NOT_OF_THE_BACKBONE, *own)
    return any(re.search(pattern, name) for pattern in patterns)


def _tied_names(stock: nn.Module) -> dict[str, str]:
    """Names of the state dict that mean the same tensor as another: each → the first of
    its kind.
    """
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in stock.state_dict(keep_vars=True).items():
        other = first.setdefault(id(tensor), name)
        if other != name:
            tied[name] = other
            tied.setdefault(other, name)
    return tied
