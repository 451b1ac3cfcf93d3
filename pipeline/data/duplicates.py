"""Near-duplicates: which examples' 64-bit perceptual hashes lie so close that they count as the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BITS = 64
INFORMATIVE = 16  # bits set: a picture's hash has about half of them, that of a flat one nearly none
TINY = 64  # buckets up to this size are compared many at once
SMALL = 4096  # buckets up to this size are compared pair by pair, larger ones cut again
HELD = 1_000_000  # edges kept before they are merged: bounds the memory that dense clusters take


def clusters(hashes: Sequence[str | None], distance: int) -> npt.NDArray[np.int64]:
    """A cluster number for each example; examples joined by a chain of near-duplicates share one.

    Args:
        hashes: 16 hex digits each, behind the version of their algorithm and a dash where it has one, or None where there
            is no hash. Hashes of different versions are never near.
        distance: most bits in which near-duplicates differ, 0–64; below 0 every example is on its own.

    The search is exact. Hashes are cut into `distance + 1` bands, and by the pigeonhole principle two hashes at
    most `distance` bits apart agree in one band (Manku, Jain and Das Sarma 2007, section 3), so only hashes sharing
    a band are compared; a band that many share is cut again by its remaining bits. Equal hashes count as one. Time
    and memory stay near linear up to a distance of about 10; above, bands are too short to tell hashes apart and
    time grows with the square (100,000 hashes: seconds).
    """
    import numpy as np

    found = np.arange(len(hashes), dtype=np.int64)
    versions = [_version(text) for text in hashes]
    for version in sorted(set(versions)):
        members = np.array([number for number, own in enumerate(versions) if own == version], dtype=np.int64)
        digits = [_digits(hashes[number]) for number in members.tolist()]
        found[members] = members[_clusters_of_one_version(digits, distance)]
    return found


def _version(text: str | None) -> str:
    """The version of the algorithm that made a hash: what stands before its last dash."""
    return (text or "").rpartition("-")[0]


def _digits(text: str | None) -> str:
    return (text or "").rpartition("-")[2]


def _clusters_of_one_version(digits: Sequence[str], distance: int) -> npt.NDArray[np.int64]:
    """For each hash the position of the first of its cluster; see `clusters`."""
    import numpy as np

    alone = np.arange(len(digits), dtype=np.int64)
    values = np.array([int(text, 16) if text else 0 for text in digits], dtype=np.uint64)
    telling = np.flatnonzero(np.bitwise_count(values) >= INFORMATIVE)
    if distance < 0 or len(telling) < 2:
        return alone
    unique, inverse = np.unique(values[telling], return_inverse=True)
    forest = _Forest(len(unique))
    _join(unique, np.arange(len(unique)), np.arange(BITS), distance, forest)
    # A cluster goes by its first member, so numbers of those alone cannot clash with it.
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
        labels = self.labels()[members] if len(members) > SMALL else self._labels[members]
        return bool((labels == labels[0]).all())

    def labels(self) -> npt.NDArray[np.int64]:
        import numpy as np
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if self._edges:
            left, right = (np.concatenate(side) for side in zip(*self._edges, strict=True))
            n = len(self._labels)
            ends = (self._labels[left], self._labels[right])
            graph = coo_array((np.ones(len(left), dtype=bool), ends), shape=(n, n))
            self._labels = connected_components(graph, directed=False)[1].astype(np.int64)[self._labels]
            self._edges, self._held = [], 0
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

    varying = np.bitwise_or.reduce(hashes[members] ^ hashes[members[0]])
    bits = bits[(varying >> bits.astype(np.uint64)) & np.uint64(1) == 1]
    if len(members) <= SMALL or 2 ** (len(bits) / (distance + 1)) <= 2 * (distance + 1):
        _compare(hashes, members, distance, forest)
        return
    for band in np.array_split(bits, distance + 1):
        rest = np.setdiff1d(bits, band)
        order, starts, sizes = _buckets(hashes[members], band)
        _compare_tiny(hashes, members[order], starts[sizes <= TINY], sizes[sizes <= TINY], distance, forest)
        for start, size in zip(starts[sizes > TINY].tolist(), sizes[sizes > TINY].tolist(), strict=True):
            found = members[order[start : start + size]]
            if not forest.joined(found):
                _join(hashes, found, rest, distance, forest)


def _buckets(
    hashes: npt.NDArray[np.uint64], band: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """An order in which hashes agreeing in the band's bits stand together, and where each such bucket of several
    starts and how many it holds."""
    import numpy as np

    keys = hashes & np.bitwise_or.reduce(np.uint64(1) << band.astype(np.uint64))
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.append(keys[order][1:] != keys[order][:-1], True)) + 1
    starts = np.append(0, ends[:-1])
    several = ends - starts > 1
    return order, starts[several], (ends - starts)[several]


def _compare_tiny(
    hashes: npt.NDArray[np.uint64],
    ordered: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    distance: int,
    forest: _Forest,
) -> None:
    """Compares every pair within each bucket: first neighbours, then those two apart, and so on."""
    import numpy as np

    within = np.repeat(starts, sizes) + np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    ends = np.repeat(starts + sizes, sizes)
    for apart in range(1, int(sizes.max(initial=1))):
        within, ends = within[within + apart < ends], ends[within + apart < ends]
        left, right = ordered[within], ordered[within + apart]
        near = np.bitwise_count(hashes[left] ^ hashes[right]) <= distance
        forest.add(left[near], right[near])


def _compare(hashes: npt.NDArray[np.uint64], members: npt.NDArray[np.int64], distance: int, forest: _Forest) -> None:
    """Compares every pair, a block of rows at a time."""
    import numpy as np

    found = hashes[members]
    rows = max(1, 4_000_000 // len(members))
    for start in range(0, len(members) - 1, rows):
        if start and forest.joined(members):
            return
        block = found[start : start + rows]
        near = np.bitwise_count(block[:, None] ^ found[None, start:]) <= distance
        left, right = np.nonzero(np.triu(near, 1))
        forest.add(members[start + left], members[start + right])
