"""COCO: a JSON file for each split, with all its images, categories and annotations.

The format is that of Lin et al., "Microsoft COCO: Common Objects in Context" (2014), as
cocodataset.org describes it: boxes are left, top, width and height in pixels, from 0.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.examples import ExampleFault
from pipeline.manifest import Split
from pipeline.modalities.image.annotations.annotated_images import (
    AnnotatedImages,
    add_unannotated,
    ambiguous,
    no_image,
)
from pipeline.modalities.image.annotations.boxes import (
    AnnotatedObject,
    Box,
    BoxAnnotation,
    polygon_box,
)
from pipeline.modalities.image.annotations.faults import (
    MOST_BYTES_OF_ALL,
    AnnotationError,
    is_writable,
    read_annotation,
    shown,
)
from pipeline.modalities.image.annotations.given_splits import (
    MAIN,
    GivenSplits,
    find_splits,
    split_of_folders,
    split_of_name,
)
from pipeline.modalities.image.annotations.pairing import ImageNames
from pipeline.modalities.image.annotations.run_lengths import run_length_box
from pipeline.modalities.image.annotations.settings import AnnotationConfig

KEYS = ("images", "annotations", "categories")
# What COCO's own files with boxes are called, beside captions, keypoints and others.
BOXES = "instances"


@dataclass(frozen=True)
class CocoFile:
    """One JSON file.

    Args:
        path: below the data folder.
        images, annotations: as they stand there.
        categories: id → name.
        split: the one that its name or folder says.
    """

    path: str
    images: Sequence[Any]
    annotations: Sequence[Any]
    categories: Mapping[Any, str]
    split: Split | None


def read_coco_folder(
    root: Path, files: Sequence[str], images: Sequence[str], settings: AnnotationConfig
) -> AnnotatedImages:
    """The boxes of all images below a data folder.

    Args:
        files: all files, by paths below it.
        images: those that are images.

    Raises:
        DataError: a JSON file cannot be read, or names a category twice.
    """
    sources = [
        read_coco(root, path) for path in settings.files or find_coco(root, files)
    ]
    fallback = find_splits(root, files, images, MAIN)
    collected = _Collected(ImageNames(images))
    for source in sources:
        if source is not None:
            collected.add(source)
    result = collected.result
    split_of_image = {**fallback.of_image, **collected.split_of_image}
    has_own = bool(collected.split_of_image)
    result.splits = GivenSplits(
        split_of_image, fallback.lists, () if has_own else fallback.findings
    )
    known = {*result.of_image, *collected.refused}
    add_unannotated(result, [image for image in images if image not in known], settings)
    return result


def find_coco(root: Path, files: Iterable[str]) -> list[str]:
    """The JSON files that hold boxes; where some in a folder are called instances,
    those alone.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in files:
        if path.lower().endswith(".json") and _has_keys(root, path):
            by_folder[path.rpartition("/")[0]].append(path)
    chosen: list[str] = []
    for paths in by_folder.values():
        boxes = [
            path for path in paths if path.rpartition("/")[2].lower().startswith(BOXES)
        ]
        chosen += boxes or paths
    return sorted(chosen)


def _has_keys(root: Path, path: str) -> bool:
    """Whether a file mentions the keys of the format: cheaper than to parse files that
    are for something else.
    """
    try:
        content = read_annotation(root, path, MOST_BYTES_OF_ALL)
    except AnnotationError:
        return False
    return all(f'"{key}"'.encode() in content for key in KEYS)


def read_coco(root: Path, path: str) -> CocoFile | None:
    """One JSON file; None where it holds something else.

    Raises:
        DataError: it cannot be read, or names a category twice.
    """
    values = _load(root, path)
    if not isinstance(values, dict):
        return None
    images, annotations, categories = (values.get(key) for key in KEYS)
    if not (
        isinstance(images, list)
        and isinstance(annotations, list)
        and isinstance(categories, list)
    ):
        return None
    return CocoFile(
        path,
        images,
        annotations,
        _read_categories(path, categories),
        split_of_source(path),
    )


def _load(root: Path, path: str) -> Any:
    try:
        return json.loads(read_annotation(root, path, MOST_BYTES_OF_ALL))
    except AnnotationError as fault:
        raise DataError(
            path, found=fault.found, expected=fault.expected, hint=fault.hint
        ) from fault
    except (ValueError, RecursionError) as fault:
        raise DataError(
            path,
            found=" ".join(f"{type(fault).__name__}: {fault}".split()),
            expected="COCO annotations, as JSON",
            hint="replace it, or name the files to read in task.annotations.files",
        ) from fault


