"""Deals examples into train, val and test, for ever.

What is known keeps its split; then what came with a split keeps that; then examples
that belong together (one group, or near-duplicates) follow the one that has a split;
the rest is dealt by the order of a salted hash. Where these disagree, examples are left
out by name and nothing moves.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.config import SplitConfig
from pipeline.data.duplicates import clusters
from pipeline.manifest import SPLITS, Split
from pipeline.records import Finding

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Splits = dict[str, Split]  # by id

# Of examples that clash, the ones in the first of these stay.
PROTECTED: tuple[Split, ...] = ("test", "val", "train")


@dataclass(frozen=True, slots=True)
class Example:
    """One example, in the dataset or only remembered.

    Args:
        target: its label, or else its stratum; of a known one, as it was when first
            seen.
        group, phash: what it must stay with.
        known: the split the ledger has for it.
        allowed: the splits that what came with the data leaves open: one where it was
            given, all where nothing was.
        present: whether it is in the dataset now.
    """

    id: str
    path: str
    target: str
    group: str | None = None
    phash: str | None = None
    known: Split | None = None
    allowed: tuple[Split, ...] = SPLITS
    present: bool = True


@dataclass
class SplitAssignment:
    """What was dealt.

    Args:
        splits: id → split, of the examples present that were not left out.
        left_out: which were, and why.
    """

    splits: Splits = field(default_factory=dict)
    left_out: list[Finding] = field(default_factory=list)


def assign_splits(examples: Iterable[Example], config: SplitConfig) -> SplitAssignment:
    """Deals the examples; the order they come in changes nothing."""
    known: list[Example] = []
    given: list[Example] = []
    loose: list[Example] = []
    ordered = sorted(examples, key=lambda example: example.id)
    for example in ordered:
        if example.known:
            known.append(example)
        elif len(example.allowed) == 1:
            given.append(example)
        elif example.allowed:
            loose.append(example)
    left_out: list[Finding] = []
    splits = _keep_known(known, config, left_out)
    still_known = [example for example in known if example.id in splits]
    splits |= _keep_given(given, still_known, splits, config, left_out)
    decided = [example for example in (*known, *given) if example.id in splits]
    followers, units = _follow(loose, decided, splits, config, left_out)
    splits |= followers
    following = [example for example in loose if example.id in followers]
    counts = _counts([*decided, *following], splits)
    splits |= _assign_new_groups(units, counts, config)
    present = {example.id for example in ordered if example.present}
    of_present = {}
    for identity, split in splits.items():
        if identity in present:
            of_present[identity] = split
    return SplitAssignment(of_present, left_out)


def together(examples: Sequence[Example], distance: int) -> Iterator[list[Example]]:
    """The examples in sets that belong together, joined by groups and near-duplicates
    in any chain; each set in the examples' order, and the sets in the order of their
    first examples.

    One set at a time: a million sets of one example, held at once, take more memory
    than the examples.
    """
    import numpy as np

    if not examples:
        return
    near = clusters([example.phash for example in examples], distance)
    numbers = components(examples, near)
    _, first, sizes = np.unique(numbers, return_index=True, return_counts=True)
    by_set = np.argsort(first[numbers], kind="stable")
    start = 0
    for size in sizes[np.argsort(first)].tolist():
        yield [examples[position] for position in by_set[start : start + size].tolist()]
        start += size


def components(
    examples: Sequence[Example], near: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """A number for each example (N,), counted from 0, the same for those that belong
    together.

    Args:
        near: the examples' clusters of near-duplicates (N,), as `clusters` numbers
            them.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first: dict[str, int] = {}
    grouped = np.arange(len(examples))
    for position, example in enumerate(examples):
        if example.group is not None:
            grouped[position] = first.setdefault(example.group, position)
    every = np.arange(len(examples))
    ends = (np.concatenate([every, every]), np.concatenate([near, grouped]))
    graph = coo_array(
        (np.ones(2 * len(every), dtype=bool), ends), shape=(len(every), len(every))
    )
    _, numbers = connected_components(graph, directed=False)
    return np.asarray(numbers, dtype=np.int64)


def _keep_known(
    known: Sequence[Example], config: SplitConfig, left_out: list[Finding]
) -> Splits:
    """Known examples keep their split. Where regrouping, or a wider notion of
    near-duplicates, puts known examples of different splits together, only those in the
    most protected split stay.
    """
    splits: Splits = {example.id: example.known for example in known if example.known}
    for clash in _clashes(
        [example for example in known if example.present], splits, config
    ):
        left_out.append(
            _finding(
                "known-clash",
                clash,
                splits,
                "belong together with known examples of a more protected split",
            )
        )
        for example in clash:
            del splits[example.id]
    return splits


def _keep_given(
    given: Sequence[Example],
    known: Sequence[Example],
    known_splits: Splits,
    config: SplitConfig,
    left_out: list[Finding],
) -> Splits:
    """Given splits are kept, unless what is known belongs together with them in another
    split; among given ones that clash, those in the most protected split stay.
    """
    if not given:
        return {}
    splits: Splits = {example.id: example.allowed[0] for example in given}
    unbound: list[Example] = []
    for members in together([*known, *given], config.near_duplicates):
        new = [example for example in members if not example.known]
        bound = {known_splits[example.id] for example in members if example.known}
        clash = [example for example in new if bound and bound != {splits[example.id]}]
        if clash:
            left_out.append(_bridging(clash, bound))
            for example in clash:
                del splits[example.id]
        if not bound:
            unbound += new
    for clash in _clashes(unbound, splits, config):
        left_out.append(
            _finding(
                "given-clash",
                clash,
                splits,
                "belong together with examples given for another split",
            )
        )
        for example in clash:
            del splits[example.id]
    return splits


