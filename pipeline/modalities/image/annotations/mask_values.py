"""What the pixel values of masks stand for, before a workspace is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.modalities.image.annotations.class_names import (
    IGNORED_NAMES,
    NamedValues,
)
from pipeline.modalities.image.annotations.faults import (
    AnnotationError,
    read_annotation,
)
from pipeline.modalities.image.annotations.mask_checks import rare_classes
from pipeline.modalities.image.annotations.masks import read_pixels, unique_values
from pipeline.modalities.image.annotations.settings import MOST_VALUE

# Of masks without a table; more are no classes but a photograph or a smoothed mask.
MOST_COLOURS = 40
TOO_MANY_COLOURS = 2_000  # no table names as many: no further mask is looked into
BORDER = 255  # the value of what is ignored, in Pascal VOC and by habit
FOREGROUND = "foreground"
BACKGROUND = "background"
BACKGROUND_NAMES = frozenset({"background", "_background_", "__background__", "bg"})
SMOOTHED_LEVELS = 100  # from which on two levels and their mixtures are likely
TWO_LEVELS, LEAST_SHARE = 0.9, 0.002  # shares of the pixels: of both, and of each
NUMBERED = (
    "where the objects are numbered, make the workspace without --data, set "
    "task.masks.values.classes to {background: 0, object: 1-65535} and add the data then"
)


@dataclass
class MaskPixels:
    """What masks hold.

    Args:
        numbers: value → its pixels, of grey levels and palette indices.
        are_coloured: whether a mask holds channels that differ.
        colours: colour → its pixels; of a palette, what it stands for.
        colours_of: value → the colours it stands for.
        highest: the highest value of each mask.
        gapless: masks whose values are 0 to n without a gap, as numbered objects are.
        with_both: masks that have both 1 and 255.
        unreadable: why masks could not be read.
        lossy: mask that a lossy format blurred → what it is.
    """

    numbers: Counter[int] = field(default_factory=Counter)
    are_coloured: bool = False
    colours: Counter[str] = field(default_factory=Counter)
    colours_of: dict[int, set[str]] = field(default_factory=dict)
    highest: list[int] = field(default_factory=list)
    gapless: int = 0
    with_both: int = 0
    unreadable: list[str] = field(default_factory=list)
    lossy: dict[str, str] = field(default_factory=dict)

    @property
    def has_other_palettes(self) -> bool:
        """Whether one value is one colour here and another there, as in GIF files,
        whose programs number the colours anew: then the colours are meant.
        """
        if len(self.colours) > len(self.numbers):
            return False  # grey here, a palette there
        differ = any(len(colours) > 1 for colours in self.colours_of.values())
        is_repeated = (
            len(self.colours) == 2 < len(self.numbers) and max(self.numbers) <= BORDER
        )
        return differ or is_repeated

    @property
    def looks_counted(self) -> bool:
        """Whether values number objects: from 0 to another highest in each mask."""
        if self.gapless <= len(self.highest) // 2:
            return False
        return len(set(self.highest)) > 1

    def share(self, levels: range) -> float:
        """The share of the pixels that have one of these values."""
        return sum(self.numbers[level] for level in levels) / self.numbers.total()

    @property
    def is_lossy(self) -> bool:
        """Whether a lossy format blurred the masks: all of them, or some beside others
        of two levels far apart.
        """
        if not self.lossy:
            return False
        return not self.colours or self.numbers.keys() <= {0, BORDER}

    @property
    def is_blurred(self) -> bool:
        """Whether it is two levels, dark and bright, with blurred outlines."""
        if not self.numbers:
            return False
        dark = range(64)
        bright = range(192, BORDER + 1)
        if not self.is_lossy:
            dark = range(9)
            bright = range(247, BORDER + 1)
            if len(self.numbers) < SMOOTHED_LEVELS or max(self.numbers) > BORDER:
                return False
        shares = (self.share(dark), self.share(bright))
        return min(shares) > LEAST_SHARE and sum(shares) > TWO_LEVELS


def peek(source: Path, paths: Sequence[str]) -> MaskPixels:
    """The values of a few masks."""
    values = MaskPixels()
    for path in paths:
        try:
            _peek_one(source, path, values)
        except AnnotationError as fault:
            if fault.code == "lossy-mask":
                values.lossy[path] = fault.found
            else:
                values.unreadable.append(fault.found)
        if values.are_coloured and len(values.colours) > TOO_MANY_COLOURS:
            break
    if values.lossy and not values.colours:
        _peek_lossy(source, values)
    return values


def _peek_one(source: Path, path: str, values: MaskPixels) -> None:
    content = read_annotation(source, path)
    colours = read_pixels(content, path, as_colours=True)
    try:
        numbers = read_pixels(content, path, as_colours=False)
    except AnnotationError as fault:
        if fault.code != "mask-mode":
            raise
        values.are_coloured = True
        numbers = np.zeros_like(colours)
    both = colours.astype(np.uint64) * (MOST_VALUE + 1) + numbers
    present, _, counts = unique_values(both)
    pairs = [divmod(int(value), MOST_VALUE + 1) for value in present]
    for (colour, _), count in zip(pairs, counts.tolist(), strict=True):
        values.colours[f"#{colour:06x}"] += count
    if not values.are_coloured:
        _add_numbers(pairs, counts.tolist(), values)


def _add_numbers(
    pairs: Sequence[tuple[int, int]], counts: Sequence[int], values: MaskPixels
) -> None:
    for (colour, number), count in zip(pairs, counts, strict=True):
        values.numbers[number] += count
        colours = values.colours_of.setdefault(number, set())
        colours.add(f"#{colour:06x}")
    present = sorted({number for _, number in pairs})
    highest = present[-1]
    is_gapless = present == list(range(highest + 1))
    has_both = 1 in present and BORDER in present
    values.highest.append(highest)
    values.gapless += is_gapless
    values.with_both += has_both


def _peek_lossy(source: Path, values: MaskPixels) -> None:
    for path in values.lossy:
        content = read_annotation(source, path)
        pixels = read_pixels(content, path, as_colours=False, accepts_lossy=True)
        present, _, counts = unique_values(pixels)
        for number, count in zip(present.tolist(), counts.tolist(), strict=True):
            values.numbers[number] += count


Classes = dict[str, int | str]
Decision = tuple[Classes, list[int | str], list[str]]
UNNAMED = "no file names the {}: rename the classes in params.yaml before the first run"


def read_values(
    source: Path, values: MaskPixels, named: NamedValues | None
) -> Decision:
    """The classes with their values, the background first, what is ignored, and what
    the user is told of it.

    Raises:
        DataError: it cannot be told what the values stand for.
    """
    named = named or NamedValues("")
    classes, ignore, notes = _decide(source, values, named)
    ordered, why = _put_background_first(classes, values)
    all_notes = [*notes, *why, *_describe_rare(ordered, values)]
    unreadable = _list_unreadable(values)
    if unreadable and values.colours:
        all_notes.append(
            f"cannot be read: {len(unreadable)}, the first {unreadable[0]}"
        )
    return ordered, ignore, all_notes


def _list_unreadable(values: MaskPixels) -> list[str]:
    if values.is_blurred:  # whatever a lossy format makes of a level, it has a class
        return values.unreadable
    return [*values.unreadable, *values.lossy.values()]


def _decide(source: Path, values: MaskPixels, named: NamedValues) -> Decision:
    if values.is_blurred:
        return _by_halves(values, named)
    if not values.colours:
        raise DataError(
            f"folder {source}",
            found="no mask that can be read",
            expected="masks as PNG files",
            hint="export them again, without loss",
            details=_list_unreadable(values),
        )
    names_all_colours = values.colours.keys() <= named.colours.keys()
    if named.colours and (
        values.are_coloured or (names_all_colours and not named.numbers)
    ):
        return _by_table(source, values, named)
    if values.are_coloured:
        return _by_colours(source, values, named)
    names_all_numbers = values.numbers.keys() - {BORDER} <= named.numbers.keys()
    if values.has_other_palettes and (
        len(values.colours) == 2 or not names_all_numbers
    ):
        classes, ignore, notes = _by_colours(source, values, named)
        differ = "the masks number their colours differently: the colours decide"
        return classes, ignore, [differ, *notes]
    if named.numbers:
        return _by_names(source, values, named)
    return _without_names(source, values)


def _put_background_first(
    classes: Classes, values: MaskPixels
) -> tuple[Classes, list[str]]:
    """The class called background, else that of value 0 or of black, else that with
    most pixels: what is nothing in particular.
    """
    names = [name for name in classes if name.casefold() in BACKGROUND_NAMES]
    zero = [name for name, value in classes.items() if value in (0, "#000000")]
    first = next(iter((*names, *zero)), None)
    notes = []
    if first is None:
        first = max(classes, key=lambda name: _count_pixels(classes[name], values))
    if not names:
        notes.append(
            f"background: {first}, which answers and drawings leave out; put another "
            "class first in params.yaml where that is wrong"
        )
    return {first: classes[first], **classes}, notes


def _describe_rare(classes: Classes, values: MaskPixels) -> list[str]:
    pixels = {name: _count_pixels(value, values) for name, value in classes.items()}
    rare = rare_classes(pixels, background=next(iter(classes)))
    if not rare:
        return []
    return [
        f"few pixels: {', '.join(rare[:5])}; with finetune.class_weights: balanced in "
        "params.yaml all classes count alike"
    ]


def _count_pixels(value: int | str, values: MaskPixels) -> int:
    if isinstance(value, str):
        return values.colours[value]
    return values.numbers[value]


def _name_two(named: NamedValues) -> tuple[str, str, list[str]]:
    """The names of the background and of the one other class."""
    if set(named.numbers) == {0, 1}:
        note = f"names: from {named.path}"
        return named.numbers[0], named.numbers[1], [note]
    return BACKGROUND, FOREGROUND, [UNNAMED.format("classes")]


def _by_halves(values: MaskPixels, named: NamedValues) -> Decision:
    """Dark and bright levels, with blurred outlines between them."""
    background, foreground, notes = _name_two(named)
    why = "by resizing, it seems"
    if values.is_lossy:
        why = "by JPEG or another lossy format"
    told = (
        f"outlines of the masks are blurred, {why}: levels up to 127 are taken for "
        f"{background}, others for {foreground}"
    )
    return {background: "0-127", foreground: "128-255"}, [], [told, *notes]


def _by_table(source: Path, values: MaskPixels, named: NamedValues) -> Decision:
    """Colours that a table names."""
    unknown = sorted(values.colours.keys() - named.colours.keys())
    if unknown:
        raise DataError(
            f"folder {source}",
            found=f"colours that {named.path} does not name: {', '.join(unknown[:6])}",
            expected="masks of its colours alone",
            hint="add them to the table, or export the masks again without smoothing",
        )
    ignore: list[int | str] = []
    for colour, name in named.colours.items():
        if name.casefold() in IGNORED_NAMES:
            ignore.append(colour)
    classes: Classes = {
        name: colour for colour, name in named.colours.items() if colour not in ignore
    }
    return classes, ignore, [f"names and colours: from {named.path}"]


def _by_colours(source: Path, values: MaskPixels, named: NamedValues) -> Decision:
    if values.colours.keys() == {"#000000", "#ffffff"}:
        background, foreground, notes = _name_two(named)
        return {background: "#000000", foreground: "#ffffff"}, [], notes
    if len(values.colours) > MOST_COLOURS:
        raise DataError(
            f"folder {source}",
            found=f"masks with {len(values.colours):,} colours and no table that names them",
            expected="few colours, each for a class",
            hint="add class_dict.csv with the columns name, r, g, b; smoothed masks must be exported again",
        )
    classes: Classes = {colour: colour for colour in sorted(values.colours)}
    return classes, [], [UNNAMED.format("colours")]


def _by_names(source: Path, values: MaskPixels, named: NamedValues) -> Decision:
    """Grey levels or indices that a list names."""
    present = set(values.numbers)
    names = dict(sorted(named.numbers.items()))
    note = f"names: from {named.path}"
    if set(names) == {0, 1} and present == {0, BORDER}:
        classes: Classes = {names[0]: 0, names[1]: BORDER}
        return classes, [], [f"{note}; the second class is {BORDER} in the masks"]
    if set(names) == {0, 1} and present == {0, 1, BORDER} and not values.with_both:
        raise _two_writings(source, names[1])
    unknown = sorted(present - names.keys() - {BORDER})
    if unknown:
        raise _unnamed_values(source, values, named, unknown)
    ignore: list[int | str] = []
    for number, name in names.items():
        if name.casefold() in IGNORED_NAMES:
            ignore.append(number)
    if BORDER in present - names.keys():
        ignore.append(BORDER)
    kept_classes: Classes = {}
    for number, name in names.items():
        if number not in ignore:
            kept_classes[name] = number
    return kept_classes, ignore, [note]


def _unnamed_values(
    source: Path, values: MaskPixels, named: NamedValues, unknown: Sequence[int]
) -> DataError:
    listed = ", ".join(map(str, unknown[:8]))
    if len(unknown) > 8:
        listed += ", …"
    hint = "add the names, or export the masks again"
    if values.looks_counted:
        hint = f"{hint}; {NUMBERED}"
    return DataError(
        f"folder {source}",
        found=f"values that {named.path} does not name: {listed}",
        expected=f"0 to {max(named.numbers)}, and {BORDER} for what is ignored",
        hint=hint,
    )


def _two_writings(source: Path, name: str) -> DataError:
    return DataError(
        f"folder {source}",
        found=f"masks with 0 and 1, and others with 0 and {BORDER}: either both are {name}, or {BORDER} is ignored",
        expected="one way of writing",
        hint="write the masks in one way",
    )


def _without_names(source: Path, values: MaskPixels) -> Decision:
    present = set(values.numbers)
    if present == {BORDER} and len(values.highest) > 1:
        raise DataError(
            f"folder {source}",
            found=f"masks with the value {BORDER} in every pixel",
            expected="masks that show what is where",
            hint="these may mark the field of view: move them away and keep the masks "
            "of what is to be found",
        )
    note = UNNAMED.format("classes")
    if present <= {0, BORDER}:
        return {BACKGROUND: 0, FOREGROUND: BORDER}, [], [note]
    ignore: list[int | str] = [BORDER] if BORDER in present else []
    numbers = sorted(present - {BORDER})
    if numbers in ([0], [0, 1], [1]):
        return {BACKGROUND: 0, FOREGROUND: 1}, ignore, [note]
    if values.looks_counted or len(numbers) > MOST_COLOURS:
        raise DataError(
            f"folder {source}",
            found=f"masks with values from 0 to {max(numbers)} and no names: numbers of classes, or of the single "
            "objects in a picture",
            expected="classes that are named",
            hint=f"name the classes in classes.txt, the background first, a name a line; {NUMBERED}",
        )
    classes: Classes = {
        BACKGROUND if number == 0 else f"class-{number}": number for number in numbers
    }
    return classes, ignore, [note]
