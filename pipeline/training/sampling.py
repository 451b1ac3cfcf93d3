"""Counted randomness: what is random about an epoch follows from (seed, epoch, id) alone.

Nothing is drawn from a running generator, so the number of workers, an interruption or the order in which examples
were listed cannot change what an epoch shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Rows = NDArray[np.int64]


def derive_seed(*parts: Any) -> int:
    """A number below 2^63 that follows from the parts alone: a seed for one purpose and place."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def mix(values: Keys) -> Keys:
    """The finaliser of SplitMix64, a bijection on 64-bit words (Steele, Lea and Flood 2014, figure 16)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def keys(ids: Sequence[str]) -> Keys:
    """A 64-bit key an example, from its id: (N,)."""
    packed = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(packed, dtype=">u8").astype(np.uint64)


def shuffle(of: Keys, *counts: Any) -> Rows:
    """Positions 0…N-1 in the order that their keys and the counts (seed, epoch, …) give them."""
    with np.errstate(over="ignore"):
        mixed = mix(of ^ np.uint64(derive_seed("order", *counts)))
    return np.lexsort((of, mixed)).astype(np.int64)


def balanced(of: Keys, classes: Rows, seed: int, epoch: int) -> tuple[Rows, Rows]:
    """As many positions as there are examples, every class equally often.

    A class goes through all of its examples, in a counted order, before any of them comes again, over epochs too.

    Returns:
        The positions (N,) in the epoch's order, and how often each had been shown before in this epoch (N,).
    """
    present = np.unique(classes)
    share, extra = divmod(len(of), len(present))
    picked, before = [], []
    for turn, label in enumerate(present):
        members = np.flatnonzero(classes == label)
        before_epoch = epoch * share + sum(_has_extra(turn, past, len(present), extra) for past in range(epoch))
        count = share + _has_extra(turn, epoch, len(present), extra)
        places = before_epoch + np.arange(count)
        rounds = places // len(members)
        orders = {r: members[shuffle(of[members], seed, "round", int(r))] for r in np.unique(rounds)}
        picked.append(np.array([orders[r][p % len(members)] for r, p in zip(rounds, places, strict=True)], np.int64))
        before.append(_occurrences(picked[-1]))
    rows, repeats = np.concatenate(picked), np.concatenate(before)
    with np.errstate(over="ignore"):
        order = shuffle(mix(of[rows] + repeats.astype(np.uint64)), seed, epoch)
    return rows[order], repeats[order]


def _has_extra(turn: int, epoch: int, classes: int, extra: int) -> bool:
    """Whether class number `turn` is one of the `extra` that an epoch shows once more; they take turns."""
    return (turn - epoch) % classes < extra


def _occurrences(rows: Rows) -> Rows:
    seen: dict[int, int] = {}
    counts = []
    for row in rows.tolist():
        counts.append(seen.get(row, 0))
        seen[row] = counts[-1] + 1
    return np.array(counts, np.int64)


def epoch_rows(of: Keys, classes: Rows, sampling: str, seed: int, epoch: int) -> tuple[Rows, Rows]:
    """The positions an epoch shows, in order, and how often each came before in it: (N,) and (N,)."""
    if sampling == "balanced":
        return balanced(of, classes, seed, epoch)
    return shuffle(of, seed, epoch), np.zeros(len(of), np.int64)


def views(of: Keys, epoch: int, count: int, repeats: Rows | int = 0) -> Rows:
    """The view each example shows in an epoch: (epoch + repeats + key) mod count, (N,)."""
    return ((np.int64(epoch) + repeats + (of % np.uint64(count)).astype(np.int64)) % count).astype(np.int64)


POOL = 50  # batches within which examples are sorted by their shape


def shape_batches(shapes: Rows, size: int, *counts: Any) -> list[Rows]:
    """Cuts an epoch into as many batches as `batches` does, with examples of one shape together where that can be.

    The epoch is cut into pools of 50 batches; each is sorted by shape, in the epoch's order where the shapes are the
    same, and cut into batches. The order of the batches is shuffled by the counts (seed, epoch, …).

    Args:
        shapes: (N,) the shape of each example, in the epoch's order.

    Returns:
        Positions in the epoch, batch by batch.
    """
    found: list[Rows] = []
    for start in range(0, len(shapes), POOL * size):
        pool = np.arange(start, min(start + POOL * size, len(shapes)))
        ordered = pool[np.argsort(shapes[pool], kind="stable")]
        found += batches(ordered, size)
    numbers = np.arange(len(found), dtype=np.uint64)
    return [found[number] for number in shuffle(mix(numbers), "batches", *counts).tolist()]


def same_shape_batches(shapes: Rows, size: int) -> list[Rows]:
    """Positions (n,) in batches of at most `size` of one shape: by shape, then by position."""
    if len(np.unique(shapes)) <= 1:
        every = np.arange(len(shapes))
        return np.split(every, range(size, len(every), size))
    found: list[Rows] = []
    for shape in np.unique(shapes):
        alike = np.flatnonzero(shapes == shape)
        found += np.split(alike, range(size, len(alike), size))
    return found


def batches(rows: Rows, size: int) -> list[Rows]:
    """Cuts an epoch into the fewest batches of at most `size`, alike in length to within one.

    A plain cut would leave a last batch of any length; of one example, BatchNorm has no variance.
    """
    return [part for part in np.array_split(rows, -(-len(rows) // size)) if len(part)]
