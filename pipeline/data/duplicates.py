"""Near-duplicates: which examples' 64-bit perceptual hashes lie so close that they
count as the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BITS = 64
# Bits set: a picture's hash has about half of them, that of a flat one nearly none.
INFORMATIVE = 16
TINY = 64  # buckets up to this size are compared many at once
SMALL = 4096  # buckets up to this size are compared pair by pair, larger ones cut again
# Sorting hashes into buckets takes as long as comparing each with so many others.
TABLE_COST = 12.0
MOST_TABLES = 500  # choices of bands that are tried
# Edges kept before they are merged: bounds the memory that dense clusters take.
HELD = 1_000_000


def clusters(hashes: Sequence[str | None], distance: int) -> npt.NDArray[np.int64]:
    """A cluster number for each example; examples joined by a chain of near-duplicates
    share one.

    Args:
        hashes: 16 hex digits each, behind the version of their algorithm and a dash
            where it has one, or None where there is no hash. Hashes of different
            versions are never near.
        distance: most bits in which near-duplicates differ, 0–64; below 0 every example
            is on its own.

    The search is exact. Hashes are cut into bands, and by the pigeonhole principle two
    hashes at most `distance` bits apart agree in all bands but `distance` (Manku, Jain
    and Das Sarma 2007, section 3), so only hashes that share some choice of so many
    bands are compared; those of a choice that many share are cut again by their
    remaining bits. Of more bands there are more choices, and fewer hashes share one:
    how many there are follows from the number of hashes. Equal hashes count as one.
    Time and memory stay near linear up to a distance of about 10; above, choices of
    bands are too many or tell hashes apart too little, and time grows with the square
    (100,000 hashes: seconds).
    """
    import numpy as np

    cluster_of = np.arange(len(hashes), dtype=np.int64)
    versions = [_version(text) for text in hashes]
    for version in sorted(set(versions)):
        members = np.array(
            [number for number, own in enumerate(versions) if own == version],
            dtype=np.int64,
        )
        digits = [_digits(hashes[number]) for number in members.tolist()]
        cluster_of[members] = members[_clusters_of_one_version(digits, distance)]
    return cluster_of


def _version(text: str | None) -> str:
    """The version of the algorithm that made a hash: what stands before its last dash."""
    version, _, _ = (text or "").rpartition("-")
    return version


def _digits(text: str | None) -> str:
    _, _, digits = (text or "").rpartition("-")
    return digits


def _clusters_of_one_version(
    digits: Sequence[str], distance: int
) -> npt.NDArray[np.int64]:
    """For each hash the position of the first of its cluster; see `clusters`."""
    import numpy as np

    alone = np.arange(len(digits), dtype=np.int64)
    values = np.array(
        [int(text, 16) if text else 0 for text in digits], dtype=np.uint64
    )
    telling = np.flatnonzero(np.bitwise_count(values) >= INFORMATIVE)
    if distance < 0 or len(telling) < 2:
        return alone
    unique, inverse = np.unique(values[telling], return_inverse=True)
    forest = _Forest(len(unique))
    _join(unique, np.arange(len(unique)), np.arange(BITS), distance, forest)
    # A cluster goes by its first member, so numbers of those alone cannot clash with
    # it.
    first = np.full(len(unique), len(digits), dtype=np.int64)
    labels = forest.labels()[inverse]
    np.minimum.at(first, labels, telling)
    alone[telling] = first[labels]
    return alone


class _Forest:
    """Connected components of `n` nodes, given edges bit by bit."""

    def __init__(self, n: int) -> None:
        import numpy as np

        self._labels: npt.NDArray[np.int64] = np.arange(n, dtype=np.int64)
        self._edges: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        self._held = 0

    def add(self, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> None:
        apart = self._labels[left] != self._labels[right]
        if apart.any():
            self._edges.append((left[apart], right[apart]))
            self._held += int(apart.sum())
            if self._held > HELD:
                self.labels()

    def joined(self, members: npt.NDArray[np.int64]) -> bool:
        """Whether all members are in one component already."""
        if len(members) > SMALL:
            labels = self.labels()[members]
        else:
            labels = self._labels[members]
        return bool((labels == labels[0]).all())

    def labels(self) -> npt.NDArray[np.int64]:
        import numpy as np
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if self._edges:
            left, right = (
                np.concatenate(side) for side in zip(*self._edges, strict=True)
            )
            n = len(self._labels)
            ends = (self._labels[left], self._labels[right])
            graph = coo_array((np.ones(len(left), dtype=bool), ends), shape=(n, n))
            self._labels = connected_components(graph, directed=False)[1].astype(
                np.int64
            )[self._labels]
            self._edges = []
            self._held = 0
        return self._labels


def _join(
    hashes: npt.NDArray[np.uint64],
    members: npt.NDArray[np.int64],
    bits: npt.NDArray[np.int64],
    distance: int,
    forest: _Forest,
) -> None:
    """Joins the members at most `distance` apart; they may differ in `bits` only."""
    import numpy as np

    if len(members) <= SMALL:
        _compare(hashes, members, distance, forest)
        return
    own = hashes[members]
    bits, information = _telling_bits(own, bits)
    bands = _choose_bands(len(members), information, distance)
    if bands is None:
        _compare(hashes, members, distance, forest)
        return
    for chosen in combinations(range(bands), bands - distance):
        is_key = np.isin(np.arange(len(bits)) % bands, chosen)
        other_bits = bits[~is_key]
        order, starts, sizes = _buckets(own, bits[is_key])
        _compare_tiny(
            hashes,
            members[order],
            starts[sizes <= TINY],
            sizes[sizes <= TINY],
            distance,
            forest,
        )
        for start, size in zip(
            starts[sizes > TINY].tolist(), sizes[sizes > TINY].tolist(), strict=True
        ):
            bucket = members[order[start : start + size]]
            if not forest.joined(bucket):
                _join(hashes, bucket, other_bits, distance, forest)


def _telling_bits(
    hashes: npt.NDArray[np.uint64], bits: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The bits in which the hashes differ, those that tell most of them apart first,
    and how much each tells: minus the binary logarithm of the share of pairs that agree
    in it (collision entropy), at most 1.
    """
    import numpy as np

    means = []
    for bit in bits.tolist():
        is_set = hashes >> np.uint64(bit) & np.uint64(1)
        means.append(np.mean(is_set))
    shares = np.array(means)
    information = -np.log2(shares**2 + (1 - shares) ** 2)
    order = np.argsort(-information, kind="stable")
    order = order[information[order] > 0]
    return bits[order], information[order]


