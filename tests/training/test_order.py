"""Counted randomness: an epoch follows from (seed, epoch, id) alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from pipeline.training import sampling

IDS = [hashlib.md5(str(n).encode()).hexdigest() for n in range(200)]
KEYS = sampling.keys(IDS)


def test_the_order_of_an_epoch_does_not_depend_on_how_examples_were_listed() -> None:
    listed = np.random.default_rng(0).permutation(len(IDS))
    shown = [IDS[row] for row in sampling.shuffle(KEYS, 7, 3)]
    others = sampling.keys([IDS[row] for row in listed])
    assert shown == [IDS[listed[row]] for row in sampling.shuffle(others, 7, 3)]


def test_epochs_and_seeds_differ_and_each_shows_everything_once() -> None:
    orders = [
        tuple(sampling.shuffle(KEYS, seed, epoch))
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    ]
    assert len(set(orders)) == len(orders)
    assert all(sorted(o) == list(range(len(IDS))) for o in orders)


def test_an_order_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert (
        sampling.shuffle(KEYS[:10], 0, 0).tolist()
        == sampling.shuffle(KEYS[:10].copy(), 0, 0).tolist()
    )
    assert sampling.derive_seed("seed", 1, "x") == 2092584319531398197
    assert sampling.mix(np.array([0], np.uint64)).tolist() == [16294208416658607535]


def test_over_as_many_epochs_as_views_every_example_shows_each_view_once() -> None:
    shown = np.stack([sampling.views(KEYS, epoch, 5) for epoch in range(11, 16)])
    assert np.array_equal(
        np.sort(shown, axis=0), np.repeat(np.arange(5)[:, None], len(IDS), axis=1)
    )
    assert len(set(shown[0].tolist())) == 5


def test_views_follow_the_formula() -> None:
    assert [(3 + int(key) % 4) % 4 for key in KEYS.tolist()] == sampling.views(
        KEYS, 3, 4
    ).tolist()


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_balanced_sampling_shows_every_class_equally_often(epoch: int) -> None:
    classes = np.array([0] * 150 + [1] * 45 + [2] * 5)
    rows, repeats = sampling.balanced(KEYS, classes, seed=0, epoch=epoch)
    assert sorted(np.bincount(classes[rows]).tolist()) == [66, 67, 67]
    rare = rows[classes[rows] == 2]
    assert set(np.bincount(rare)[195:]) <= {12, 13, 14, 15}, (
        "67 places are 13 rounds of 5, cut at both ends"
    )
    assert repeats.max() in (12, 13, 14)


def test_balanced_sampling_gives_every_example_its_turn_before_any_comes_again() -> (
    None
):
    """Ten examples in classes of 4, 3 and 3: the class that is shown once more differs
    by epoch.
    """
    classes = np.array([0] * 4 + [1] * 3 + [2] * 3)
    keys = sampling.keys(IDS[:10])
    shown = np.zeros(10, int)
    for epoch in range(12):
        rows, _ = sampling.balanced(keys, classes, 0, epoch)
        shown += np.bincount(rows, minlength=10)
        for label in range(3):
            counts = shown[classes == label]
            assert counts.max() - counts.min() <= 1, (
                f"class {label} lost a turn by epoch {epoch}"
            )


def test_balanced_sampling_comes_round_to_every_example() -> None:
    classes = np.array([0] * 190 + [1] * 10)
    seen = np.concatenate(
        [sampling.balanced(KEYS, classes, 0, epoch)[0] for epoch in range(2)]
    )
    assert set(range(190)) <= set(seen.tolist())


def test_balanced_sampling_forgets_the_listing_too() -> None:
    classes = np.arange(len(IDS)) % 3
    listed = np.random.default_rng(1).permutation(len(IDS))
    rows, _ = sampling.balanced(KEYS, classes, 0, 2)
    others, _ = sampling.balanced(
        sampling.keys([IDS[row] for row in listed]), classes[listed], 0, 2
    )
    assert [IDS[row] for row in rows] == [IDS[listed[row]] for row in others]


@pytest.mark.parametrize("count", [1, 7, 32, 33, 65, 100])
def test_batches_are_alike_and_none_is_a_single_leftover(count: int) -> None:
    sizes = [len(part) for part in sampling.batches(np.arange(count), 32)]
    assert sum(sizes) == count
    assert max(sizes) <= 32
    assert max(sizes) - min(sizes) <= 1
