"""Finds out in which format boxes are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import DataConfig
from pipeline.data.layout import walk
from pipeline.errors import DataError
from pipeline.examples import ExampleFault
from pipeline.modalities.image.annotations.annotated_images import AnnotatedImages
from pipeline.modalities.image.annotations.box_listing import find_images, read_boxes
from pipeline.modalities.image.annotations.boxes import BoxAnnotation, all_objects
from pipeline.modalities.image.annotations.coco import find_coco
from pipeline.modalities.image.annotations.described_source import (
    DescribedSource,
    count_training_images,
    describe_counts,
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
from pipeline.modalities.image.annotations.other_formats import find_other_format
from pipeline.modalities.image.annotations.pairing import (
    PURE_MASK_FOLDERS,
    pair,
    roles_of,
)
from pipeline.modalities.image.annotations.settings import AnnotationConfig, BoxFormat
from pipeline.modalities.image.annotations.voc import find_voc
from pipeline.modalities.image.annotations.yolo import find_yolo
from pipeline.modalities.image.file_types import is_image_name

TITLES: dict[BoxFormat, str] = {"voc": "Pascal VOC", "coco": "COCO", "yolo": "YOLO"}
PEEKED = 50  # text files that are looked into, to tell labels from notes


class Reading(NamedTuple):
    """A format that a folder may be in, and the files that speak for it."""

    format: BoxFormat
    sources: Sequence[str]

    @property
    def words(self) -> str:
        title = TITLES[self.format]
        first = self.sources[0]
        if len(self.sources) == 1:
            return f"{title} ({first})"
        return f"{title} ({first} and {len(self.sources) - 1} more)"


def describe_boxes(source: Path) -> DescribedSource:
    """In which format the boxes of a folder are written, its classes and its splits.

    Raises:
        DataError: no format fits, or several do; names them.
    """
    refuse_file(source)
    tree = walk(source)
    images = find_images(tree.files, None)
    reading = _find_reading(source, tree.files, images)
    settings: dict[str, Any] = {"format": reading.format}
    annotated = _read(source, tree.files, images, settings)
    _refuse_repeated_images(source, annotated.faults)
    annotations = list(annotated.of_image.values())
    if reading.format == "voc" and _counts_from_zero(annotations):
        settings["first_pixel"] = 0
    notes = (
        f"boxes: {TITLES[reading.format]}, {len(images):,} images in {folders_of(images)}, "
        f"annotations in {folders_of(reading.sources)}",
        *_describe_objects(annotations, annotated.faults, settings),
        *describe_skipped(len(images) - len(annotations), "an annotation", settings),
        describe_splits(annotated.splits, list(annotated.of_image)),
        *describe_groups(source),
    )
    count = count_training_images(annotated.splits, annotated.of_image)
    return DescribedSource({"annotations": settings}, notes, count)


def _read(
    source: Path,
    files: Sequence[str],
    images: Sequence[str],
    settings: dict[str, Any],
) -> AnnotatedImages:
    """What is annotated; where more images have nothing than may be unusable, they are
    taken for images that nobody has annotated yet.
    """
    annotated = read_boxes(
        source, files, images, AnnotationConfig.model_validate(settings)
    )
    bare = sum(fault.code == "no-annotation" for fault in annotated.faults)
    if bare > DataConfig().max_bad_fraction * len(images):
        settings["unannotated"] = "skip"
        skipping = AnnotationConfig.model_validate(settings)
        annotated = read_boxes(source, files, images, skipping)
    return annotated


def find_readings(
    source: Path, files: Sequence[str], images: Sequence[str]
) -> list[Reading]:
    """The formats that a folder may be in."""
    finders: dict[BoxFormat, Callable[[], list[str]]] = {
        "voc": lambda: _voc_sources(source, files, images),
        "coco": lambda: find_coco(source, files),
        "yolo": lambda: _yolo_sources(source, files, images),
    }
    readings = [Reading(name, find()) for name, find in finders.items()]
    return [reading for reading in readings if reading.sources]


def _find_reading(source: Path, files: Sequence[str], images: Sequence[str]) -> Reading:
    """The one format that fits."""
    readings = find_readings(source, files, images)
    if not readings:
        raise _no_reading(source, files, images)
    if len(readings) > 1:
        words = " and ".join(reading.words for reading in readings)
        raise DataError(
            f"folder {source}",
            found=f"annotations that can be read in {len(readings):,} ways: {words}",
            expected="annotations in one format",
            hint="move all but one away, or, where task.annotations.format is to say it, "
            "make the workspace without --data, set it in params.yaml and add the data then",
        )
    return readings[0]


def _voc_sources(
    source: Path, files: Sequence[str], images: Sequence[str]
) -> list[str]:
    pairs = pair(images, find_voc(files))
    sources = sorted(pairs.of_image.values())
    if any(_holds(source, path, b"<annotation") for path in evenly(sources, PEEKED)):
        return sources
    return []


def _yolo_sources(
    source: Path, files: Sequence[str], images: Sequence[str]
) -> list[str]:
    pairs = pair(images, find_yolo(files, images))
    sources = sorted(pairs.of_image.values())
    if any(_begins_with_numbers(source, path) for path in evenly(sources, PEEKED)):
        return sources
    return []


def _holds(source: Path, path: str, text: bytes) -> bool:
    try:
        return text in read_annotation(source, path)[:10_000]
    except AnnotationError:
        return False


def _begins_with_numbers(source: Path, path: str) -> bool:
    """Whether a file's first line could be a class number and a box."""
    try:
        lines = read_annotation(source, path).split(b"\n", 1)
    except AnnotationError:
        return False
    words = lines[0].split()
    try:
        return len(words) >= 5 and all(float(word) >= 0 for word in words)
    except ValueError:
        return False


