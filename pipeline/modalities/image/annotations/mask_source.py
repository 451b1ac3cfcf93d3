"""Finds out where masks lie and what their values stand for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import DataConfig
from pipeline.data.layout import walk
from pipeline.errors import DataError
from pipeline.modalities.image.annotations.box_source import find_readings
from pipeline.modalities.image.annotations.class_names import find_named_values
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
from pipeline.modalities.image.annotations.given_splits import SEGMENTATION, find_splits
from pipeline.modalities.image.annotations.mask_listing import find_mask_folders
from pipeline.modalities.image.annotations.mask_names import (
    SeveralKinds,
    Suffixes,
    find_suffixes,
)
from pipeline.modalities.image.annotations.mask_values import peek, read_values
from pipeline.modalities.image.annotations.other_formats import find_other_format
from pipeline.modalities.image.annotations.pairing import (
    MASK_FOLDERS,
    Pairs,
    pair,
    role_of,
    roles_of,
    strip_role,
)
from pipeline.modalities.image.annotations.settings import MaskConfig
from pipeline.modalities.image.file_types import is_image_name
from pipeline.text import pluralize

PEEKED = 300  # masks that are looked into


@dataclass(frozen=True)
class _Candidate:
    """A way to pair images and masks.

    Args:
        unused: image files that are neither.
    """

    config: MaskConfig
    pairs: Pairs
    words: str
    unused: tuple[str, ...] = ()


def describe_masks(source: Path) -> DescribedSource:
    """Where the masks of a folder lie, what their values stand for, and its splits.

    Raises:
        DataError: no masks are found, or they can be read in two ways; names them.
    """
    refuse_file(source)
    tree = walk(source)
    candidate = _find_candidate(source, tree.files)
    masks = sorted(candidate.pairs.of_image.values())
    peeked = evenly(masks, PEEKED)
    values = peek(source, peeked)
    named = find_named_values(source, tree.files)
    classes, ignore, notes = read_values(source, values, named)
    settings: dict[str, Any] = candidate.config.model_dump(
        mode="json", exclude_defaults=True
    )
    settings["values"] = {"classes": classes}
    if ignore:
        settings["values"]["ignore"] = ignore
    images = list(candidate.pairs.of_image)
    splits = find_splits(source, tree.files, images, SEGMENTATION)
    described = ", ".join(f"{label} = {value}" for label, value in classes.items())
    if ignore:
        described += f"; ignored: {', '.join(map(str, ignore))}"
    bare = len(candidate.pairs.images_alone)
    alone = bare + len(candidate.pairs.annotations_alone)
    if bare > DataConfig().max_bad_fraction * (len(images) + bare):
        settings["unannotated"] = "skip"
        alone -= bare
    if alone:
        notes = [*notes, f"without a counterpart: {alone} images and masks"]
    return DescribedSource(
        {"masks": settings},
        (
            f"masks: {len(images):,} images in {folders_of(images)}, {candidate.words}",
            f"classes: {described}",
            *_describe_peeked(peeked, masks),
            *notes,
            *describe_skipped(bare, "a mask", settings),
            *_describe_unused(candidate.unused),
            describe_splits(splits, images),
            *describe_groups(source),
        ),
        count_training_images(splits, images),
    )


def _describe_peeked(peeked: Sequence[str], masks: Sequence[str]) -> tuple[str, ...]:
    if len(peeked) == len(masks):
        return ()
    return (f"values: from {len(peeked):,} of {len(masks):,} masks",)


def _describe_unused(paths: Sequence[str]) -> tuple[str, ...]:
    if not paths:
        return ()
    files = pluralize(len(paths), "further image file")
    return (f"not used: {files} in {folders_of(paths)}",)


def _find_candidate(source: Path, files: Sequence[str]) -> _Candidate:
    """The way in which most images have a mask."""
    images = [path for path in files if is_image_name(path)]
    roles = roles_of(images)
    words: list[str] = [word for word in MASK_FOLDERS if word in roles]
    usable: list[_Candidate] = []
    kinds: tuple[str, ...] = ()
    for word in (*words, ""):
        try:
            candidate = _try(files, word)
        except SeveralKinds as fault:
            kinds = kinds or fault.kinds
            continue
        if candidate.pairs.of_image:
            usable.append(candidate)
    if not usable and kinds:
        raise _several_kinds(source, kinds)
    if not usable:
        raise _no_masks(source, files, images)
    usable.sort(key=lambda candidate: -len(candidate.pairs.of_image))
    most = len(usable[0].pairs.of_image)
    equal = [candidate for candidate in usable if len(candidate.pairs.of_image) == most]
    mask_sets = {
        tuple(sorted(candidate.pairs.of_image.values())) for candidate in equal
    }
    if len(mask_sets) > 1:
        raise DataError(
            f"folder {source}",
            found=f"masks in two places: {equal[0].words}, and {equal[1].words}",
            expected="one mask for each image",
            hint="move one of them away",
        )
    return usable[0]


def _several_kinds(source: Path, kinds: Sequence[str]) -> DataError:
    listed = ", ".join(kinds[:6])
    if len(kinds) > 6:
        listed += ", …"
    return DataError(
        f"folder {source}",
        found=f"several masks for an image, by the ends of their names: {listed}",
        expected="one mask for each image",
        hint="move all kinds but one away; where each file shows one object, unite those "
        "of an image into one file: 0 where no object is, 255 elsewhere",
    )


def _no_masks(source: Path, files: Sequence[str], images: Sequence[str]) -> DataError:
    expected = (
        "an image and a mask of one name, in folders such as images and masks, or with "
        "an ending such as _mask"
    )
    found = f"{len(images):,} images, in {folders_of(images) or 'no folder'}"
    objects = _objects_of_one_image(images)
    if objects:
        return DataError(
            f"folder {source}",
            found=f"{found}, and several masks for one image: {' and '.join(objects)}",
            expected=expected,
            hint="unite the masks of an image into one file of its name: 0 where no "
            "object is, 255 elsewhere",
        )
    other, path = find_other_format(source, files)
    named = f"; {path} looks like {other.title}" if path else ""
    hint = other.hint or "name the folder that holds both, or rename the files"
    readings = find_readings(source, files, images)
    if readings:
        hint = f"for its boxes, {readings[0].words}: --task object-detection; {hint}"
    return DataError(
        f"folder {source}",
        found=f"{found}, and no masks that belong to them{named}",
        expected=expected,
        hint=hint,
    )


def _objects_of_one_image(images: Sequence[str]) -> list[str]:
    """Two masks of a folder that belongs to one image alone, as where each object has
    its own file; none elsewhere.
    """
    masks_of: dict[tuple[str, ...], list[str]] = defaultdict(list)
    images_of: Counter[tuple[str, ...]] = Counter()
    for path in images:
        folders = path.split("/")[:-1]
        home = tuple(name for name in map(strip_role, folders) if name)
        if any(role_of(name) in MASK_FOLDERS for name in folders):
            masks_of[home].append(path)
        else:
            images_of[home] += 1
    single = [masks for home, masks in masks_of.items() if images_of[home] == 1]
    most = max(single, key=len, default=[])
    if len(most) > 1:
        return sorted(most)[:2]
    return []


def _try(files: Sequence[str], folder: str) -> _Candidate:
    """Images paired with the masks of one folder, or by the suffix alone."""
    if folder:
        folders = find_mask_folders(files, MaskConfig(masks=folder))
        suffixes = find_suffixes(folders.images, folders.masks)
    else:
        images = [path for path in files if is_image_name(path)]
        suffixes = find_suffixes(images, images)
        if not suffixes.mask:
            return _Candidate(MaskConfig(), Pairs(), "")
    config = MaskConfig(
        masks=folder or None,
        images=(folders.image_folder or None) if folder else None,
        suffix=suffixes.mask,
        image_suffix=suffixes.image,
    )
    folders = find_mask_folders(files, config)
    pairs = pair(folders.images, folders.masks, suffixes.mask, suffixes.image)
    used = {*folders.images, *folders.masks}
    unused = [path for path in files if is_image_name(path) and path not in used]
    return _Candidate(config, pairs, _describe_pairs(pairs, suffixes), tuple(unused))


def _describe_pairs(pairs: Pairs, suffixes: Suffixes) -> str:
    folders = folders_of(pairs.of_image.values())
    ending = ""
    if suffixes.mask:
        ending = f" with the ending {suffixes.mask}"
    of_images = ""
    if suffixes.image:
        of_images = f" in the place of {suffixes.image}"
    return f"masks in {folders}{ending}{of_images}"
