"""Images with masks: which there are, and which mask belongs to each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.config import DataConfig
from pipeline.data.layout import unicode_collisions, walk
from pipeline.data.sources import NO_EXTRAS, read_metadata
from pipeline.errors import DataError
from pipeline.examples import ExampleFault, ExampleListing, ListedExample
from pipeline.modalities.image.annotations.annotated_images import skipped
from pipeline.modalities.image.annotations.given_splits import SEGMENTATION, find_splits
from pipeline.modalities.image.annotations.pairing import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    Pairs,
    lies_in,
    outside_mask_folders,
    pair,
    roles_of,
    without_suffix,
)
from pipeline.modalities.image.annotations.settings import MaskConfig
from pipeline.modalities.image.file_types import is_image_name


@dataclass(frozen=True, slots=True)
class MaskAnnotation:
    """Where the mask of an image lies, below the data folder.

    Args:
        path: "" where there is none, and all of the image is background.
    """

    path: str


class MaskFolders(NamedTuple):
    """Image files by what they are, by paths below the data folder.

    Args:
        images, masks: sorted.
        image_folder, mask_folder: by what name they were told apart; "" where by
            another folder's or by the suffix.
    """

    images: tuple[str, ...]
    masks: tuple[str, ...]
    image_folder: str = ""
    mask_folder: str = ""


def list_masks(root: Path, data: DataConfig, settings: MaskConfig) -> ExampleListing:
    """Lists the images of a data folder with their masks.

    `metadata.csv` at the top (column `path`, optionally `group`, any others) adds to
    them.

    Raises:
        DataError: no image has a mask, or the settings do not say what a mask's values
            stand for.
    """
    if not settings.values.classes:
        raise DataError(
            "task.masks.values.classes",
            found="nothing",
            expected="the classes, the background first, each with its pixels' value",
            hint="for example {background: 0, crack: 255}; thaw init finds them out",
        )
    tree = walk(root)
    folders = find_mask_folders(tree.files, settings)
    pairs = pair(folders.images, folders.masks, settings.suffix, settings.image_suffix)
    if not pairs.of_image:
        raise _nothing_masked(root, folders)
    splits = find_splits(root, tree.files, folders.images, SEGMENTATION)
    extras, findings = read_metadata(root, data, dict.fromkeys(folders.images), tree)
    mask_of = dict(pairs.of_image)
    if settings.unannotated == "empty":
        mask_of.update(dict.fromkeys(pairs.images_alone, ""))
    examples = []
    for path, mask in sorted(mask_of.items()):
        extra = extras.get(path, NO_EXTRAS)
        split = splits.of_image.get(path) or extra.split
        annotation = MaskAnnotation(mask)
        examples.append(
            ListedExample(
                path, "", extra.group, split, extra.meta, annotation=annotation
            )
        )
    all_findings = [*splits.findings, *findings]
    if settings.unannotated == "skip":
        all_findings += skipped(pairs.images_alone, "a mask", "task.masks")
    collisions = unicode_collisions((*folders.images, *folders.masks))
    if collisions:
        all_findings.append(collisions)
    faults = (*tree.faults, *_unpaired(pairs, settings))
    return ExampleListing(tuple(examples), faults, tuple(all_findings))


def _unpaired(pairs: Pairs, settings: MaskConfig) -> list[ExampleFault]:
    """Images and masks that cannot be used, since they have no counterpart or
    several.
    """
    faults = []
    if settings.unannotated == "error":
        faults += [_no_mask(path) for path in pairs.images_alone]
    faults += [_no_image(path) for path in pairs.annotations_alone]
    faults += [_ambiguous(path, words) for path, words in pairs.ambiguous.items()]
    return faults


def find_mask_folders(files: Iterable[str], settings: MaskConfig) -> MaskFolders:
    """Which image files are images and which are masks, by the folders they lie in and
    by the suffix.
    """
    candidates = [path for path in files if is_image_name(path)]
    mask_folder = settings.masks or _first_role(candidates, MASK_FOLDERS)
    masks = [
        path for path in candidates if _is_mask(path, mask_folder, settings.suffix)
    ]
    others = sorted(set(candidates) - set(masks))
    image_folder = settings.images or _first_role(others, IMAGE_FOLDERS)
    images = outside_mask_folders(others)
    if image_folder:
        images = [path for path in others if lies_in(path, image_folder)]
    if settings.image_suffix:
        images = [path for path in images if _has_suffix(path, settings.image_suffix)]
    return MaskFolders(tuple(images), tuple(sorted(masks)), image_folder, mask_folder)


def _is_mask(path: str, folder: str, suffix: str) -> bool:
    if folder and not lies_in(path, folder):
        return False
    if suffix:
        return _has_suffix(path, suffix)
    return bool(folder)


def _has_suffix(path: str, suffix: str) -> bool:
    return without_suffix(path, suffix) != path


def _first_role(paths: Sequence[str], words: Sequence[str]) -> str:
    """The first of these words by which a folder is called; "" where none is."""
    used = roles_of(paths)
    for word in words:
        if word in used:
            return word
    return ""


def _nothing_masked(root: Path, folders: MaskFolders) -> DataError:
    return DataError(
        f"data folder {root}",
        found=f"{len(folders.images):,} images and {len(folders.masks):,} masks, and none belong together",
        expected="an image and a mask of one name, in folders such as images and masks",
        hint="set task.masks.images, task.masks.masks, task.masks.suffix and "
        "task.masks.image_suffix",
    )


def _no_mask(path: str) -> ExampleFault:
    hint = (
        "add it, or set task.masks.unannotated: empty if such images are background "
        "everywhere, skip if they are not annotated yet"
    )
    return ExampleFault(
        path, "no-annotation", "no mask of it", "one for each image", hint
    )


def _no_image(path: str) -> ExampleFault:
    return ExampleFault(
        path,
        "no-image",
        "a mask without an image",
        "the image it is about",
        "add it, or remove it",
    )


def _ambiguous(path: str, words: str) -> ExampleFault:
    return ExampleFault(
        path,
        "ambiguous-annotation",
        words,
        "one mask for one image",
        "rename or remove one",
    )