def _no_reading(source: Path, files: Sequence[str], images: Sequence[str]) -> DataError:
    counts = Counter(
        path.rpartition(".")[2].lower() for path in files if not is_image_name(path)
    )
    others = ", ".join(f"{count} .{ending}" for ending, count in counts.most_common(5))
    other, path = find_other_format(source, files)
    hint = other.hint or "name the folder that holds both images and annotations"
    everything = [path for path in files if is_image_name(path)]
    if not other.hint and not PURE_MASK_FOLDERS.isdisjoint(roles_of(everything)):
        hint = "there are masks: --task semantic-segmentation"
    named = f": {path} looks like {other.title}" if path else ""
    return DataError(
        f"folder {source}",
        found=f"{len(images):,} images, and besides {others or 'nothing'}{named}",
        expected="boxes as Pascal VOC (an XML file for each image), COCO (a JSON file with images, annotations and "
        "categories) or YOLO (a text file for each image, and data.yaml)",
        hint=hint,
    )


def _refuse_repeated_images(source: Path, faults: Sequence[ExampleFault]) -> None:
    repeated = [fault for fault in faults if fault.code == "listed-twice"]
    if repeated:
        raise DataError(
            f"folder {source}",
            found=f"{len(repeated):,} images in two files, the first of them {repeated[0].path}: {repeated[0].found}",
            expected="one entry for one image",
            hint="move one of the files away: which of them is right cannot be told",
        )


def _counts_from_zero(annotations: Sequence[BoxAnnotation]) -> bool:
    """Whether a VOC corner is written as 0, so that it became an edge below 0."""
    lowest_edges = [min(item.box) for item in all_objects(annotations)]
    return any(edge < 0 for edge in lowest_edges)


def _describe_objects(
    annotations: Sequence[BoxAnnotation],
    faults: Sequence[ExampleFault],
    settings: dict[str, Any],
) -> list[str]:
    objects = Counter(each.label for each in all_objects(annotations))
    notes = [
        describe_counts(dict(sorted(objects.items())), "classes, with their objects")
    ]
    empty = sum(not annotation.objects for annotation in annotations)
    if empty:
        notes.append(f"images without an object: {empty}")
    if faults:
        first = faults[0]
        notes.append(
            f"cannot be used: {len(faults)}, the first {first.path}: {first.found}"
        )
    if settings.get("first_pixel") == 0:
        notes.append(
            "pixels are counted from 0: a corner is 0, which Pascal VOC does not have"
        )
    return notes
