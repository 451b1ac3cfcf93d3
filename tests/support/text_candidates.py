"""A tiny text encoder and a candidate made of it, without training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.files import sha256
from pipeline.modalities.text.pretrain_encoder import train_tokenizer
from pipeline.models.network import state_to_save
from pipeline.models.providers.transformers import builder
from pipeline.records import BackboneRecord, CandidateRecord, TextInputSpec
from transformer_families import config_of

LABELS = ("bad", "good", "so-so")
WORDS = "so it goes and the film was not bad at all but far from good , we were told . never again , I think"


def texts(count: int, longest: int = 70) -> list[str]:
    """Texts of one to `longest` words, all different."""
    words = WORDS.split()
    made = []
    for number in range(count):
        length = 1 + number * 7 % longest
        made.append(
            " ".join(
                words[(number * 3 + place * (number + 1)) % len(words)]
                for place in range(length)
            )
        )
    return made


def make_backbone(
    folder: Path, family: str = "bert", max_tokens: int = 48
) -> BackboneRecord:
    """An encoder with random weights, as the backbone step leaves it."""
    folder.mkdir(parents=True)
    train_tokenizer([WORDS] * 5, 200, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    config = {
        **config_of(family),
        "vocab_size": len(tokenizer["model"]["vocab"]),
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    network = builder.build_backbone(config, seed=0, subject="tiny")
    save_file(
        {name: tensor.clone() for name, tensor in network.state_dict().items()},
        folder / builder.WEIGHTS,
    )
    blocked = builder.with_head(network, config, 2, "mean", 0, "tiny")
    record = BackboneRecord(
        name=f"transformers/{family}",
        architecture=family,
        source="folder",
        sha256="0" * 64,
        weights_sha256=sha256(folder / builder.WEIGHTS),
        parameters=1,
        classes=0,
        blocks=tuple(blocked.names),
        input=TextInputSpec(max_tokens=max_tokens, pooling="mean", columns=("text",)),
        files=("config.json", "tokenizer.json"),
    )
    return record.save(folder)


def make_candidate(
    backbone: BackboneRecord,
    folder: Path,
    spec: TextInputSpec,
    labels: Sequence[str] = LABELS,
) -> CandidateRecord:
    """A candidate with weights that tell texts apart."""
    config = builder.read_config(backbone.folder)
    network: Any = builder.with_head(
        builder.build_backbone(config, seed=1, subject="tiny"),
        config,
        len(labels),
        "mean",
        1,
        "tiny",
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        for parameter in network.stock.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    folder.mkdir(parents=True)
    save_file(state_to_save(network), folder / "model.safetensors")
    for name in backbone.files:
        shutil.copyfile(backbone.folder / name, folder / name)
    record = CandidateRecord(
        name="full",
        key="0" * 64,
        baseline=False,
        architecture=backbone.architecture,
        labels=tuple(labels),
        input=spec,
        stages=(),
        val={},
        steps=0,
        model_sha256=sha256(folder / "model.safetensors"),
        plan={},
        backbone=backbone.name,
        files=backbone.files,
    )
    return record.save(folder)
