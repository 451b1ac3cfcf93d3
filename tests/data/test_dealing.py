"""Dealing into train, val and test: fractions, permanence, groups, given splits."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace

import pytest

from pipeline.config import SplitConfig, SplitFractions
from pipeline.data.split_assignment import (
    Example,
    SplitAssignment,
    assign_splits,
    together,
)
from pipeline.manifest import SPLITS, Split

CONFIG = SplitConfig()


def example(name: str, target: str = "a", **given: object) -> Example:
    return replace(
        Example(hashlib.md5(name.encode()).hexdigest(), name, target), **given
    )  # type: ignore[arg-type]


def many(prefix: str, count: int, target: str = "a", **given: object) -> list[Example]:
    return [example(f"{prefix}{i}", target, **given) for i in range(count)]


def remembered(examples: list[Example], dealing: SplitAssignment) -> list[Example]:
    return [
        replace(e, known=dealing.splits[e.id])
        for e in examples
        if e.id in dealing.splits
    ]


def by_path(examples: list[Example], dealing: SplitAssignment) -> dict[str, Split]:
    return {e.path: dealing.splits[e.id] for e in examples if e.id in dealing.splits}


def left_out(dealing: SplitAssignment, code: str) -> list[str]:
    return [
        item
        for finding in dealing.left_out
        if finding.code == code
        for item in finding.items
    ]


def near(phash: int, *bits: int) -> str:
    for bit in bits:
        phash ^= 1 << bit
    return f"{phash:016x}"


def hashes(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.getrandbits(64) for _ in range(count)]


def test_fractions_are_kept_per_class() -> None:
    examples = many("a", 200, "a") + many("b", 20, "b") + many("c", 1000, "c")
    dealing = assign_splits(examples, CONFIG)
    for target, size in (("a", 200), ("b", 20), ("c", 1000)):
        counts = Counter(dealing.splits[e.id] for e in examples if e.target == target)
        for split in SPLITS:
            assert counts[split] == pytest.approx(
                getattr(CONFIG.fractions, split) * size, abs=1
            )


def test_growing_three_times_moves_nothing_and_keeps_the_fractions() -> None:
    rng = random.Random(1)
    remembering: list[Example] = []
    for growth in range(4):
        new = many(f"a{growth}-", rng.randint(5, 60), "a") + many(
            f"b{growth}-", rng.randint(1, 90), "b"
        )
        new = [
            replace(e, group=f"{growth}-{rng.randint(0, 40)}-{e.target}") for e in new
        ]
        dealing = assign_splits(remembering + new, CONFIG)
        before = {e.id: e.known for e in remembering}
        assert {i: dealing.splits[i] for i in before} == before
        remembering = remembered(remembering + new, dealing)
        assert len(remembering) == len(dealing.splits)
        for target in "ab":
            counts = Counter(e.known for e in remembering if e.target == target)
            for split in SPLITS:
                wanted = getattr(CONFIG.fractions, split) * counts.total()
                # A group is up to a handful.
                assert counts[split] == pytest.approx(wanted, abs=5)


def test_the_order_of_the_listing_changes_nothing() -> None:
    examples = [replace(e, group=f"g{i // 3}") for i, e in enumerate(many("x", 90))]
    shuffled = examples.copy()
    random.Random(2).shuffle(shuffled)
    assert assign_splits(examples, CONFIG) == assign_splits(shuffled, CONFIG)


def test_another_seed_deals_otherwise() -> None:
    examples = many("x", 90)
    assert (
        assign_splits(examples, CONFIG).splits
        != assign_splits(examples, SplitConfig(seed=1)).splits
    )


@pytest.mark.parametrize("groups", [3, 4, 7])
def test_a_class_of_three_groups_is_in_every_split(groups: int) -> None:
    rng = random.Random(groups)
    for trial in range(50):
        examples = [
            example(f"{trial}-{g}-{i}", group=f"{trial}-{g}")
            for g in range(groups)
            for i in range(rng.randint(1, 30))
        ]
        assert set(assign_splits(examples, CONFIG).splits.values()) == set(SPLITS)


def test_groups_and_near_duplicates_stay_together() -> None:
    rng = random.Random(3)
    for trial in range(40):
        base = hashes(30, trial)
        examples = [
            example(
                f"{trial}-{i}",
                rng.choice("abc"),
                group=rng.choice([None, f"g{rng.randint(0, 20)}"]),
                phash=near(rng.choice(base), rng.randint(0, 63)),
            )
            for i in range(80)
        ]
        dealing = assign_splits(examples, CONFIG)
        assert len(dealing.splits) == len(examples)
        for members in together(examples, CONFIG.near_duplicates):
            assert len({dealing.splits[e.id] for e in members}) == 1


def test_a_new_example_follows_its_group_or_its_near_duplicate() -> None:
    h = hashes(2)
    known = [
        example("k1", known="test", group="patient"),
        example("k2", known="val", phash=near(h[0])),
        example("gone", known="test", phash=near(h[1]), present=False),
    ]
    new = [
        example("n1", group="patient"),
        example("n2", phash=near(h[0], 1, 2, 3, 4)),
        example("n3", phash=near(h[1], 5)),
    ]
    assert by_path(known + new, assign_splits(known + new, CONFIG)) == {
        "k1": "test",
        "k2": "val",
        "n1": "test",
        "n2": "val",
        "n3": "test",
    }


def test_five_bits_apart_is_not_a_near_duplicate() -> None:
    h = hashes(1)[0]
    assert (
        len(
            list(
                together(
                    [
                        example("a", phash=near(h)),
                        example("b", phash=near(h, 1, 2, 3, 4, 5)),
                    ],
                    4,
                )
            )
        )
        == 2
    )
    assert (
        len(
            list(
                together(
                    [
                        example("a", phash=near(h)),
                        example("b", phash=near(h, 1, 2, 3, 4)),
                    ],
                    4,
                )
            )
        )
        == 1
    )
    assert (
        len(
            list(
                together([example("a", phash=near(h)), example("b", phash=near(h))], -1)
            )
        )
        == 2
    )


def test_a_bridging_example_is_left_out_by_name_and_nothing_moves() -> None:
    h = hashes(1)[0]
    known = [
        example("k1", known="train", group="g"),
        example("k2", known="test", phash=near(h)),
    ]
    bridge = example("bridge", group="g", phash=near(h, 1))
    dealing = assign_splits([*known, bridge], CONFIG)
    assert by_path([*known, bridge], dealing) == {"k1": "train", "k2": "test"}
    assert left_out(dealing, "bridging") == ["bridge"]


def test_given_splits_are_kept() -> None:
    examples = [e for s in SPLITS for e in many(s, 10, allowed=(s,))]
    assert all(
        path.startswith(split)
        for path, split in by_path(examples, assign_splits(examples, CONFIG)).items()
    )


def test_a_split_that_was_not_given_is_dealt_from_train() -> None:
    examples = many("train", 100, allowed=("train", "val")) + many(
        "test", 40, allowed=("test",)
    )
    dealing = assign_splits(examples, CONFIG)
    counts = Counter(dealing.splits.values())
    assert counts["test"] == 40
    assert counts["val"] == pytest.approx(100 * 0.15 / 0.85, abs=1)


def test_near_duplicates_across_given_splits_are_dropped_from_train() -> None:
    h = hashes(1)[0]
    examples = [
        example("a", allowed=("train",), phash=near(h)),
        example("b", allowed=("test",), phash=near(h, 1)),
        example("c", allowed=("train",)),
    ]
    dealing = assign_splits(examples, CONFIG)
    assert by_path(examples, dealing) == {"b": "test", "c": "train"}
    assert left_out(dealing, "given-clash") == ["a"]


def test_near_duplicates_of_a_given_test_are_dropped_from_a_train_that_validation_is_dealt_from() -> (
    None
):
    h = hashes(1)[0]
    examples = [
        example("a", allowed=("train", "val"), phash=near(h)),
        example("b", allowed=("test",), phash=near(h, 1)),
        *many("t", 20, allowed=("train", "val")),
    ]
    dealing = assign_splits(examples, CONFIG)
    assert left_out(dealing, "bridging") == ["a"]
    assert len(dealing.splits) == 21


def test_a_group_across_given_splits_is_reported_and_does_not_leak() -> None:
    examples = [
        example(f"{s}{i}", group="g", allowed=(s,)) for s in SPLITS for i in range(2)
    ]
    dealing = assign_splits(examples, CONFIG)
    assert by_path(examples, dealing) == {"test0": "test", "test1": "test"}
    assert left_out(dealing, "given-clash") == ["train0", "train1", "val0", "val1"]


def test_the_ledger_goes_before_a_given_split() -> None:
    known = example("k", known="train", allowed=("test",))
    assert assign_splits([known], CONFIG).splits == {known.id: "train"}


def test_a_new_given_example_that_contradicts_a_known_one_is_left_out() -> None:
    known, new = (
        example("k", known="test", group="g"),
        example("n", allowed=("train",), group="g"),
    )
    dealing = assign_splits([known, new], CONFIG)
    assert by_path([known, new], dealing) == {"k": "test"}
    assert left_out(dealing, "bridging") == ["n"]


def test_regrouping_known_examples_across_splits_keeps_the_test_side() -> None:
    examples = [
        example("k1", known="train", group="g"),
        example("k2", known="test", group="g"),
    ]
    dealing = assign_splits(examples, CONFIG)
    assert by_path(examples, dealing) == {"k2": "test"}
    assert left_out(dealing, "known-clash") == ["k1"]


def test_a_huge_group_goes_where_it_fits() -> None:
    for trial in range(20):
        examples = many(f"{trial}-", 100) + many(f"{trial}big", 100, group="big")
        dealing = assign_splits(examples, SplitConfig(seed=trial))
        assert {dealing.splits[e.id] for e in examples if e.group} == {"train"}


def test_own_fractions() -> None:
    config = SplitConfig(fractions=SplitFractions(train=0.5, val=0.25, test=0.25))
    counts = Counter(assign_splits(many("x", 100), config).splits.values())
    assert counts == {"train": 50, "val": 25, "test": 25}


def test_random_histories_never_move_or_leak() -> None:
    rng = random.Random(4)
    for trial in range(25):
        base, store = hashes(25, trial), {}
        for batch in range(4):
            new = [
                example(
                    f"{trial}-{batch}-{i}",
                    rng.choice("ab"),
                    group=rng.choice([None, None, f"g{rng.randint(0, 30)}"]),
                    phash=rng.choice(
                        [
                            None,
                            near(
                                rng.choice(base), rng.randint(0, 63), rng.randint(0, 63)
                            ),
                        ]
                    ),
                    allowed=rng.choice([SPLITS, SPLITS, SPLITS, ("train",), ("test",)]),
                )
                for i in range(30)
            ]
            gone = [replace(e, present=rng.random() < 0.8) for e in store.values()]
            examples = gone + new
            rng.shuffle(examples)
            dealing = assign_splits(examples, CONFIG)
            out = {item for finding in dealing.left_out for item in finding.items}
            here = [e for e in examples if e.present]
            assert {e.path for e in here} == out | {
                e.path for e in here if e.id in dealing.splits
            }
            for e in here:
                assert (
                    e.known is None
                    or e.id not in dealing.splits
                    or dealing.splits[e.id] == e.known
                )
            for members in together(
                [e for e in here if e.id in dealing.splits], CONFIG.near_duplicates
            ):
                assert len({dealing.splits[e.id] for e in members}) == 1
            store |= {
                e.id: replace(e, known=dealing.splits[e.id])
                for e in new
                if e.id in dealing.splits
            }
