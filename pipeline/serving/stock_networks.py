"""Stock networks of the transformers library, from a config.json: travels with
registered models, so it imports nothing else of Thaw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# Kinds of which the library has several: the one that gives a vector for each token.
STOCK_CLASSES = {"t5": "T5EncoderModel", "funnel": "FunnelModel"}
# Keys of config.json that say how the network was saved, or what it gives beside its
# last layer's vectors.
LEFT_OUT = (
    "model_type",
    "dtype",
    "torch_dtype",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "use_cache",
)


def build(config: Mapping[str, Any]) -> Any:
    """A stock network with random weights, in fp32, without a pooler: vectors are
    pooled by their mean, or one of them is taken.

    Args:
        config: the content of its config.json.

    Raises:
        Exception: the library cannot make a network of it; what a wrong value raises is
            up to each kind of network.
    """
    import transformers

    values = {key: value for key, value in config.items() if key not in LEFT_OUT}
    settings = transformers.AutoConfig.for_model(config["model_type"], **values)
    network = _new(settings)
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    return network


def _new(settings: Any) -> Any:
    import transformers

    if settings.model_type in STOCK_CLASSES:
        return getattr(transformers, STOCK_CLASSES[settings.model_type])(settings)
    builder: Any = transformers.AutoModel
    return builder.from_config(settings, dtype=torch.float32)
