"""Which words spoke for an answer: integrated gradients on the word vectors
(Sundararajan et al. 2017, section 3).

A word's weight is the sum, over its tokens and the numbers of their vectors, of
gradient × input: the vector times the gradient of the answer's logit less the mean of
the others'. The gradient is averaged over the way from no words at all (vectors of
zeros) to the words that are there. At the words alone it would say little: most
networks normalize a token's vector at once, so that its length has no gradient; and
where a network is certain, no small change matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pipeline.modalities.text.content import Texts
from pipeline.serving.text_tokens import load_tokenizer
from pipeline.tensors import TensorGroup, single_tensor

if TYPE_CHECKING:
    from pipeline.models.network import BlockedNetwork

WORD_VECTORS = 1  # blocks that make them
STEPS = 16  # on the way from no words to the words


class WordWeight(NamedTuple):
    """A word and how much it spoke for the answer.

    Args:
        part: 0 for the first text, 1 for the second of a pair.
        start, end: the word's characters in that text.
        weight: from -1 to 1: 1 for the word that counted most, below 0 for one that
            spoke against the answer.
    """

    part: int
    start: int
    end: int
    weight: float


class WordAttribution:
    """Attributes a network's answers to words.

    Args:
        network: in evaluation.
        folder: holds its tokenizer.
        max_tokens: most tokens of an example that it reads.
    """

    def __init__(self, network: BlockedNetwork, folder: Path, max_tokens: int) -> None:
        self._network = network
        self._tokenizer = load_tokenizer(folder)
        self._tokenizer.enable_truncation(max_tokens)

    def weigh_words(
        self, inputs: TensorGroup, texts: Texts, answer: int
    ) -> list[WordWeight]:
        """The words of an example in their order, those that the network did not read
        left out.

        Args:
            inputs: one example as the network's input (1, L).
            answer: number of the class that was answered.
        """
        weights = self._token_weights(inputs, answer)
        encoding = self._tokenizer.encode(texts.text, texts.pair)
        words: dict[tuple[int, int], WordWeight] = {}
        tokens = zip(
            encoding.sequence_ids,
            encoding.word_ids,
            encoding.offsets,
            weights.tolist(),
            strict=False,
        )
        for part, word, (start, end), weight in tokens:
            if part is None or word is None:
                continue  # a special token
            before = words.get((part, word), WordWeight(part, start, end, 0.0))
            words[part, word] = WordWeight(
                part,
                min(start, before.start),
                max(end, before.end),
                before.weight + weight,
            )
        return _normalize(words)

    def _token_weights(self, inputs: TensorGroup, answer: int) -> torch.Tensor:
        """Integrated gradients of each token (L,), by the midpoint rule."""
        shares = (torch.arange(STEPS) + 0.5) / STEPS
        with torch.enable_grad():
            embedded: Any = self._network.run(inputs, 0, WORD_VECTORS)
            vectors = embedded.tensors["hidden"].detach()
            scaled = shares.to(vectors).view(-1, 1, 1) * vectors
            scaled.requires_grad_(True)
            others = {}
            for name, tensor in embedded.tensors.items():
                others[name] = tensor.expand(STEPS, *tensor.shape[1:])
            logits = single_tensor(
                self._network.run(
                    TensorGroup({**others, "hidden": scaled}), WORD_VECTORS
                )
            )
            other_logits = torch.cat(
                [logits[:, :answer], logits[:, answer + 1 :]], dim=1
            )
            margin = logits[:, answer] - other_logits.mean(dim=1)
            (gradient,) = torch.autograd.grad(margin.sum(), scaled)
        weights: torch.Tensor = (gradient.mean(dim=0) * vectors[0]).sum(dim=-1)
        return weights.detach().cpu()


def _normalize(words: Mapping[tuple[int, int], WordWeight]) -> list[WordWeight]:
    largest = _largest(words.values())
    if not largest:
        return []
    return [word._replace(weight=word.weight / largest) for word in words.values()]


def _largest(words: Iterable[WordWeight]) -> float:
    sizes = [abs(word.weight) for word in words]
    return max(sizes, default=0.0)
