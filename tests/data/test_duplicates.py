"""Near-duplicate clusters: exact, and quick where hashes crowd together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse.csgraph import connected_components

from pipeline.data import duplicates
from pipeline.data.duplicates import clusters

Hashes = npt.NDArray[np.uint64]


def text(hashes: Hashes) -> list[str]:
    return [f"{value:016x}" for value in hashes.tolist()]


def partition(labels: npt.NDArray[np.int64]) -> list[int]:
    """Labels renamed by first appearance, so that two partitions can be compared."""
    names: dict[int, int] = {}
    return [names.setdefault(label, len(names)) for label in labels.tolist()]


def crowd(rng: np.random.Generator, count: int, bits: int) -> Hashes:
    """Hashes about a few centres, differing from them in bits below `bits`."""
    centres = rng.integers(0, 2**64, max(2, count // 20), dtype=np.uint64) | np.uint64(
        0xFFFF << 40
    )
    hashes = centres[rng.integers(0, len(centres), count)]
    for _ in range(rng.integers(0, 6)):
        hashes ^= np.uint64(1) << rng.integers(0, bits, count).astype(np.uint64)
    return hashes


@pytest.mark.parametrize(("tiny", "small"), [(64, 4096), (1, 2), (3, 16)])
def test_clusters_are_those_of_comparing_all_pairs(
    tiny: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "TINY", tiny)
    monkeypatch.setattr(duplicates, "SMALL", small)
    # Cut few hashes too.
    monkeypatch.setattr(
        duplicates, "TABLE_COST", 0.0 if small < 4096 else duplicates.TABLE_COST
    )
    monkeypatch.setattr(duplicates, "MOST_TABLES", 30)
    rng = np.random.default_rng(0)
    for distance in range(13):
        hashes = crowd(rng, 200, bits=20 if distance % 2 else 64)
        near = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= distance
        assert partition(clusters(text(hashes), distance)) == partition(
            connected_components(near, directed=False)[1]
        )


@pytest.mark.parametrize(
    ("count", "bits", "distance", "bands"),
    [
        (100_000, 64, 4, 5),
        # Of 7 bands each is shared by 2,000 hashes, of 8 each two by 15.
        (1_000_000, 64, 6, 8),
        (1_000_000, 12, 6, None),  # no choice of bands tells enough apart
        (20, 64, 4, None),
        (1_000_000, 5, 6, None),
    ],
)
def test_as_many_bands_as_make_the_search_short(
    count: int, bits: int, distance: int, bands: int | None
) -> None:
    assert duplicates._choose_bands(count, np.ones(bits), distance) == bands


def test_bits_that_most_hashes_share_tell_less() -> None:
    hashes = np.array([0b001, 0b001, 0b011, 0b111], dtype=np.uint64)
    bits, information = duplicates._telling_bits(hashes, np.arange(64))
    assert bits.tolist() == [1, 2]
    assert information[0] == 1
    assert 0 < information[1] < 1


def test_chains_join() -> None:
    base = 0xF0F0F0F0F0F0F0F0
    chain = [f"{base ^ (2 ** (4 * step) - 1):016x}" for step in range(4)]
    assert len(set(clusters(chain, 4).tolist())) == 1
    assert len(set(clusters(chain, 3).tolist())) == 4


def test_a_flat_pictures_hash_says_nothing() -> None:
    assert len(set(clusters(["8000000000000000"] * 3 + [None] * 2, 4).tolist())) == 5


def test_off() -> None:
    assert len(set(clusters(["f0f0f0f0f0f0f0f0"] * 3, -1).tolist())) == 3


@pytest.mark.timeout(180)  # comparing all pairs takes minutes
@pytest.mark.parametrize(
    "kind", ["random", "one-band", pytest.param("ball", marks=pytest.mark.slow), "flat"]
)
def test_a_hundred_thousand(kind: str) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 100_000, dtype=np.uint64)
    if kind == "one-band":
        hashes |= np.uint64(0x1FFF << 51)
    elif kind == "ball":
        hashes = np.uint64(0xF0F0F0F0F0F0F0F0) ^ (
            hashes
            & hashes >> np.uint64(3)
            & hashes >> np.uint64(11)
            & hashes >> np.uint64(29)
        )
    elif kind == "flat":
        hashes[:] = np.uint64(2**63)
    listed = text(hashes)
    assert len(clusters(listed, 4)) == len(listed)


def test_hashes_of_different_algorithms_are_never_near() -> None:
    digits = "0cb4afadaff4c2d7"
    found = clusters([digits, f"s1-{digits}", f"s1-{digits}", digits], 4).tolist()
    assert found == [0, 1, 1, 0]