def _read_categories(path: str, categories: Sequence[Any]) -> dict[Any, str]:
    names: dict[Any, str] = {}
    wrong = []
    for number, category in enumerate(categories):
        identity = _key(category.get("id")) if isinstance(category, dict) else None
        name = category.get("name") if isinstance(category, dict) else None
        if (
            identity is None
            or not isinstance(name, str)
            or not name.strip()
            or not is_writable(name)
        ):
            wrong.append(f"categories[{number}]: no id or no name")
        elif names.setdefault(identity, name.strip()) != name.strip():
            wrong.append(
                f"categories[{number}]: id {identity} is {names[identity]} and {name}"
            )
    if wrong:
        raise DataError(
            path,
            found=f"{len(wrong):,} categories that cannot be told apart",
            expected="an id and a name for each",
            hint="correct them",
            details=wrong,
        )
    return names


def split_of_source(path: str) -> Split | None:
    """The split that a JSON file is for: by a word of its name
    (instances_train2017.json), else by its folder's.
    """
    stem = path.rpartition("/")[2].rpartition(".")[0]
    for word in re.split(r"[^a-z]+", stem.casefold()):
        split = split_of_name(word)
        if split is not None:
            return split
    return split_of_folders(path)


def _key(value: Any) -> Any:
    """An id as a key: numbers and texts; None of anything else."""
    if isinstance(value, str):
        return value if is_writable(value) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value


@dataclass
class _Collected:
    """Puts together what several JSON files say of the images there are."""

    names: ImageNames
    result: AnnotatedImages = field(default_factory=AnnotatedImages)
    split_of_image: dict[str, Split] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    place_of: dict[str, str] = field(default_factory=dict)

    def add(self, source: CocoFile) -> None:
        """Adds the images of one file, each with its objects."""
        objects_of: dict[Any, list[tuple[int, Any]]] = defaultdict(list)
        for number, annotation in enumerate(source.annotations):
            identity = (
                _key(annotation.get("image_id"))
                if isinstance(annotation, dict)
                else None
            )
            objects_of[identity].append((number, annotation))
        entries = self._entries(source)
        for identity, entry in entries.items():
            self._add_image(source, identity, entry, objects_of.pop(identity, []))
        for unread in objects_of.values():
            self.result.object_faults += [
                _dangling(source, number, annotation) for number, annotation in unread
            ]

    def _entries(self, source: CocoFile) -> dict[Any, dict[str, Any]]:
        """The images of a file by id; those that share one with another image are
        faults.
        """
        entries: dict[Any, dict[str, Any]] = {}
        repeated: dict[Any, list[str]] = defaultdict(list)
        for number, entry in enumerate(source.images):
            identity = None
            name = None
            if isinstance(entry, dict):
                identity = _key(entry.get("id"))
                name = entry.get("file_name")
            if identity is None or not isinstance(name, str) or not is_writable(name):
                fault = _bad_entry(f"{source.path}#images[{number}]")
                self.result.faults.append(fault)
            elif entries.setdefault(identity, entry)["file_name"] != name:
                repeated[identity].append(name)
        for identity, names in repeated.items():
            first_name = entries[identity]["file_name"]
            self._refuse_repeated(source, identity, [first_name, *names])
        return entries

    def _refuse_repeated(
        self, source: CocoFile, identity: Any, names: Sequence[str]
    ) -> None:
        """All images of one id: nobody knows whose objects those of the id are."""
        for name in names:
            for path in self.names.find(name, source.path.rpartition("/")[0]):
                found = f"{source.path}: id {identity} of {' and '.join(names)}"
                self._refuse(
                    path,
                    "duplicate-image-id",
                    found,
                    "an id for each image",
                    "give each its own",
                )

    def _refuse(
        self, path: str, code: str, found: str, expected: str, hint: str
    ) -> None:
        self.result.of_image.pop(path, None)
        if path not in self.refused:
            self.refused.add(path)
            self.result.faults.append(ExampleFault(path, code, found, expected, hint))

    def _add_image(
        self,
        source: CocoFile,
        identity: Any,
        entry: dict[str, Any],
        annotations: Sequence[tuple[int, Any]],
    ) -> None:
        place = f"{source.path}#image_id={shown(identity)}"
        paths = self.names.find(entry["file_name"], source.path.rpartition("/")[0])
        if not paths:
            self.result.faults.append(no_image(place, entry["file_name"]))
            return
        if len(paths) > 1:
            others = ", ".join(paths)
            self.result.faults.append(
                ambiguous(place, f"{entry['file_name']} may be {others}")
            )
            self.refused.update(paths)
            return
        path = paths[0]
        before = self.place_of.setdefault(path, place)
        if before != place:
            self._refuse(
                path,
                "listed-twice",
                f"{before} and {place}",
                "one entry for one image",
                "remove one of the two",
            )
        if path not in self.refused:
            self._annotate(path, source, entry, annotations)

    def _annotate(
        self,
        path: str,
        source: CocoFile,
        entry: dict[str, Any],
        annotations: Sequence[tuple[int, Any]],
    ) -> None:
        if source.split is not None:
            self.split_of_image[path] = source.split
        try:
            objects = tuple(
                _read_object(source, number, annotation)
                for number, annotation in annotations
            )
        except AnnotationError as fault:
            self._refuse(path, fault.code, fault.found, fault.expected, fault.hint)
            return
        self.result.of_image[path] = BoxAnnotation(
            source.path, objects, _read_size(entry)
        )


