"""The words of a text that spoke for an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.records import text_spec
from pipeline.tasks.base import Highlight
from pipeline.tasks.text_classification.display import BETWEEN, SHOWN, shorten

if TYPE_CHECKING:
    from pipeline.models.network import BlockedNetwork
    from pipeline.records import CandidateRecord
    from pipeline.tensors import Batch

SMALLEST = 0.1  # weight of a word that is worth a mark


class TextExplainer:
    """The Explainer of texts; see `pipeline.modalities.text.attribution`."""

    def __init__(self, network: BlockedNetwork, candidate: CandidateRecord) -> None:
        from pipeline.modalities.text.attribution import WordAttribution

        self._attribution = WordAttribution(
            network, candidate.folder, text_spec(candidate.input).max_tokens
        )

    def explain(
        self, inputs: Batch, example: Mapping[str, Any], answer: int
    ) -> list[Highlight]:
        from pipeline.modalities.text.content import from_content
        from pipeline.tensors import TensorGroup

        assert isinstance(inputs, TensorGroup)
        texts = from_content(example["content"])
        second_text = len(shorten(texts.text)) + len(BETWEEN)
        highlights = []
        for word in self._attribution.weigh_words(inputs, texts, answer):
            if abs(word.weight) < SMALLEST or word.end > SHOWN:
                continue
            offset = second_text if word.part else 0
            highlights.append(
                Highlight(word.start + offset, word.end + offset, round(word.weight, 2))
            )
        return highlights
