"""The splits that came with annotated images: lists of names, such as ImageSets, or
folders called train and test.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.data.layout import TABLE_SPLIT_NAMES
from pipeline.errors import DataError
from pipeline.manifest import Split
from pipeline.modalities.image.annotations.faults import (
    AnnotationError,
    read_annotation,
    shown,
)
from pipeline.modalities.image.annotations.pairing import ImageNames, strip_role
from pipeline.records import Finding

IMAGE_SETS = "imagesets"
MAIN, SEGMENTATION = "main", "segmentation"  # its folders for boxes and for masks
JOINT = "trainval"  # VOC's list of both; used where it has no separate ones
# Lists lie here too, as in the Oxford-IIIT pets.
_NO_LABELS = frozenset({"annotations", "annotation"})
_BY_PROTECTION: tuple[Split, ...] = ("train", "val", "test")  # later ones win


@dataclass(frozen=True)
class GivenSplits:
    """Which split came with each image.

    Args:
        of_image: image → split; none where nothing says.
        lists: the files with lists of names that were read.
        findings: names that stand for no image, images in several lists or in none.
    """

    of_image: Mapping[str, Split]
    lists: tuple[str, ...]
    findings: tuple[Finding, ...]


def find_splits(
    root: Path, files: Iterable[str], images: Collection[str], preferred: str
) -> GivenSplits:
    """The split that each image came with.

    Lists of names decide, where there are any; of images that they leave out, folders
    called train, val or test do.

    Args:
        files: all files below the data folder.
        preferred: the folder of ImageSets that is for this task: MAIN or SEGMENTATION.
    """
    lists = find_lists(files, preferred)
    listed = _read_lists(root, lists, images) if lists else GivenSplits({}, (), ())
    if listed.of_image:
        return listed
    return GivenSplits(add_splits_of_folders({}, images), (), listed.findings)


def add_splits_of_folders(
    given: Mapping[str, Split], images: Iterable[str]
) -> dict[str, Split]:
    """The splits that are given, and of all other images those of their folders: what
    lies in a folder called test is not to be trained on.
    """
    splits = dict(given)
    for path in images:
        split = splits.get(path) or split_of_folders(path)
        if split is not None:
            splits[path] = split
    return splits


def split_of_folders(path: str) -> Split | None:
    """The split that one of a path's folders is called after: `train2017`,
    `images/val`, `test_images`.
    """
    for folder in path.split("/")[:-1]:
        split = split_of_name(strip_role(folder))
        if split is not None:
            return split
    return None


def split_of_name(name: str) -> Split | None:
    """The split that a name stands for, whatever year follows: `train`, `val2017`; None
    for others.
    """
    without_year = re.sub(r"[ _.-]?\d{4}$", "", name.casefold())
    return TABLE_SPLIT_NAMES.get(without_year)


def find_lists(files: Iterable[str], preferred: str) -> dict[str, Split]:
    """The files that list the images of a split: train.txt, val.txt and the like, all
    in one place.

    Below ImageSets the preferred folder's, else Main's or Segmentation's; without
    ImageSets, those nearest the top.
    """
    by_folder: dict[str, dict[str, Split]] = defaultdict(dict)
    for path in files:
        split = _listed_split(path)
        if split is not None:
            by_folder[path.rpartition("/")[0]][path] = split
    folders = sorted(
        by_folder,
        key=lambda folder: (_rank(folder, preferred), folder.count("/"), folder),
    )
    if not folders:
        return {}
    best = (_rank(folders[0], preferred), folders[0].count("/"))
    chosen: dict[str, Split] = {}
    for folder in folders:
        if (_rank(folder, preferred), folder.count("/")) == best:
            chosen.update(_without_joint(by_folder[folder]))
    return chosen


def _listed_split(path: str) -> Split | None:
    pure = PurePosixPath(path)
    if pure.suffix.lower() != ".txt" or _may_hold_labels(pure.parts[:-1]):
        return None
    if pure.stem.casefold() == JOINT:
        return "train"
    return split_of_name(pure.stem)


def _may_hold_labels(folders: Sequence[str]) -> bool:
    """Whether train.txt in such folders may be about an image called train, as in a
    folder of YOLO's labels.
    """
    names = [folder.casefold() for folder in folders]
    if IMAGE_SETS in names:
        return False
    return any(strip_role(name) == "" for name in names if name not in _NO_LABELS)


def _rank(folder: str, preferred: str) -> int:
    parts = folder.casefold().split("/")
    if IMAGE_SETS not in parts:
        return 3
    order = {MAIN: 1, SEGMENTATION: 2, preferred: 0}
    return order.get(parts[-1], 4)


def _without_joint(lists: dict[str, Split]) -> dict[str, Split]:
    separate = {}
    for path, split in lists.items():
        if PurePosixPath(path).stem.casefold() != JOINT:
            separate[path] = split
    if {"train", "val"} & set(separate.values()):
        return separate
    return lists


def _read_lists(
    root: Path, lists: Mapping[str, Split], images: Collection[str]
) -> GivenSplits:
    names = ImageNames(images)
    splits_of: dict[str, set[Split]] = defaultdict(set)
    unknown: list[str] = []
    for path, split in sorted(lists.items()):
        base = path.rpartition("/")[0]
        for line, name in _lines(root, path):
            # Some lists name the annotation behind the image: "train/1.png
            # trainannot/1.png".
            listed = names.find(name, base) or names.find(name.split()[0], base)
            if len(listed) == 1:
                splits_of[listed[0]].add(split)
            else:
                unread = f"{path}#{line}: {shown(name)}"
                if listed:
                    unread += f" ({', '.join(listed)})"
                unknown.append(unread)
    of_image = {image: _most_protected(splits) for image, splits in splits_of.items()}
    if of_image:
        of_image = add_splits_of_folders(of_image, images)
    several = []
    for image, splits in splits_of.items():
        if len(splits) > 1:
            several.append(f"{image}: {', '.join(sorted(splits))}")
    unlisted = [image for image in images if image not in of_image]
    findings = (
        *_unknown_names(unknown),
        *_in_several(sorted(several)),
        *_unlisted(sorted(unlisted)),
    )
    return GivenSplits(of_image, tuple(sorted(lists)), findings)


def _lines(root: Path, path: str) -> list[tuple[int, str]]:
    try:
        content = read_annotation(root, path)
    except AnnotationError as fault:
        raise DataError(
            path, found=fault.found, expected=fault.expected, hint=fault.hint
        ) from fault
    lines = content.decode("utf-8-sig", "surrogateescape").splitlines()
    return [
        (number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()
    ]


def _most_protected(splits: set[Split]) -> Split:
    return max(splits, key=_BY_PROTECTION.index)


def _unknown_names(items: Sequence[str]) -> list[Finding]:
    if not items:
        return []
    return [
        Finding(
            code="split-list-unknown",
            severity="warning",
            subject="lists of splits",
            found=f"{len(items):,} names that stand for no image, or for several",
            expected="the name of one image in each line",
            hint="add the images, or correct the lists",
            items=tuple(items),
        )
    ]


def _in_several(items: Sequence[str]) -> list[Finding]:
    if not items:
        return []
    return [
        Finding(
            code="in-several-splits",
            severity="warning",
            subject="lists of splits",
            found=f"{len(items):,} images in several",
            expected="one split for an image",
            hint="correct the lists; until then the test split has them before val before train",
            items=tuple(items),
        )
    ]


def _unlisted(items: Sequence[str]) -> list[Finding]:
    if not items:
        return []
    return [
        Finding(
            code="in-no-split",
            severity="warning",
            subject="lists of splits",
            found=f"{len(items):,} images in none",
            expected="each image in one",
            hint="add them to a list; until then they are assigned like images without a given split",
            items=tuple(items),
        )
    ]
