"""Which annotation belongs to which image, by where the two lie and how they are
called.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath

from pipeline.manifest import stored_path

IMAGE_FOLDERS = (
    "jpegimages",
    "pngimages",
    "images",
    "image",
    "imgs",
    "img",
    "pictures",
    "photos",
    "leftimg8bit",
)
BOX_FOLDERS = (
    "annotations",
    "annotation",
    "annots",
    "annot",
    "labels",
    "label",
    "xmls",
    "xml",
    "txt",
    "bboxes",
)
MASK_FOLDERS = (
    "segmentationclass",
    "segmentationclasspng",
    "masks",
    "mask",
    "pedmasks",
    "segmentations",
    "segmentation",
    "groundtruth",
    "ground_truth",
    "gt",
    "gtfine",
    "manual",
    "labels",
    "label",
    "annotations",
    "annotation",
    "annot",
)
# What lies there is never a picture to find objects in.
PURE_MASK_FOLDERS = frozenset(
    {
        "segmentationclass",
        "segmentationclasspng",
        "segmentationobject",
        "masks",
        "mask",
        "pedmasks",
    }
)
ROLE_WORDS = frozenset(
    (*IMAGE_FOLDERS, *BOX_FOLDERS, *MASK_FOLDERS, *PURE_MASK_FOLDERS)
)
_LONGEST_FIRST = sorted(
    (word for word in ROLE_WORDS if len(word) > 2), key=len, reverse=True
)
# "Validation_IMAGES", "train-masks", and without a separator "trainannot".
_ROLE_AT_END = re.compile(rf"[ _.-]?(?:{'|'.join(map(re.escape, _LONGEST_FIRST))})$")
_ROLE_AT_START = re.compile(rf"^(?:{'|'.join(map(re.escape, _LONGEST_FIRST))})[ _.-]")

Key = Callable[[str], Hashable]


@dataclass
class Pairs:
    """Images and annotations put together, by paths below the data folder.

    Args:
        of_image: image → annotation.
        images_alone: images that have none.
        annotations_alone: annotations that have no image.
        ambiguous: image → what else could be meant, in words.
    """

    of_image: dict[str, str] = field(default_factory=dict)
    images_alone: list[str] = field(default_factory=list)
    annotations_alone: list[str] = field(default_factory=list)
    ambiguous: dict[str, str] = field(default_factory=dict)


def pair(
    images: Iterable[str],
    annotations: Iterable[str],
    suffix: str = "",
    image_suffix: str = "",
) -> Pairs:
    """Puts each image together with the annotation of the same name in the
    corresponding folder.

    Folders correspond where they are called alike but for words such as `images`,
    `labels` and `masks`. What is left is put together by the name alone, in the same
    case and then in any, where one image and one annotation have it.

    Args:
        suffix: what an annotation's name has after its image's.
        image_suffix: what the image's name has in its place.
    """
    pairs = Pairs()
    left_images = sorted(images)
    left_annotations = sorted(annotations)
    keys: tuple[tuple[Key, bool], ...] = (
        (_place, True),
        (_stem, False),
        (_folded_stem, False),
    )
    for key, is_exact in keys:
        left_images, left_annotations = _pair_by(
            key, left_images, left_annotations, (image_suffix, suffix), is_exact, pairs
        )
    pairs.images_alone = left_images
    pairs.annotations_alone = left_annotations
    return pairs


def _pair_by(
    key: Key,
    images: Sequence[str],
    annotations: Sequence[str],
    suffixes: tuple[str, str],
    is_exact: bool,
    pairs: Pairs,
) -> tuple[list[str], list[str]]:
    """Fills `found` by one key and returns what it did not decide."""
    own, other = suffixes
    images_of = _group(images, lambda path: key(without_suffix(path, own)))
    annotations_of = _group(annotations, lambda path: key(without_suffix(path, other)))
    decided: set[str] = set()
    for name in images_of.keys() & annotations_of.keys():
        same_images = images_of[name]
        same_annotations = annotations_of[name]
        if len(same_images) == 1 and len(same_annotations) == 1:
            pairs.of_image[same_images[0]] = same_annotations[0]
        elif is_exact:
            _note_ambiguous(same_images, same_annotations, pairs)
        else:
            continue
        decided.update((*same_images, *same_annotations))
    return [path for path in images if path not in decided], [
        path for path in annotations if path not in decided
    ]


def _note_ambiguous(
    images: Sequence[str], annotations: Sequence[str], pairs: Pairs
) -> None:
    for image in images:
        if len(annotations) > 1:
            pairs.ambiguous[image] = "annotated by " + " and by ".join(annotations)
        else:
            others = [other for other in images if other != image]
            pairs.ambiguous[image] = (
                f"{annotations[0]} may be for it, or for {', '.join(others)}"
            )


def _group(paths: Iterable[str], key: Key) -> dict[Hashable, list[str]]:
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups


def without_suffix(path: str, suffix: str) -> str:
    """A path without what its name has before the ending, where it has that."""
    pure = PurePosixPath(path)
    if not suffix or not pure.stem.endswith(suffix):
        return path
    return str(
        pure.with_name((pure.stem.removesuffix(suffix) or pure.stem) + pure.suffix)
    )


def _place(path: str) -> Hashable:
    *folders, name = path.split("/")
    stripped = [strip_role(folder) for folder in folders]
    places = [folder for folder in stripped if folder]
    return tuple(places), PurePosixPath(name).stem


def _stem(path: str) -> Hashable:
    return PurePosixPath(path).stem


def _folded_stem(path: str) -> Hashable:
    return PurePosixPath(path).stem.casefold()


@lru_cache(maxsize=10_000)
def role_of(folder: str) -> str:
    """The word in a folder's name that says what lies in it: "masks" of "train_masks";
    "" where there is none.
    """
    name = folder.casefold()
    if name in ROLE_WORDS:
        return name
    role = _ROLE_AT_END.search(name) or _ROLE_AT_START.search(name)
    return role[0].strip(" _.-") if role else ""


def roles_of(paths: Iterable[str]) -> set[str]:
    """The role words by which the folders of some paths are called."""
    roles: set[str] = set()
    for path in paths:
        roles.update(role_of(folder) for folder in path.split("/")[:-1])
    return roles


@lru_cache(maxsize=10_000)
def strip_role(folder: str) -> str:
    """A folder's name in lower case, without the words that say what lies in it: "" of
    "images", "train" of "trainannot".
    """
    name = folder.casefold()
    if name in ROLE_WORDS:
        return ""
    return _ROLE_AT_START.sub("", _ROLE_AT_END.sub("", name))


def lies_in(path: str, folder: str) -> bool:
    """Whether a folder of a path is called so, or for that role, or whether it lies
    below that path.
    """
    wanted = folder.strip("/").casefold()
    lowered = path.casefold()
    if lowered.startswith(f"{wanted}/"):
        return True
    folders = lowered.split("/")[:-1]
    return wanted in folders or any(role_of(name) == wanted for name in folders)


def outside_mask_folders(images: Sequence[str]) -> list[str]:
    """The images that lie where masks do not; all, where every one lies there: "mask"
    may be what they show.
    """
    others = []
    for path in images:
        if PURE_MASK_FOLDERS.isdisjoint(roles_of([path])):
            others.append(path)
    return others or list(images)


class ImageNames:
    """Finds images by what annotations and lists call them: a path, a file name, or a
    name without its ending.
    """

    def __init__(self, images: Collection[str]) -> None:
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in sorted(images):
            name = path.rpartition("/")[2]
            self._by_name[name].append(path)
            stem = PurePosixPath(name).stem
            if stem != name:
                self._by_name[stem].append(path)

    def find(self, name: str, base: str = "") -> tuple[str, ...]:
        r"""The images that a name may stand for: of those called so, the ones whose
        folders agree longest with it.

        Args:
            name: may be a path from another machine, with `/` or `\` between its
                folders.
            base: folder of the file in which the name stands; an image below it is
                meant before others.
        """
        for written in (stored_path(name), name.replace("\\", "/")):
            parts = [part for part in written.split("/") if part not in ("", ".", "..")]
            if parts:
                candidates = self._by_name.get(parts[-1], [])
            else:
                candidates = []
            if candidates:
                return self._nearest_of(candidates, parts[:-1], base)
        return ()

    def _nearest_of(
        self, candidates: Sequence[str], folders: Sequence[str], base: str
    ) -> tuple[str, ...]:
        home = base.split("/") if base else []

        def shared_end(path: str) -> int:
            return _common_tail(path.split("/")[:-1], folders)

        def shared_beginning(path: str) -> int:
            return _common_head(path.split("/")[:-1], home)

        best = _nearest(candidates, shared_end)
        return _nearest(best, shared_beginning)


def _nearest(paths: Sequence[str], closeness: Callable[[str], int]) -> tuple[str, ...]:
    if len(paths) < 2:
        return tuple(paths)
    scores = [closeness(path) for path in paths]
    most = max(scores)
    return tuple(
        path for path, score in zip(paths, scores, strict=True) if score == most
    )


def _common_tail(left: Sequence[str], right: Sequence[str]) -> int:
    turned_left = left[::-1]
    turned_right = right[::-1]
    return _common_head(turned_left, turned_right)


def _common_head(left: Sequence[str], right: Sequence[str]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
