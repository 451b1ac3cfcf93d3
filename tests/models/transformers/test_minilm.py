"""A real published network: sentence vectors as its authors mean them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import BackboneConfig
from pipeline.context import Context
from pipeline.models.network import BlockedNetwork
from pipeline.models.providers import catalog
from pipeline.records import BackboneRecord, text_spec
from pipeline.serving import text_tokens
from pipeline.tensors import TensorGroup, single_tensor

NAME = "transformers/sentence-transformers/all-MiniLM-L6-v2"
PROVIDER = catalog.find(NAME)
SENTENCES = (
    "A man is eating food.",
    "Someone is having a meal.",
    "The stock market fell sharply today.",
    "Shares dropped on Wall Street.",
)

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def minilm(real: Path, tmp_path_factory: pytest.TempPathFactory) -> BackboneRecord:
    root = tmp_path_factory.mktemp("minilm")
    config = BackboneConfig(name=NAME, weights=str(real / "weights" / "minilm-l6"))
    out = root / "backbone"
    out.mkdir()
    return PROVIDER.fetch(
        config, out, Context(root, root / "data", root / ".thaw", root / ".thaw/run")
    )


@pytest.fixture(scope="module")
def network(minilm: BackboneRecord) -> BlockedNetwork:
    return PROVIDER.build(minilm, 2, pretrained=True, seed=0)


def tokens(minilm: BackboneRecord, sentences: tuple[str, ...]) -> TensorGroup:
    tokenizer = text_tokens.load_tokenizer(minilm.folder)
    encoded = text_tokens.encode(
        tokenizer, sentences, None, text_spec(minilm.input).max_tokens
    )
    length = text_tokens.padded_length(max(len(ids) for ids in encoded.ids), 32, 512)
    masks = [np.ones_like(ids) for ids in encoded.ids]
    return TensorGroup(
        {
            "input_ids": torch.from_numpy(text_tokens.pad(encoded.ids, length, 0)),
            "attention_mask": torch.from_numpy(text_tokens.pad(masks, length, 0)),
            "token_type_ids": torch.from_numpy(
                text_tokens.pad(encoded.type_ids, length, 0)
            ),
        }
    )


def test_what_is_known_of_it(minilm: BackboneRecord) -> None:
    layers = [f"encoder.layer.{number}" for number in range(6)]
    assert minilm.blocks == ("word_embeddings", "embeddings", *layers, "head")
    assert minilm.architecture == "bert"
    # Without the pooler, a square matrix and its bias, of the 22,713,216 parameters
    # published.
    assert minilm.parameters == 22_713_216 - 384 * 384 - 384
    spec = text_spec(minilm.input)
    assert (spec.max_tokens, spec.bucket, spec.pooling) == (512, 32, "mean")


def test_sentences_that_mean_the_same_lie_close(
    minilm: BackboneRecord, network: BlockedNetwork
) -> None:
    with torch.inference_mode():
        vectors = single_tensor(
            network.run(tokens(minilm, SENTENCES), 0, len(network.blocks) - 1)
        )
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    similarities = vectors @ vectors.T
    assert similarities[0, 1] > 0.6
    assert similarities[2, 3] > 0.5
    assert similarities[:2, 2:].abs().max() < 0.2


def test_a_kept_prefix_in_half_precision_changes_little(
    minilm: BackboneRecord, network: BlockedNetwork
) -> None:
    x = tokens(minilm, SENTENCES)
    with torch.inference_mode():
        middle = network.run(x, 0, 6)
        assert isinstance(middle, TensorGroup)
        halved = {**middle.tensors, "hidden": middle.tensors["hidden"].half().float()}
        whole = single_tensor(network.run(x))
        assert torch.equal(single_tensor(network.run(middle, 6)), whole)
        assert torch.allclose(
            single_tensor(network.run(TensorGroup(halved), 6)), whole, atol=5e-3
        )


def test_how_far_a_text_is_padded_changes_nothing(
    minilm: BackboneRecord, network: BlockedNetwork
) -> None:
    short = tokens(minilm, SENTENCES[:1])
    longer = short.map(lambda tensor: torch.nn.functional.pad(tensor, (0, 32)))
    with torch.inference_mode():
        answers = [single_tensor(network.run(x)) for x in (short, longer)]
    assert torch.allclose(answers[0], answers[1], atol=1e-5)
