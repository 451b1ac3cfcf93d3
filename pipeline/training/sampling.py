"""Counted randomness: what is random about an epoch follows from (seed, epoch, id)
alone.

Nothing is drawn from a running generator, so the number of workers, an interruption or
the order in which examples were listed cannot change what an epoch shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Rows = NDArray[np.int64]


def derive_seed(*parts: object) -> int:
    """A number below 2^63 that follows from the parts alone: a seed for one purpose and
    place.
    """
    text = "\x1f".join(str(part) for part in parts)
    hashed = hashlib.blake2b(text.encode(), digest_size=8).digest()
    number = int.from_bytes(hashed, "big")
    return number >> 1


def mix(values: Keys) -> Keys:
    """The finaliser of SplitMix64, a bijection on 64-bit words (Steele, Lea and Flood
    2014, figure 16).
    """
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def keys(ids: Sequence[str]) -> Keys:
    """A 64-bit key an example, from its id: (N,)."""
    packed = bytearray()
    for identity in ids:
        packed += hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return np.frombuffer(bytes(packed), dtype=">u8").astype(np.uint64)


def shuffle(of: Keys, *counts: object) -> Rows:
    """Positions 0…N-1 in the order that their keys and the counts (seed, epoch, …) give
    them.
    """
    seed = np.uint64(derive_seed("order", *counts))
    with np.errstate(over="ignore"):
        mixed = mix(of ^ seed)
    order = np.lexsort((of, mixed))
    return order.astype(np.int64)


def balanced(of: Keys, classes: Rows, seed: int, epoch: int) -> tuple[Rows, Rows]:
    """As many positions as there are examples, every class equally often.

    A class goes through all of its examples, in a counted order, before any of them
    comes again, over epochs too.

    Returns:
        The positions (N,) in the epoch's order, and how often each had been shown
        before in this epoch (N,).
    """
    present = np.unique(classes)
    share, extra = divmod(len(of), len(present))
    chosen: list[Rows] = []
    repeats_by_class: list[Rows] = []
    for number, label in enumerate(present):
        members = np.flatnonzero(classes == label)
        before = epoch * share
        for past in range(epoch):
            before += _has_extra(number, past, len(present), extra)
        count = share + _has_extra(number, epoch, len(present), extra)
        shown = _continue_rounds(of, members, before, count, seed)
        chosen.append(shown)
        repeats_by_class.append(_occurrences(shown))
    rows = np.concatenate(chosen)
    repeats = np.concatenate(repeats_by_class)
    with np.errstate(over="ignore"):
        distinct_keys = mix(of[rows] + repeats.astype(np.uint64))
        order = shuffle(distinct_keys, seed, epoch)
    return rows[order], repeats[order]


def _continue_rounds(
    of: Keys, members: Rows, before: int, count: int, seed: int
) -> Rows:
    """The next `count` examples of a class, of which `before` were shown already: round
    after round of all of them, each in an order of its own.

    Args:
        members: (M,) positions of the class's examples.
    """
    shown: list[int] = []
    own_keys = of[members]
    while len(shown) < count:
        round_number, place = divmod(before + len(shown), len(members))
        order = shuffle(own_keys, seed, "round", round_number)
        shown += members[order][place:].tolist()
    return np.array(shown[:count], np.int64)


def _has_extra(number: int, epoch: int, classes: int, extra: int) -> bool:
    """Whether this class is one of the `extra` that an epoch shows once more; they take
    turns.
    """
    turn = (number - epoch) % classes
    return turn < extra


def _occurrences(rows: Rows) -> Rows:
    seen: dict[int, int] = {}
    counts = []
    for row in rows.tolist():
        counts.append(seen.get(row, 0))
        seen[row] = counts[-1] + 1
    return np.array(counts, np.int64)


def epoch_rows(
    of: Keys, classes: Rows, sampling: str, seed: int, epoch: int
) -> tuple[Rows, Rows]:
    """The positions an epoch shows, in order, and how often each came before in it:
    (N,) and (N,).
    """
    if sampling == "balanced":
        return balanced(of, classes, seed, epoch)
    return shuffle(of, seed, epoch), np.zeros(len(of), np.int64)


def views(of: Keys, epoch: int, count: int, repeats: Rows | int = 0) -> Rows:
    """The view each example shows in an epoch: (epoch + repeats + key) mod count, (N,)."""
    first = (of % np.uint64(count)).astype(np.int64)
    numbers = (np.int64(epoch) + repeats + first) % count
    return numbers.astype(np.int64)


POOL = 50  # batches within which examples are sorted by their shape


def shape_batches(shapes: Rows, size: int, *counts: object) -> list[Rows]:
    """Cuts an epoch into as many batches as `batches` does, with examples of one shape
    together where that can be.

    The epoch is cut into pools of 50 batches; each is sorted by shape, in the epoch's
    order where the shapes are the same, and cut into batches. The order of the batches
    is shuffled by the counts (seed, epoch, …).

    Args:
        shapes: (N,) the shape of each example, in the epoch's order.

    Returns:
        Positions in the epoch, batch by batch.
    """
    cut_batches: list[Rows] = []
    pool_size = POOL * size
    for start in range(0, len(shapes), pool_size):
        stop = min(start + pool_size, len(shapes))
        pool = np.arange(start, stop)
        by_shape = np.argsort(shapes[pool], kind="stable")
        cut_batches += batches(pool[by_shape], size)
    numbers = np.arange(len(cut_batches), dtype=np.uint64)
    order = shuffle(mix(numbers), "batches", *counts)
    return [cut_batches[number] for number in order.tolist()]


def same_shape_batches(shapes: Rows, size: int) -> list[Rows]:
    """Positions (n,) in batches of at most `size` of one shape: by shape, then by
    position.
    """
    if len(np.unique(shapes)) <= 1:
        every = np.arange(len(shapes))
        return np.split(every, range(size, len(every), size))
    cut_batches: list[Rows] = []
    for shape in np.unique(shapes):
        alike = np.flatnonzero(shapes == shape)
        cut_batches += np.split(alike, range(size, len(alike), size))
    return cut_batches


def batches(rows: Rows, size: int) -> list[Rows]:
    """Cuts an epoch into the fewest batches of at most `size`, alike in length to
    within one.

    A plain cut would leave a last batch of any length; of one example, BatchNorm has no
    variance.
    """
    count = -(-len(rows) // size)
    parts = np.array_split(rows, count)
    return [part for part in parts if len(part)]