def _follow(
    loose: Sequence[Example],
    decided: Sequence[Example],
    splits: Splits,
    config: SplitConfig,
    left_out: list[Finding],
) -> tuple[Splits, list[list[Example]]]:
    """Examples that belong together with decided ones follow them; the sets that remain
    are to be dealt.
    """
    followers: Splits = {}
    units = []
    for members in together([*decided, *loose], config.near_duplicates):
        new = [example for example in members if example.id not in splits]
        bound = {splits[example.id] for example in members if example.id in splits}
        if not bound and new:
            units.append(new)
            continue
        stray = []
        for example in new:
            if len(bound) > 1 or not bound.issubset(example.allowed):
                stray.append(example)
        if stray:
            left_out.append(_bridging(stray, bound))
        outside = {example.id for example in stray}
        followers |= {
            example.id: next(iter(bound))
            for example in new
            if example.id not in outside
        }
    return followers, units


def _assign_new_groups(
    units: list[list[Example]], counts: dict[str, Counter[Split]], config: SplitConfig
) -> Splits:
    """Deals sets of examples, each by its commonest label, in the order of their salted
    hashes.

    A set goes where (2 × examples there + its size) / fraction is least: the divisor
    method of Webster and Sainte-Laguë, which keeps the fractions at every moment of a
    dataset's growth and weighs large groups. The last sets of a class go to splits that
    have none of it.
    """
    splits: Splits = {}
    to_come = Counter(map(_label, units))
    for unit in sorted(units, key=lambda unit: _hash(unit, config.seed)):
        label = _label(unit)
        present = counts[label]
        size = sum(example.target == label for example in unit)
        choice = _open_splits(unit)
        empty = [split for split in choice if not present[split]]
        if empty and to_come[label] <= len(empty):
            choice = empty
        quotients = {}
        for split in choice:
            fraction = getattr(config.fractions, split)
            quotients[split] = (2 * present[split] + size) / fraction
        best = min(choice, key=lambda split: quotients[split])
        to_come[label] -= 1
        for example in unit:
            splits[example.id] = best
            counts[example.target][best] += 1
    return splits


def _open_splits(unit: Sequence[Example]) -> list[Split]:
    """The splits that every example of a unit may be dealt into."""
    open_splits = set(SPLITS)
    for example in unit:
        open_splits.intersection_update(example.allowed)
    return [split for split in SPLITS if split in open_splits]


def _clashes(
    examples: Sequence[Example], splits: Splits, config: SplitConfig
) -> list[list[Example]]:
    """Of every set that belongs together across splits, the examples that are not in
    its most protected split.
    """
    clashes = []
    for members in together(examples, config.near_duplicates):
        group_splits = {splits[example.id] for example in members}
        if len(group_splits) > 1:
            stays = next(split for split in PROTECTED if split in group_splits)
            clashes.append(
                [example for example in members if splits[example.id] != stays]
            )
    return clashes


def _counts(examples: Iterable[Example], splits: Splits) -> dict[str, Counter[Split]]:
    counts: dict[str, Counter[Split]] = defaultdict(Counter)
    for example in examples:
        counts[example.target][splits[example.id]] += 1
    return counts


def _label(unit: Sequence[Example]) -> str:
    """The commonest label; of equally common ones the first by name."""
    if len(unit) == 1:
        return unit[0].target
    counts = Counter(example.target for example in unit)
    largest = max(counts.values())
    commonest = [label for label, count in counts.items() if count == largest]
    return min(commonest)


def _hash(unit: Sequence[Example], seed: int) -> bytes:
    names = set()
    for example in unit:
        if example.group is None:
            names.add(example.id)
        else:
            names.add(f"group {example.group}")
    salted = [f"{seed} {name}" for name in names]
    return min(hashlib.sha256(text.encode()).digest() for text in salted)


def _bridging(examples: Sequence[Example], splits: Iterable[Split]) -> Finding:
    own_splits = set(splits)
    where = " and ".join(split for split in SPLITS if split in own_splits)
    found = f"belong together with examples of {where}"
    allowed: set[Split] = set()
    for example in examples:
        allowed.update(example.allowed)
    if len(allowed) < len(SPLITS):
        given_for = ", ".join(split for split in SPLITS if split in allowed)
        found += f", but were given for {given_for}"
    return Finding(
        code="bridging",
        severity="warning",
        subject=_some(examples),
        found=found,
        expected="new examples that belong to one split",
        items=tuple(sorted(example.path for example in examples)),
    )


def _finding(
    code: str, examples: Sequence[Example], splits: Splits, found: str
) -> Finding:
    own_splits = {splits[example.id] for example in examples}
    where = " and ".join(split for split in SPLITS if split in own_splits)
    return Finding(
        code=code,
        severity="warning",
        subject=f"{_some(examples)} of {where}",
        found=found,
        expected="groups and near-duplicates in one split",
        items=tuple(sorted(example.path for example in examples)),
    )


def _some(examples: Sequence[Example]) -> str:
    ending = "s" if len(examples) > 1 else ""
    return f"{len(examples)} example{ending}"
