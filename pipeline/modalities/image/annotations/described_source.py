"""What someone's annotated images are taken for, before a workspace is made of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pipeline.config import SplitFractions
from pipeline.data.layout import METADATA
from pipeline.errors import DataError
from pipeline.manifest import SPLITS
from pipeline.modalities.image.annotations.given_splits import GivenSplits
from pipeline.text import pluralize, printable

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
NAMED = 12  # classes and folders that a note names


class DescribedSource(NamedTuple):
    """How a folder is laid out.

    Args:
        settings: what the task's section of params.yaml is to say of it.
        notes: what the user is told.
        training_images: how many images there are to train on, about.
    """

    settings: dict[str, Any]
    notes: tuple[str, ...]
    training_images: int


def refuse_file(source: Path) -> None:
    """Makes sure that the source is a folder.

    Raises:
        DataError: it is a file.
    """
    if not source.is_dir():
        is_archive = source.name.lower().endswith(ARCHIVES)
        raise DataError(
            printable(str(source)),
            found="an archive" if is_archive else "a file",
            expected="a folder of images and their annotations",
            hint="unpack it and name the folder"
            if is_archive
            else "name the folder that holds both",
        )


def count_training_images(splits: GivenSplits, images: Collection[str]) -> int:
    """How many images are given to train on; where no splits are given, how many Thaw
    will assign, about.
    """
    used = set(images)
    given = [split for path, split in splits.of_image.items() if path in used]
    if given:
        return given.count("train")
    return round(SplitFractions().train * len(used))


def describe_splits(splits: GivenSplits, images: Collection[str]) -> str:
    """Where the splits came from, and how many images each has."""
    used = set(images)
    counts = Counter(split for path, split in splits.of_image.items() if path in used)
    if not counts:
        return "splits: none given; Thaw assigns train, val and test"
    counted = ", ".join(f"{name} {counts[name]:,}" for name in SPLITS if counts[name])
    origin = (
        ", ".join(splits.lists) if splits.lists else "the names of folders and files"
    )
    unsplit_count = len(images) - counts.total()
    unsplit = f"; {pluralize(unsplit_count, 'image')} in none" if unsplit_count else ""
    if not counts["train"]:
        unsplit += "; none to train on: add them, or set split.given: ignore"
    return f"splits: {counted}, from {origin}{unsplit}"


def describe_groups(source: Path) -> tuple[str, ...]:
    """Whether there is a table that names groups."""
    if os.path.lexists(source / METADATA):
        return (f"groups and further columns: from {METADATA}",)
    return ()


def describe_skipped(
    count: int, what: str, settings: Mapping[str, Any]
) -> tuple[str, ...]:
    """How many images do not belong to the data, where it is so."""
    if settings.get("unannotated") != "skip":
        return ()
    left = pluralize(count, "image")
    return (
        f"not annotated: {left} without {what}, left out (unannotated: skip; empty if "
        "they show nothing)",
    )


def describe_counts(counts: Mapping[str, int], what: str) -> str:
    """Each name with its number, the first few."""
    parts = []
    for name, count in list(counts.items())[:NAMED]:
        parts.append(f"{name} ({count:,})")
    named = ", ".join(parts)
    if len(counts) <= NAMED:
        return f"{what}: {named}"
    return f"{what}: {named} and {len(counts) - NAMED} more"


def folders_of(paths: Iterable[str]) -> str:
    """The folders that files lie in, those nearest the top in words."""
    counts = Counter(str(PurePosixPath(path).parent) for path in paths)
    names = [
        "the folder itself" if folder == "." else folder for folder in sorted(counts)
    ]
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more folders"
    return ", ".join(names)


def evenly(items: Sequence[str], most: int) -> list[str]:
    """At most so many of the items, spread over all of them."""
    if len(items) <= most:
        return list(items)
    places = [number * len(items) // most for number in range(most)]
    return [items[place] for place in places]
