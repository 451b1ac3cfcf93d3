"""Tiny configurations of each kind of transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizer_builders import write_tokenizer

SMALL = {"vocab_size": 60, "max_position_embeddings": 80}
ENCODER = {
    **SMALL,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": ENCODER,
    "roberta": {**ENCODER, "pad_token_id": 1},
    "xlm-roberta": {**ENCODER, "pad_token_id": 1},
    "camembert": {**ENCODER, "pad_token_id": 1},
    "electra": {**ENCODER, "embedding_size": 8},
    "distilbert": {**SMALL, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32},
    "modernbert": {
        **ENCODER,
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
        "pad_token_id": 0,
        "attention_dropout": 0.1,
        "embedding_dropout": 0.1,
        "mlp_dropout": 0.1,
    },
    "mpnet": {**ENCODER, "pad_token_id": 1},
    "deberta-v2": {
        **ENCODER,
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
    },
    "gpt2": {
        "vocab_size": 60,
        "n_positions": 80,
        "n_embd": 16,
        "n_layer": 3,
        "n_head": 2,
    },
    "qwen2": {
        **ENCODER,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "attention_dropout": 0.1,
    },
    "albert": {**ENCODER, "embedding_size": 8, "hidden_dropout_prob": 0.1},
    "funnel": {
        "vocab_size": 60,
        "d_model": 16,
        "d_head": 8,
        "d_inner": 32,
        "n_head": 2,
        "block_sizes": [1, 1],
        "num_decoder_layers": 1,
    },
    "t5": {
        "vocab_size": 60,
        "d_model": 16,
        "d_ff": 32,
        "d_kv": 8,
        "num_layers": 3,
        "num_heads": 2,
    },
}
WHOLE = ("albert", "t5", "funnel")
DECODERS = ("gpt2", "qwen2")


def config_of(family: str) -> dict[str, Any]:
    """The content of a config.json."""
    return {"model_type": family, **FAMILIES[family]}


def write_folder(
    folder: Path, family: str = "bert", *, half: bool = False, with_head: bool = False
) -> Path:
    """Writes a tiny random network as its publisher would: config.json,
    model.safetensors and a tokenizer.

    Args:
        half: weights in fp16.
        with_head: saved from a network for predicting words, with its names.
    """
    import torch
    import transformers

    settings = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if family == "t5":
            network: Any = transformers.T5ForConditionalGeneration(settings)
        elif family == "funnel":
            network = transformers.FunnelModel(settings)
        elif with_head:
            kind = (
                transformers.AutoModelForCausalLM
                if family in DECODERS
                else transformers.AutoModelForMaskedLM
            )
            network = kind.from_config(settings)
        else:
            network = transformers.AutoModel.from_config(settings)
    (network.half() if half else network).save_pretrained(folder)
    write_tokenizer(folder)
    return folder