def _choose_bands(
    count: int, information: npt.NDArray[np.float64], distance: int
) -> int | None:
    """Into how many bands to cut the bits, so that the search takes least; None where
    comparing all pairs takes less.

    Args:
        count: how many hashes there are.
        information: what each bit tells; see `_telling_bits`.
    """
    best = None
    least = count / 2
    for bands in range(distance + 1, len(information) + 1):
        tables = comb(bands, distance)
        if tables > MOST_TABLES:
            break
        known = float(information.sum()) * (bands - distance) / bands
        cost = tables * (TABLE_COST + count / 2**known / 2)
        if cost < least:
            best, least = bands, cost
    return best


def _buckets(
    hashes: npt.NDArray[np.uint64], band: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """An order in which hashes agreeing in the band's bits stand together, and where
    each such bucket of several starts and how many it holds.
    """
    import numpy as np

    bits = np.uint64(1) << band.astype(np.uint64)
    keys = hashes & np.bitwise_or.reduce(bits)
    order = np.argsort(keys)
    ordered = keys[order]
    is_last = np.append(ordered[1:] != ordered[:-1], True)
    ends = np.flatnonzero(is_last) + 1
    starts = np.append(0, ends[:-1])
    sizes = ends - starts
    several = sizes > 1
    return order, starts[several], sizes[several]


def _compare_tiny(
    hashes: npt.NDArray[np.uint64],
    ordered: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    distance: int,
    forest: _Forest,
) -> None:
    """Compares every pair within each bucket: first neighbours, then those two apart,
    and so on.
    """
    import numpy as np

    ordered_hashes = hashes[ordered]  # side by side in memory
    within = (
        np.repeat(starts, sizes)
        + np.arange(sizes.sum())
        - np.repeat(np.cumsum(sizes) - sizes, sizes)
    )
    ends = np.repeat(starts + sizes, sizes)
    for apart in range(1, int(sizes.max(initial=1))):
        within, ends = within[within + apart < ends], ends[within + apart < ends]
        near = within[
            np.bitwise_count(ordered_hashes[within] ^ ordered_hashes[within + apart])
            <= distance
        ]
        forest.add(ordered[near], ordered[near + apart])


def _compare(
    hashes: npt.NDArray[np.uint64],
    members: npt.NDArray[np.int64],
    distance: int,
    forest: _Forest,
) -> None:
    """Compares every pair, a block of rows at a time."""
    import numpy as np

    member_hashes = hashes[members]
    rows = max(1, 4_000_000 // len(members))
    for start in range(0, len(members) - 1, rows):
        if start and forest.joined(members):
            return
        block = member_hashes[start : start + rows]
        near = (
            np.bitwise_count(block[:, None] ^ member_hashes[None, start:]) <= distance
        )
        left, right = np.nonzero(np.triu(near, 1))
        forest.add(members[start + left], members[start + right])
