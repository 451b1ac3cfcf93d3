"""Images with boxes: which there are, and what is annotated of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import DataConfig
from pipeline.data.layout import FolderTree, unicode_collisions, walk
from pipeline.data.sources import NO_EXTRAS, read_metadata
from pipeline.errors import DataError
from pipeline.examples import ExampleFault, ExampleListing, ListedExample
from pipeline.modalities.image.annotations.boxes import BoxAnnotation
from pipeline.modalities.image.annotations.faults import AnnotationError, read_annotation
from pipeline.modalities.image.annotations.given_splits import GivenSplits, find_splits
from pipeline.modalities.image.annotations.pairing import Pairs, pair
from pipeline.modalities.image.annotations.settings import AnnotationConfig
from pipeline.modalities.image.annotations.voc import read_voc
from pipeline.modalities.image.file_types import is_image_name
from pipeline.records import Finding

MAIN = "main"  # the folder of ImageSets that is for boxes


@dataclass
class AnnotatedImages:
    """What the annotations of a data folder say, whatever their format.

    Args:
        of_image: image → its boxes.
        faults: images whose annotation cannot be used, and annotations without an image.
        splits: the splits that came with the images.
        findings: what else is to be said.
    """

    of_image: dict[str, BoxAnnotation] = field(default_factory=dict)
    faults: list[ExampleFault] = field(default_factory=list)
    splits: GivenSplits = field(default_factory=lambda: GivenSplits({}, (), ()))
    findings: list[Finding] = field(default_factory=list)


def list_boxes(root: Path, data: DataConfig, settings: AnnotationConfig) -> ExampleListing:
    """Lists the images of a data folder with the boxes that are annotated of them.

    `metadata.csv` at the top (column `path`, optionally `group`, any others) adds to them.

    Raises:
        DataError: no image has an annotation, or a file that concerns all of them cannot be used.
    """
    tree = walk(root)
    images = [path for path in tree.files if is_image_name(path)]
    annotated = _read(root, tree, images, settings)
    if not annotated.of_image:
        raise _nothing_annotated(root, settings, len(images), annotated.faults)
    known = dict.fromkeys(images)
    extras, findings = read_metadata(root, data, known, tree)
    examples = []
    for path, annotation in sorted(annotated.of_image.items()):
        extra = extras.get(path, NO_EXTRAS)
        split = annotated.splits.of_image.get(path) or extra.split
        examples.append(ListedExample(path, "", extra.group, split, extra.meta, annotation=annotation))
    collisions = unicode_collisions(images)
    told = (*annotated.findings, *annotated.splits.findings, *findings, *([collisions] if collisions else []))
    return ExampleListing(tuple(examples), (*tree.faults, *annotated.faults), told)


def _read(root: Path, tree: FolderTree, images: Sequence[str], settings: AnnotationConfig) -> AnnotatedImages:
    if settings.format != "voc":
        raise NotImplementedError(settings.format)
    return _read_voc(root, tree, images, settings)


def _nothing_annotated(
    root: Path, settings: AnnotationConfig, images: int, faults: Sequence[ExampleFault]
) -> DataError:
    return DataError(
        f"data folder {root}",
        found=f"{images} images, and no annotation of one in the format {settings.format}",
        expected="images and their annotations (task.annotations.format)",
        hint="put the annotations there (dvc pull), or correct task.annotations",
        details=[f"{fault.path}: {fault.code}: {fault.found}" for fault in faults],
    )


def _read_voc(root: Path, tree: FolderTree, images: Sequence[str], settings: AnnotationConfig) -> AnnotatedImages:
    result = AnnotatedImages(splits=find_splits(root, tree.files, images, MAIN))
    pairs = pair(images, [path for path in tree.files if path.lower().endswith(".xml")])
    for image, source in sorted(pairs.of_image.items()):
        try:
            result.of_image[image] = read_voc(read_annotation(root, source), source, settings)
        except AnnotationError as fault:
            result.faults.append(fault.of(image))
    add_unpaired(result, pairs, are_empty=settings.unannotated == "empty")
    return result


def add_unpaired(result: AnnotatedImages, pairs: Pairs, *, are_empty: bool) -> None:
    """Adds what has no counterpart.

    Args:
        are_empty: whether an image without an annotation shows no object; else it is a fault.
    """
    for image in pairs.images_alone:
        if are_empty:
            result.of_image[image] = BoxAnnotation("")
        else:
            result.faults.append(no_annotation(image))
    result.faults += [no_image(source) for source in pairs.annotations_alone]
    result.faults += [_ambiguous(image, words) for image, words in pairs.ambiguous.items()]


def no_annotation(image: str) -> ExampleFault:
    """The fault of an image that nothing is annotated of."""
    hint = "annotate it, or set task.annotations.unannotated: empty if such images show no object"
    return ExampleFault(image, "no-annotation", "no annotation of it", "one for each image", hint)


def no_image(source: str, name: str = "") -> ExampleFault:
    """The fault of an annotation whose image is missing."""
    found = f"no image {name}" if name else "no image of this name"
    return ExampleFault(source, "no-image", found, "the image it is about", "add the image, or remove the annotation")


def _ambiguous(image: str, words: str) -> ExampleFault:
    return ExampleFault(image, "ambiguous-annotation", words, "one annotation for one image", "rename or remove one")