def _bad_entry(place: str) -> ExampleFault:
    return ExampleFault(
        place,
        "bad-image-entry",
        "an image without id or file_name",
        "both",
        "correct or remove it",
    )


def _place(source: CocoFile, number: int, annotation: Any) -> str:
    identity = annotation.get("id") if isinstance(annotation, dict) else None
    return (
        f"{source.path}#annotations[{number}]"
        if identity is None
        else f"{source.path}#id={shown(identity)}"
    )


def _dangling(source: CocoFile, number: int, annotation: Any) -> ExampleFault:
    identity = annotation.get("image_id") if isinstance(annotation, dict) else None
    place = _place(source, number, annotation)
    found = f"image_id {shown(identity)}"
    return ExampleFault(
        place, "dangling-image-id", found, "the id of an image", "correct or remove it"
    )


def _read_object(
    source: CocoFile, number: int, annotation: dict[str, Any]
) -> AnnotatedObject:
    place = _place(source, number, annotation)
    category = annotation.get("category_id")
    label = source.categories.get(_key(category))
    if label is None:
        first_categories = list(source.categories.items())[:10]
        known = ", ".join(f"{identity} ({name})" for identity, name in first_categories)
        raise AnnotationError(
            "unknown-category",
            f"{place}: category_id {shown(category)}",
            f"one of {known}",
            "correct it, or add the category",
        )
    is_crowd = annotation.get("iscrowd") in (1, True)
    box = _read_box(place, label, annotation)
    return AnnotatedObject(place, label, box, ignored=is_crowd)


def _read_box(place: str, label: str, annotation: Mapping[str, Any]) -> Box:
    numbers = _numbers(annotation.get("bbox"))
    if numbers is not None and len(numbers) == 4:
        left, top, width, height = numbers
        return left, top, left + width, top + height
    outline = _segmentation_box(annotation.get("segmentation"))
    if annotation.get("bbox") in (None, []) and outline is not None:
        return outline
    found = f"{place}: {label}, bbox {shown(annotation.get('bbox'))}"
    raise AnnotationError(
        "bad-box",
        found,
        "left, top, width and height, as finite numbers, or an outline in segmentation",
        "correct the box",
    )


def _segmentation_box(segmentation: Any) -> Box | None:
    """The box around an object's polygons or mask; None where it has neither."""
    if isinstance(segmentation, dict):
        return run_length_box(segmentation)
    points = _polygon_points(segmentation)
    return polygon_box(points) if points else None


def _polygon_points(segmentation: Any) -> list[float]:
    """All corners of an object's polygons, x, y, x, y, …; none where there is no
    polygon.
    """
    points: list[float] = []
    for polygon in segmentation if isinstance(segmentation, list) else []:
        numbers = _numbers(polygon) or []
        if len(numbers) < 6 or len(numbers) % 2:
            return []
        points += numbers
    return points


def _numbers(values: Any) -> list[float] | None:
    """Finite numbers; None of anything else."""
    if not isinstance(values, list):
        return None
    numbers = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:
            return None
        if not math.isfinite(number):
            return None
        numbers.append(number)
    return numbers


def _read_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    numbers = _numbers([entry.get("width"), entry.get("height")])
    if numbers is None or min(numbers) < 1:
        return None
    width, height = numbers
    return int(width), int(height)
