"""What the annotations of a data folder say, whatever their format, and what is said of
images that have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.examples import ExampleFault
from pipeline.modalities.image.annotations.boxes import BoxAnnotation
from pipeline.modalities.image.annotations.given_splits import GivenSplits
from pipeline.modalities.image.annotations.pairing import Pairs
from pipeline.modalities.image.annotations.settings import AnnotationConfig
from pipeline.records import Finding


@dataclass
class AnnotatedImages:
    """The images of a data folder and their boxes.

    Args:
        of_image: image → its boxes.
        faults: images whose annotation cannot be used, and annotations without an
            image.
        object_faults: annotated objects that belong to no image.
        splits: the splits that came with the images.
        findings: what else is to be said.
    """

    of_image: dict[str, BoxAnnotation] = field(default_factory=dict)
    faults: list[ExampleFault] = field(default_factory=list)
    object_faults: list[ExampleFault] = field(default_factory=list)
    splits: GivenSplits = field(default_factory=lambda: GivenSplits({}, (), ()))
    findings: list[Finding] = field(default_factory=list)


def are_empty(settings: AnnotationConfig) -> bool:
    """Whether an image without an annotation shows no object; else it is a fault."""
    if settings.unannotated == "auto":
        return settings.format == "yolo"
    return settings.unannotated == "empty"


def add_unpaired(
    result: AnnotatedImages, pairs: Pairs, settings: AnnotationConfig
) -> None:
    """Adds what has no counterpart, or several."""
    add_unannotated(result, pairs.images_alone, settings)
    result.faults += [no_image(source) for source in pairs.annotations_alone]
    result.faults += [
        ambiguous(image, words) for image, words in pairs.ambiguous.items()
    ]


def add_unannotated(
    result: AnnotatedImages, images: Sequence[str], settings: AnnotationConfig
) -> None:
    """Adds images that nothing is annotated of: without objects, as faults or not at
    all, as the settings say.
    """
    if settings.unannotated == "skip":
        result.findings += skipped(images, "an annotation", "task.annotations")
        return
    is_empty = are_empty(settings)
    for image in images:
        if is_empty:
            result.of_image[image] = BoxAnnotation("")
        else:
            result.faults.append(_no_annotation(image))


def skipped(images: Sequence[str], what: str, section: str) -> list[Finding]:
    """What is said of images that do not belong to the data, as they lack something."""
    if not images:
        return []
    return [
        Finding(
            code="not-annotated",
            severity="info",
            subject=f"images without {what}",
            found=f"{len(images):,} that do not belong to the data, as {section}.unannotated: skip says",
            items=tuple(sorted(images)),
        )
    ]


def _no_annotation(image: str) -> ExampleFault:
    hint = (
        "annotate it, or set task.annotations.unannotated: empty if such images show "
        "no object, skip if they are not annotated yet"
    )
    return ExampleFault(
        image, "no-annotation", "no annotation of it", "one for each image", hint
    )


def no_image(source: str, name: str = "") -> ExampleFault:
    """The fault of an annotation whose image is missing."""
    found = f"no image {name}" if name else "no image of this name"
    return ExampleFault(
        source,
        "no-image",
        found,
        "the image it is about",
        "add the image, or remove the annotation",
    )


def ambiguous(image: str, words: str) -> ExampleFault:
    """The fault of an image that may be annotated in several places, or an annotation
    that may be of several images.
    """
    return ExampleFault(
        image,
        "ambiguous-annotation",
        words,
        "one annotation for one image",
        "rename or remove one",
    )
