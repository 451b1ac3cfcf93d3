"""What the names of masks have that those of their images have not, and the other way
round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pipeline.modalities.image.annotations.pairing import MASK_FOLDERS

SEPARATORS = "_-. "
# Of several kinds of masks of one image, as Cityscapes has them, the one with classes.
CLASSES_KIND = "labelids"
MASK_ENDINGS = ("l", "seg", "mask_image", "segm")  # beside the names of folders
_COMMON = 0.4  # share of the files that have an ending: half of them are images


class Suffixes(NamedTuple):
    """How names differ, before the ending.

    Args:
        mask, image: what the one has and the other has not.
        others: further kinds of masks, which are not used.
    """

    mask: str = ""
    image: str = ""
    others: tuple[str, ...] = ()


class SeveralKinds(Exception):
    """Masks of several kinds, by their suffixes."""

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__(", ".join(kinds))
        self.kinds = tuple(kinds)


def find_suffixes(images: Sequence[str], masks: Sequence[str]) -> Suffixes:
    """What most masks' names have after their image's; empty where most have nothing.

    Args:
        images, masks: by their paths; all files for both where folders do not tell.

    Raises:
        SeveralKinds: masks of one image have several suffixes, and which are meant
            cannot be told.
    """
    is_one_folder = masks is images
    stems = [PurePosixPath(path).stem for path in images]
    mask_stems = [PurePosixPath(path).stem for path in masks]
    plain = _find_kinds(set(stems), mask_stems, is_one_folder)
    if plain is not None:
        return _choose(plain, "")
    for tail in _common_tails(stems, _COMMON if is_one_folder else 1.0):
        bases = {stem.removesuffix(tail) for stem in stems if stem.endswith(tail)}
        other_stems = [stem for stem in mask_stems if not stem.endswith(tail)]
        kinds = _find_kinds(bases, other_stems, is_one_folder=False)
        if kinds is not None:
            return _choose(kinds, tail)
    return Suffixes()


def _find_kinds(
    bases: Collection[str], masks: Sequence[str], is_one_folder: bool
) -> Counter[str] | None:
    """Suffix → masks that have it behind an image's name; None where most masks begin
    with no image's name.
    """
    kinds: Counter[str] = Counter()
    for stem in masks:
        lengths = range(len(stem) - is_one_folder, 0, -1)
        base = next((stem[:size] for size in lengths if stem[:size] in bases), None)
        if base is not None:
            kinds[stem.removeprefix(base)] += 1
    # Names that count up (img1, img10) begin with one another, too.
    for suffix in [suffix for suffix in kinds if suffix.isdecimal()]:
        del kinds[suffix]
    if not kinds or (not is_one_folder and 2 * kinds.total() < len(masks)):
        return None
    return kinds


def _choose(kinds: Counter[str], image: str) -> Suffixes:
    most = max(kinds.values())
    common = sorted(suffix for suffix, count in kinds.items() if 2 * count >= most)
    of_common = sum(kinds[suffix] for suffix in common)
    if 2 * of_common < kinds.total() or most == 1:
        common = sorted(kinds, key=lambda suffix: (-kinds[suffix], suffix))[:1]
    of_classes = []
    for suffix in common:
        if suffix.lower().endswith(CLASSES_KIND):
            of_classes.append(suffix)
    if len(common) > 1 and len(of_classes) != 1:
        raise SeveralKinds(common)
    chosen = of_classes[0] if of_classes else common[0]
    others = tuple(suffix for suffix in common if suffix != chosen)
    return Suffixes(chosen, image, others)


def _common_tails(stems: Sequence[str], share: float) -> list[str]:
    """The ends of names, from a separator on, that so many names have: those that do
    not say mask first, then short ones.
    """
    counts: Counter[str] = Counter()
    for stem in stems:
        for place in range(1, len(stem)):
            if stem[place] in SEPARATORS:
                counts[stem[place:]] += 1
    fewest = share * len(stems)
    common = [tail for tail, count in counts.items() if count >= fewest]
    return sorted(common, key=lambda tail: (_says_mask(tail), len(tail), tail))


def _says_mask(tail: str) -> bool:
    word = tail.strip(SEPARATORS).casefold()
    return word in MASK_ENDINGS or word in MASK_FOLDERS
