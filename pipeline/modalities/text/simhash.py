"""A 64-bit hash of a text whose bits differ little between texts that share most of
their letters.

SimHash (Charikar 2002, section 3) over the text's character 5-grams, as Manku, Jain and
Das Sarma (2007) use it to find near-duplicate pages: each gram has a 64-bit hash of its
own, and a bit of the text's hash is the one that most of its grams have there. A gram
that comes again is counted once: the grams of a language's commonest words would else
make all long texts alike (of unrelated film reviews strung together to 3,700 words, 8 %
of pairs lay within 6 bits; counted once, none did).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Of the algorithm, before the digits: hashes of different versions are never compared.
VERSION = "s2-"
GRAM = 5  # characters
BITS = 64
# Characters whose grams are counted at once; each takes 64 bytes meanwhile.
CHUNK = 2**18

_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")
_MULTIPLIERS = (
    0x9E3779B97F4A7C15,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0xD6E8FEB86659FD93,
    0xA0761D6478BD642F,
)

Hashes = NDArray[np.uint64]


def hash_texts(texts: Sequence[str]) -> list[str | None]:
    """The hash of each text, `s2-` and 16 hex digits; None where a text holds neither
    letter nor digit.
    """
    plain = [normalize(text) for text in texts]
    results: list[str | None] = []
    for chunk in _chunks(plain):
        for value, text in zip(_hash_chunk(chunk).tolist(), chunk, strict=True):
            results.append(f"{VERSION}{value:016x}" if text else None)
    return results


def normalize(text: str) -> str:
    """What is compared of a text: its letters and digits in lower case, words apart by
    one blank.
    """
    words = _NEITHER_LETTER_NOR_DIGIT.sub(" ", text.lower())
    return words.strip()


def _chunks(texts: Sequence[str]) -> list[list[str]]:
    """The texts in order, in lists of about `CHUNK` characters."""
    chunks: list[list[str]] = []
    room = 0
    for text in texts:
        if room <= 0:
            chunks.append([])
            room = CHUNK
        chunks[-1].append(text)
        room -= len(text) + GRAM
    return chunks


class _Grams(NamedTuple):
    """The distinct grams of some texts, one text after the other.

    Args:
        hashes: of the grams (G,).
        starts: where each text's grams begin (N,).
        counts: how many each text has (N,), at least 1.
    """

    hashes: Hashes
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


def _hash_chunk(texts: Sequence[str]) -> Hashes:
    """The hashes (N,) of normalised texts."""
    grams = _grams(texts)
    as_bytes = grams.hashes.view(np.uint8)
    by_gram = as_bytes.reshape(-1, BITS // 8)
    bits = np.unpackbits(by_gram, axis=1, bitorder="little")
    ones = np.add.reduceat(bits, grams.starts, axis=0, dtype=np.int32)
    is_set = 2 * ones > grams.counts[:, None]
    packed = np.packbits(is_set, axis=1, bitorder="little")
    hashes: Hashes = packed.view(np.uint64)[:, 0]
    return hashes


def _grams(texts: Sequence[str]) -> _Grams:
    # A text with fewer characters than a gram is one gram, filled up with blanks.
    padded = [text.ljust(GRAM) for text in texts]
    lengths = np.array([len(text) for text in padded], np.int64)
    joined = "".join(padded)
    letters = np.frombuffer(
        joined.encode("utf-32-le", "surrogatepass"), np.uint32
    ).astype(np.uint64)
    windows = len(letters) - GRAM + 1
    mixed = np.zeros(windows, np.uint64)
    for offset, multiplier in enumerate(_MULTIPLIERS):
        mixed += letters[offset : offset + windows] * np.uint64(multiplier)
    counts = lengths - GRAM + 1
    text_starts = np.cumsum(lengths) - lengths
    starts = np.cumsum(counts) - counts
    within = np.arange(counts.sum()) - np.repeat(starts, counts)
    # Not the windows that reach into the next text.
    inside = np.repeat(text_starts, counts) + within
    owners = np.repeat(np.arange(len(texts)), counts)
    return _distinct(_scramble(mixed[inside]), owners)


def _distinct(hashes: Hashes, owners: NDArray[np.int64]) -> _Grams:
    """Each gram of a text once.

    Args:
        hashes: of all grams (M,).
        owners: the number of the text that each lies in (M,), rising from 0.
    """
    order = np.lexsort((hashes, owners))
    hashes = hashes[order]
    owners = owners[order]
    is_other_hash = hashes[1:] != hashes[:-1]
    is_other_owner = owners[1:] != owners[:-1]
    is_first = np.ones(len(hashes), np.bool_)
    is_first[1:] = is_other_hash | is_other_owner
    counts = np.bincount(owners[is_first])
    starts = np.cumsum(counts) - counts
    return _Grams(hashes[is_first], starts, counts)


def _scramble(values: Hashes) -> Hashes:
    """Spreads every bit over all of them: the finaliser of SplitMix64 (Steele, Lea and
    Flood 2014, figure 11).
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
