"""What is to be known of each kind of transformer: where its layers lie, and what they
hand on.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import nn

from pipeline.errors import BackboneError

Pooling = Literal["mean", "cls", "last"]


class Architecture(NamedTuple):
    """A kind of transformer, by the `model_type` of its config.json.

    Args:
        returns_tuple: whether a layer returns (hidden states, …) instead of the hidden
            states alone.
        pooling: how the vectors of the last layer become one, where the settings leave
            it open.
        divisible: whether its layers can be frozen and run one by one. Not where they
            share weights, or hand on more than hidden states.
    """

    returns_tuple: bool = False
    pooling: Pooling = "mean"
    divisible: bool = True


ARCHITECTURES = {
    "bert": Architecture(),
    "roberta": Architecture(),
    "xlm-roberta": Architecture(),
    "camembert": Architecture(),
    "electra": Architecture(),
    "distilbert": Architecture(),
    "modernbert": Architecture(),
    "mpnet": Architecture(returns_tuple=True),
    "deberta-v2": Architecture(returns_tuple=True),
    "gpt2": Architecture(pooling="last"),
    "qwen2": Architecture(pooling="last"),
    "albert": Architecture(divisible=False),
    "t5": Architecture(divisible=False),
    "funnel": Architecture(divisible=False),
}


def find(model_type: str, subject: str) -> Architecture:
    """The architecture of a `model_type`.

    Raises:
        BackboneError: it is none that has been tried.
    """
    if model_type not in ARCHITECTURES:
        raise BackboneError(
            subject,
            found=f"model_type {model_type!r}",
            expected="one of " + ", ".join(ARCHITECTURES),
            hint="choose a backbone of one of these kinds",
        )
    return ARCHITECTURES[model_type]


def layer_list(
    model: nn.Module, layers: int, subject: str
) -> tuple[str, nn.ModuleList]:
    """The path and the list of a model's layers: the shallowest list that has as many
    modules as there are layers.

    Raises:
        BackboneError: there is none.
    """
    lists = []
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            lists.append((path.count("."), path, module))
    if not lists:
        raise BackboneError(
            subject,
            found="no list of layers",
            expected=f"a list of {layers} layers",
            hint="choose another backbone",
        )
    _, path, modules = min(lists, key=lambda entry: entry[:2])
    return path, modules
