"""Texts as tokens: travels with registered models, so it imports nothing else of Thaw.

What becomes of a text depends on the text alone: it is never padded to another text's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TOKENIZER_FILE = "tokenizer.json"
CHUNK = 1024  # texts encoded at once: the tokenizer's own results take far more room than the tokens


class EncodedTexts(NamedTuple):
    """Tokens of some texts, one array a text.

    Args:
        ids: token ids (L,), int32, at most `max_tokens`, special tokens among them.
        type_ids: 0 for the first text and 1 for the second of a pair (L,), int8.
        full_lengths: (N,), int64: how many tokens each text would have without truncation.
    """

    ids: list[NDArray[np.int32]]
    type_ids: list[NDArray[np.int8]]
    full_lengths: NDArray[np.int64]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder's tokenizer.json, with neither truncation nor padding of its own.

    Raises:
        Exception: whatever the library raises on a broken file.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_tokens: int) -> EncodedTexts:
    """Encodes texts, or pairs of texts.

    Of a pair, the longer one is shortened first, as `transformers` does.

    Args:
        pairs: the second texts (N,), or None.
        max_tokens: most tokens a text may have, special tokens included.
    """
    ids: list[NDArray[np.int32]] = []
    type_ids: list[NDArray[np.int8]] = []
    lengths: list[int] = []
    for start in range(0, len(texts), CHUNK):
        inputs: list[Any] = list(texts[start : start + CHUNK])
        if pairs is not None:
            inputs = list(zip(inputs, pairs[start : start + CHUNK], strict=True))
        tokenizer.no_truncation()
        for full in tokenizer.encode_batch(inputs):
            lengths.append(len(full.ids))
        tokenizer.enable_truncation(max_tokens)
        for encoded in tokenizer.encode_batch(inputs):
            ids.append(np.asarray(encoded.ids, np.int32))
            type_ids.append(np.asarray(encoded.type_ids, np.int8))
    tokenizer.no_truncation()
    return EncodedTexts(ids, type_ids, np.asarray(lengths, np.int64))


def padded_length(count: int, bucket: int, max_tokens: int) -> int:
    """The length that a text of so many tokens is padded to: the next multiple of `bucket`, at most `max_tokens`."""
    rounded = -(-max(count, 1) // bucket) * bucket
    return min(rounded, max_tokens)


def pad(rows: Sequence[NDArray[Any]], length: int, value: int) -> NDArray[np.int64]:
    """Arrays (L,) of at most `length` as one (N, length), filled up with `value` behind."""
    padded = np.full((len(rows), length), value, np.int64)
    for position, row in enumerate(rows):
        padded[position, : len(row)] = row
    return padded
