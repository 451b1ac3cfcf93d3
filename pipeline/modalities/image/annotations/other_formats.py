"""Annotations in formats that are not read, told by name with the way out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.modalities.image.annotations.described_source import evenly
from pipeline.modalities.image.annotations.faults import (
    AnnotationError,
    read_annotation,
)

PEEKED = 5  # files of each ending that are looked into
_BEGINNING = 200_000  # bytes of a file that are looked at


class OtherFormat(NamedTuple):
    """A format by what its files hold.

    Args:
        title: what it is called.
        ending: of its files.
        words: all of which are in a file's beginning.
        hint: what to do.
    """

    title: str
    ending: str
    words: tuple[bytes, ...]
    hint: str


EXPORT = "export again as COCO, Pascal VOC or YOLO"
FORMATS = (
    OtherFormat(
        "CVAT's own XML",
        ".xml",
        (b"<annotations", b"<image "),
        'export from CVAT again, as "COCO 1.0", "Pascal VOC 1.1" or "Ultralytics YOLO '
        'Detection 1.0"',
    ),
    OtherFormat(
        "labelme's JSON",
        ".json",
        (b'"shapes"', b'"imagePath"'),
        "convert it to Pascal VOC or COCO, with labelme2voc.py or labelme2coco.py of "
        "labelme's examples",
    ),
    OtherFormat(
        "Label Studio's JSON",
        ".json",
        (b'"rectanglelabels"',),
        f"{EXPORT} from Label Studio",
    ),
    OtherFormat(
        "VGG Image Annotator's JSON",
        ".json",
        (b'"shape_attributes"', b'"regions"'),
        "export again from the annotator, as COCO",
    ),
    OtherFormat(
        "Supervisely's JSON",
        ".json",
        (b'"classTitle"', b'"objects"'),
        f"{EXPORT} from Supervisely",
    ),
    OtherFormat(
        "a table of boxes",
        ".csv",
        (b"xmin", b"ymin", b"xmax", b"ymax"),
        f"{EXPORT}, or write an XML file for each image, as Pascal VOC has",
    ),
    OtherFormat(
        "TensorFlow's records",
        ".tfrecord",
        (),
        f"{EXPORT}",
    ),
    OtherFormat(
        "COCO's outlines",
        ".json",
        (b'"categories"', b'"segmentation"'),
        "draw each image's outlines into a PNG mask of its name, with annToMask of "
        "pycocotools, or export again as masks",
    ),
)


def find_other_format(source: Path, files: Sequence[str]) -> tuple[OtherFormat, str]:
    """The first of the formats that a file is in, and the file; without a title where
    none is.
    """
    for known in FORMATS:
        paths = [path for path in files if path.lower().endswith(known.ending)]
        for path in evenly(paths, PEEKED):
            if _holds_all(source, path, known.words):
                return known, path
    return OtherFormat("", "", (), ""), ""


def _holds_all(source: Path, path: str, words: Sequence[bytes]) -> bool:
    if not words:
        return True
    try:
        beginning = read_annotation(source, path)[:_BEGINNING].lower()
    except AnnotationError:
        return False
    return all(word.lower() in beginning for word in words)
