"""Which words spoke for an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.modalities.text.attribution import WordAttribution
from pipeline.modalities.text.content import Texts, to_content
from pipeline.records import CandidateRecord, TextInputSpec
from pipeline.serving.text_tokens import encode, load_tokenizer
from pipeline.tasks.text_classification import TASK
from pipeline.tensors import Batch, TensorGroup
from text_candidates import make_backbone, make_candidate

TEXT = "so it goes and the film was not bad at all"
SPEC = TextInputSpec(max_tokens=48, pooling="mean", columns=("text",))


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> CandidateRecord:
    folder = tmp_path_factory.mktemp("attribution")
    return make_candidate(
        make_backbone(folder / "backbone"), folder / "candidate", SPEC
    )


def inputs_of(folder: Path, texts: Texts) -> TensorGroup:
    encoded = encode(
        load_tokenizer(folder),
        [texts.text],
        None if texts.pair is None else [texts.pair],
        48,
    )
    ids = torch.from_numpy(encoded.ids[0]).long()[None]
    return TensorGroup({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


class SumOfWords:
    """A network whose logits are sums over tokens, so that what each token adds is
    known.
    """

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table  # (tokens, classes)

    def run(self, x: Batch, start: int = 0, stop: int | None = None) -> Batch:
        assert isinstance(x, TensorGroup)
        if start == 0:
            return TensorGroup({"hidden": self.table[x.tensors["input_ids"]]})
        return x.tensors["hidden"].sum(dim=1)


def test_of_a_network_that_adds_up_words_each_word_gets_what_it_added(
    candidate: CandidateRecord,
) -> None:
    tokenizer = load_tokenizer(candidate.folder)
    table = torch.zeros(tokenizer.get_vocab_size(), 2)
    for word, adds in {"film": 3.0, "bad": -1.5}.items():
        table[tokenizer.encode(word, add_special_tokens=False).ids[0], 1] = adds
    network: Any = SumOfWords(table)
    words = WordAttribution(network, candidate.folder, 48).weigh_words(
        inputs_of(candidate.folder, Texts(TEXT)), Texts(TEXT), 1
    )
    weights = {
        TEXT[word.start : word.end]: word.weight for word in words if word.weight
    }
    assert weights == {"film": 1.0, "bad": -0.5}


def test_every_word_of_both_texts_is_weighed_and_no_special_token(
    candidate: CandidateRecord,
) -> None:
    network = TASK.network.load(candidate)
    network.stock.eval()
    texts = Texts(TEXT, "never again")
    words = WordAttribution(network, candidate.folder, 48).weigh_words(
        inputs_of(candidate.folder, texts), texts, 0
    )
    assert [
        TEXT[word.start : word.end] for word in words if word.part == 0
    ] == TEXT.split()
    assert [
        "never again"[word.start : word.end] for word in words if word.part == 1
    ] == ["never", "again"]
    assert max(abs(word.weight) for word in words) == 1.0


def test_highlights_lie_on_words_of_the_exhibited_text(
    candidate: CandidateRecord, tmp_path: Path
) -> None:
    assert TASK.explainer is not None
    network = TASK.network.load(candidate)
    network.stock.eval()
    texts = Texts("so it goes " * 10, "never again")
    example = {"content": to_content(texts)}
    highlights = TASK.explainer(network, candidate).explain(
        inputs_of(candidate.folder, texts), example, 0
    )
    shown = TASK.display.exhibit(example, tmp_path, tmp_path, "01")
    assert shown is not None
    assert highlights
    assert {shown.content[mark.start : mark.end] for mark in highlights} <= {
        "so",
        "it",
        "goes",
        "never",
        "again",
    }
