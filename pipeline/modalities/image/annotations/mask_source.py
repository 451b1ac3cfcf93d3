"""Finds out where masks lie and what their values stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.layout import walk
from pipeline.errors import DataError
from pipeline.modalities.image.annotations.class_names import (
    IGNORED_NAMES,
    NamedValues,
    find_named_values,
)
from pipeline.modalities.image.annotations.described_source import (
    DescribedSource,
    count_training_images,
    describe_groups,
    describe_skipped,
    describe_splits,
    evenly,
    folders_of,
    refuse_file,
)
from pipeline.modalities.image.annotations.faults import (
    AnnotationError,
    read_annotation,
)
from pipeline.modalities.image.annotations.given_splits import SEGMENTATION, find_splits
from pipeline.modalities.image.annotations.mask_listing import find_mask_folders
from pipeline.modalities.image.annotations.masks import read_pixels
from pipeline.modalities.image.annotations.pairing import (
    MASK_FOLDERS,
    Pairs,
    pair,
    roles_of,
)
from pipeline.modalities.image.annotations.settings import MaskConfig
from pipeline.modalities.image.file_types import is_image_name

PEEKED = 60  # masks that are looked into
# Of masks without a table; more are no classes but a photograph or a smoothed mask.
MOST_COLOURS = 40
BORDER = 255  # the value of what is ignored, in Pascal VOC and by habit
FOREGROUND = "foreground"
BACKGROUND = "background"


@dataclass(frozen=True)
class _Candidate:
    """A way to pair images and masks."""

    config: MaskConfig
    pairs: Pairs
    words: str


@dataclass
class _Values:
    """What masks hold.

    Args:
        numbers: value → masks that have it, of grey levels and palette indices.
        are_coloured: whether a mask holds channels that differ.
        colours: colour → masks that show it; of a palette, what it stands for.
        highest: the highest value of each mask.
        gapless: masks whose values are 0 to n without a gap, as numbered objects are.
        with_both: masks that have both 1 and 255.
        unreadable: why masks could not be read.
    """

    numbers: Counter[int] = field(default_factory=Counter)
    are_coloured: bool = False
    colours: Counter[str] = field(default_factory=Counter)
    highest: list[int] = field(default_factory=list)
    gapless: int = 0
    with_both: int = 0
    unreadable: list[str] = field(default_factory=list)


def describe_masks(source: Path) -> DescribedSource:
    """Where the masks of a folder lie, what their values stand for, and its splits.

    Raises:
        DataError: no masks are found, or they can be read in two ways; names them.
    """
    refuse_file(source)
    tree = walk(source)
    candidate = _find_candidate(source, tree.files)
    masks = sorted(candidate.pairs.of_image.values())
    values = _peek(source, evenly(masks, PEEKED))
    named = find_named_values(source, tree.files)
    classes, ignore, notes = _read_values(source, values, named)
    settings: dict[str, Any] = candidate.config.model_dump(
        mode="json", exclude_defaults=True
    )
    settings["values"] = {"classes": classes}
    if ignore:
        settings["values"]["ignore"] = ignore
    images = list(candidate.pairs.of_image)
    splits = find_splits(source, tree.files, images, SEGMENTATION)
    told = ", ".join(f"{label} = {value}" for label, value in classes.items())
    bare = len(candidate.pairs.images_alone)
    alone = bare + len(candidate.pairs.annotations_alone)
    if bare > DataConfig().max_bad_fraction * (len(images) + bare):
        settings["unannotated"] = "skip"
        alone -= bare
    return DescribedSource(
        {"masks": settings},
        (
            f"masks: {len(images)} images in {folders_of(images)}, {candidate.words}",
            f"classes: {told}"
            + (f"; ignored: {', '.join(map(str, ignore))}" if ignore else ""),
            *notes,
            *((f"without a counterpart: {alone} images and masks",) if alone else ()),
            *describe_skipped(bare, "a mask", settings),
            describe_splits(splits, images),
            *describe_groups(source),
        ),
        count_training_images(splits, images),
    )


def _find_candidate(source: Path, files: Sequence[str]) -> _Candidate:
    """The way in which most images have a mask."""
    images = [path for path in files if is_image_name(path)]
    roles = roles_of(images)
    words: list[str] = [word for word in MASK_FOLDERS if word in roles]
    candidates = [_try(files, word) for word in (*words, "")]
    usable = [candidate for candidate in candidates if candidate.pairs.of_image]
    if not usable:
        raise DataError(
            f"folder {source}",
            found=f"{len(images)} images, in {folders_of(images) or 'no folder'}, and no masks that belong to them",
            expected="an image and a mask of one name, in folders such as images and masks, or with an ending such "
            "as _mask",
            hint="name the folder that holds both, or rename the folders",
        )
    usable.sort(key=lambda candidate: -len(candidate.pairs.of_image))
    most = len(usable[0].pairs.of_image)
    equal = [candidate for candidate in usable if len(candidate.pairs.of_image) == most]
    if (
        len({tuple(sorted(candidate.pairs.of_image.values())) for candidate in equal})
        > 1
    ):
        raise DataError(
            f"folder {source}",
            found=f"masks in two places: {equal[0].words}, and {equal[1].words}",
            expected="one mask for each image",
            hint="move one of them away",
        )
    return usable[0]


def _try(files: Sequence[str], folder: str) -> _Candidate:
    """Images paired with the masks of one folder, or by the suffix alone."""
    if folder:
        found = find_mask_folders(files, MaskConfig(masks=folder))
        suffix = _common_suffix(found.images, found.masks)
        config = MaskConfig(
            masks=folder, images=found.image_folder or None, suffix=suffix
        )
    else:
        images = [path for path in files if is_image_name(path)]
        suffix = _common_suffix(images, images)
        config = MaskConfig(suffix=suffix)
    if not folder and not suffix:
        return _Candidate(config, Pairs(), "")
    found = find_mask_folders(files, config)
    pairs = pair(found.images, found.masks, suffix)
    ending = f" with the ending {suffix}" if suffix else ""
    return _Candidate(
        config, pairs, f"masks in {folders_of(pairs.of_image.values())}{ending}"
    )


def _common_suffix(images: Sequence[str], masks: Sequence[str]) -> str:
    """What most masks' names have after an image's; "" where most have nothing."""
    stems = {PurePosixPath(path).stem for path in images}
    suffixes: Counter[str] = Counter()
    for path in masks:
        stem = PurePosixPath(path).stem
        starts = [
            stem[:length]
            for length in range(len(stem), 0, -1)
            if stem[:length] in stems
        ]
        own = [start for start in starts if masks is not images or start != stem]
        if own:
            suffixes[stem.removeprefix(own[0])] += 1
    if not suffixes:
        return ""
    suffix, count = min(suffixes.items(), key=lambda item: (-item[1], item[0]))
    # Names that count up (img1, img10) begin with one another, too.
    return "" if suffix.isdecimal() or 2 * count < suffixes.total() else suffix


def _peek(source: Path, paths: Sequence[str]) -> _Values:
    """The values of a few masks."""
    values = _Values()
    for path in paths:
        try:
            content = read_annotation(source, path)
            shown = np.unique(read_pixels(content, path, as_colours=True)).tolist()
            values.colours.update(f"#{value:06x}" for value in shown)
            _add_numbers(
                values, np.unique(read_pixels(content, path, as_colours=False)).tolist()
            )
        except AnnotationError as fault:
            if fault.code == "mask-mode" and values.colours:
                values.are_coloured = True
            else:
                values.unreadable.append(fault.found)
    return values


def _add_numbers(values: _Values, present: Sequence[int]) -> None:
    values.numbers.update(present)
    values.highest.append(present[-1])
    values.gapless += list(present) == list(range(present[-1] + 1))
    values.with_both += 1 in present and BORDER in present


Classes = dict[str, int | str]
Decision = tuple[Classes, list[int | str], list[str]]


def _read_values(source: Path, values: _Values, named: NamedValues | None) -> Decision:
    """The classes with their values, what is ignored, and what the user is told of it."""
    if not values.numbers and not values.colours:
        raise DataError(
            f"folder {source}",
            found="no mask that can be read",
            expected="masks as PNG files",
            hint="export them again, without loss",
            details=values.unreadable,
        )
    if named is not None and named.colours:
        names_them_all = (
            not named.numbers and values.colours.keys() <= named.colours.keys()
        )
        if values.are_coloured or names_them_all:
            return _by_table(source, values, named)
    if values.are_coloured:
        return _by_colours(source, values)
    if named is not None and named.numbers:
        return _by_names(source, values, named)
    return _without_names(source, values)


def _by_table(source: Path, values: _Values, named: NamedValues) -> Decision:
    """Colours that a table names, the background first."""
    unknown = sorted(values.colours.keys() - named.colours.keys())
    if unknown:
        raise DataError(
            f"folder {source}",
            found=f"colours that {named.path} does not name: {', '.join(unknown[:6])}",
            expected="masks of its colours alone",
            hint="add them to the table, or export the masks again without smoothing",
        )
    ignore: list[int | str] = [
        colour
        for colour, name in named.colours.items()
        if name.casefold() in IGNORED_NAMES
    ]
    kept = {
        name: colour for colour, name in named.colours.items() if colour not in ignore
    }
    first = sorted(
        kept, key=lambda name: (name.casefold() != BACKGROUND, kept[name] != "#000000")
    )
    classes: Classes = {name: kept[name] for name in first[:1]}
    classes.update(kept)
    return classes, ignore, [f"names and colours: from {named.path}"]


def _by_colours(source: Path, values: _Values) -> Decision:
    if len(values.colours) > MOST_COLOURS:
        raise DataError(
            f"folder {source}",
            found=f"masks with {len(values.colours)} colours and no table that names them",
            expected="few colours, each for a class",
            hint="add class_dict.csv with the columns name, r, g, b; smoothed masks must be exported again",
        )
    ordered = sorted(values.colours, key=lambda colour: (colour != "#000000", colour))
    classes: Classes = {colour: colour for colour in ordered}
    note = "no file names the colours: rename the classes in params.yaml before the first run"
    return classes, [], [note]


def _by_names(source: Path, values: _Values, named: NamedValues) -> Decision:
    """Grey levels or indices that a list names."""
    present = set(values.numbers)
    names = dict(sorted(named.numbers.items()))
    if set(names) == {0, 1} and present == {0, BORDER}:
        classes: Classes = {names[0]: 0, names[1]: BORDER}
        return (
            classes,
            [],
            [f"names: from {named.path}; the second class is {BORDER} in the masks"],
        )
    if set(names) == {0, 1} and present == {0, 1, BORDER} and not values.with_both:
        raise _two_writings(source, names[1])
    unknown = sorted(present - names.keys() - {BORDER})
    if unknown:
        raise DataError(
            f"folder {source}",
            found=f"values that {named.path} does not name: {', '.join(map(str, unknown[:8]))}",
            expected=f"0 to {max(names)}, and {BORDER} for what is ignored",
            hint="add the names, or export the masks again",
        )
    ignore: list[int | str] = [
        number for number, name in names.items() if name.casefold() in IGNORED_NAMES
    ]
    ignore += [BORDER] if BORDER in present - names.keys() else []
    return (
        {name: number for number, name in names.items() if number not in ignore},
        ignore,
        [f"names: from {named.path}"],
    )


def _two_writings(source: Path, name: str) -> DataError:
    return DataError(
        f"folder {source}",
        found=f"masks with 0 and 1, and others with 0 and {BORDER}: either both are {name}, or {BORDER} is ignored",
        expected="one way of writing",
        hint="write the masks in one way",
    )


def _without_names(source: Path, values: _Values) -> Decision:
    present = set(values.numbers)
    note = "no file names the classes: rename them in params.yaml before the first run"
    if present <= {0, BORDER}:
        return {BACKGROUND: 0, FOREGROUND: BORDER}, [], [note]
    ignore: list[int | str] = [BORDER] if BORDER in present else []
    numbers = sorted(present - {BORDER})
    if numbers in ([0], [0, 1], [1]):
        return {BACKGROUND: 0, FOREGROUND: 1}, ignore, [note]
    looks_counted = (
        values.gapless > len(values.highest) // 2 and len(set(values.highest)) > 1
    )
    if looks_counted or len(numbers) > MOST_COLOURS:
        raise DataError(
            f"folder {source}",
            found=f"masks with values from 0 to {max(numbers)} and no names: numbers of classes, or of the single "
            "objects in a picture",
            expected="classes that are named",
            hint="name the classes in classes.txt, the background first, a name a line; where the objects are numbered, "
            "make the workspace without --data, set task.masks.values.classes to {background: 0, object: 1-65535} and "
            "add the data then",
        )
    classes: Classes = {
        BACKGROUND if number == 0 else f"class-{number}": number for number in numbers
    }
    return classes, ignore, [note]
