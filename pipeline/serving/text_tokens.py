"""Texts as tokens: travels with registered models, so it imports nothing else of Thaw.

What becomes of a text depends on the text alone: it is never padded to another text's
length.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TOKENIZER_FILE = "tokenizer.json"
# Texts encoded at once: the tokenizer's own results take far more room than the tokens.
CHUNK = 1024
PARALLELISM = "TOKENIZERS_PARALLELISM"

# Truncation is a setting of the tokenizer, which threads of a server share.
_encoding = threading.Lock()


class EncodedTexts(NamedTuple):
    """Tokens of some texts, one array a text.

    Args:
        ids: token ids (L,), int32, at most `max_tokens`, special tokens among them.
        type_ids: 0 for the first text and 1 for the second of a pair (L,), int8.
        full_lengths: (N,), int64: how many tokens each text would have without
            truncation.
    """

    ids: list[NDArray[np.int32]]
    type_ids: list[NDArray[np.int8]]
    full_lengths: NDArray[np.int64]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder's tokenizer.json, with neither truncation nor padding
    of its own.

    Raises:
        Exception: whatever the library raises on a broken file.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_tokens: int
) -> EncodedTexts:
    """Encodes texts, or pairs of texts.

    Of a pair, the longer one is shortened first, as `transformers` does.

    Args:
        pairs: the second texts (N,), or None.
        max_tokens: most tokens a text may have, special tokens included.
    """
    ids: list[NDArray[np.int32]] = []
    type_ids: list[NDArray[np.int8]] = []
    lengths: list[int] = []
    with _encoding, _one_thread():
        for start in range(0, len(texts), CHUNK):
            inputs: list[Any] = list(texts[start : start + CHUNK])
            if pairs is not None:
                inputs = list(zip(inputs, pairs[start : start + CHUNK], strict=True))
            encodings = tokenizer.encode_batch(inputs)
            lengths += [len(encoding.ids) for encoding in encodings]
            _truncate(tokenizer, inputs, encodings, max_tokens)
            for encoding in encodings:
                ids.append(np.asarray(encoding.ids, np.int32))
                type_ids.append(np.asarray(encoding.type_ids, np.int8))
    return EncodedTexts(ids, type_ids, np.asarray(lengths, np.int64))


def _truncate(
    tokenizer: Any, inputs: Sequence[Any], encodings: list[Any], max_tokens: int
) -> None:
    """Encodes those that are too long again, in place: only the tokenizer knows which
    tokens must stay.
    """
    long = [
        number
        for number, encoding in enumerate(encodings)
        if len(encoding.ids) > max_tokens
    ]
    if not long:
        return
    tokenizer.enable_truncation(max_tokens)
    try:
        shortened = tokenizer.encode_batch([inputs[number] for number in long])
    finally:
        tokenizer.no_truncation()
    for number, encoding in zip(long, shortened, strict=True):
        encodings[number] = encoding


@contextmanager
def _one_thread() -> Iterator[None]:
    """The tokenizer starts no threads of its own, which would not survive a fork."""
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLELISM]
        else:
            os.environ[PARALLELISM] = before


def padded_length(count: int, bucket: int, max_tokens: int) -> int:
    """The length that a text of so many tokens is padded to: the next multiple of
    `bucket`, at most `max_tokens`.
    """
    rounded = -(-max(count, 1) // bucket) * bucket
    return min(rounded, max_tokens)


def pad(rows: Sequence[NDArray[Any]], length: int, value: int) -> NDArray[np.int64]:
    """Arrays (L,) of at most `length` as one (N, length), filled up with `value`
    behind.
    """
    padded = np.full((len(rows), length), value, np.int64)
    for position, row in enumerate(rows):
        padded[position, : len(row)] = row
    return padded
