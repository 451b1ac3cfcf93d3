"""Pascal VOC: an XML file for each image.

The format is that of Everingham et al., "The Pascal Visual Object Classes (VOC)
Challenge" (2010), section 3 of the development kit: corners in pixels, counted from 1,
both included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from pipeline.modalities.image.annotations.annotated_images import (
    AnnotatedImages,
    add_unpaired,
)
from pipeline.modalities.image.annotations.boxes import AnnotatedObject, BoxAnnotation
from pipeline.modalities.image.annotations.faults import (
    AnnotationError,
    read_annotation,
    shown,
)
from pipeline.modalities.image.annotations.given_splits import MAIN, find_splits
from pipeline.modalities.image.annotations.pairing import pair
from pipeline.modalities.image.annotations.settings import AnnotationConfig
from pipeline.records import Finding

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Element:
    """An XML element and the line it begins in."""

    tag: str
    line: int
    texts: list[str] = field(default_factory=list)
    children: list[_Element] = field(default_factory=list)

    def find(self, tag: str) -> _Element | None:
        for child in self.children:
            if child.tag == tag:
                return child
        return None

    def text_of(self, tag: str) -> str:
        """The text of a child without blanks around it; "" where there is none."""
        child = self.find(tag)
        if child:
            return "".join(child.texts).strip()
        return ""


class _TreeBuilder:
    """What the parser calls: makes elements that know their lines."""

    def __init__(self) -> None:
        self.parser: DefusedXMLParser | None = None
        self._top = _Element("", 0)
        self._open = [self._top]

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        line = self.parser.parser.CurrentLineNumber if self.parser else 0
        element = _Element(tag, line)
        self._open[-1].children.append(element)
        self._open.append(element)

    def data(self, text: str) -> None:
        innermost = self._open[-1]
        innermost.texts.append(text)

    def end(self, tag: str) -> None:
        self._open.pop()

    def close(self) -> _Element:
        return self._top.children[0]


def find_voc(files: Iterable[str]) -> list[str]:
    """The files that may be annotations in this format."""
    return [path for path in files if path.lower().endswith(".xml")]


def read_voc_folder(
    root: Path, files: Sequence[str], images: Sequence[str], settings: AnnotationConfig
) -> AnnotatedImages:
    """The boxes of all images below a data folder.

    Args:
        files: all files, by paths below it.
        images: those that are images.
    """
    result = AnnotatedImages(splits=find_splits(root, files, images, MAIN))
    pairs = pair(images, find_voc(files))
    for image, source in sorted(pairs.of_image.items()):
        try:
            result.of_image[image] = read_voc(
                read_annotation(root, source), source, settings
            )
        except AnnotationError as fault:
            result.faults.append(fault.of(image))
    add_unpaired(result, pairs, settings)
    result.findings += _other_names(result.of_image)
    return result


def _other_names(annotated: Mapping[str, BoxAnnotation]) -> list[Finding]:
    """A warning of annotations that name another image than the one they lie beside;
    endings do not count.
    """
    items = []
    for image, annotation in sorted(annotated.items()):
        named = PurePosixPath(annotation.name.replace("\\", "/"))
        if (
            annotation.name
            and named.stem.casefold()
            != PurePosixPath(image).stem.casefold()
            != named.name.casefold()
        ):
            items.append(f"{annotation.source}: {annotation.name}")
    if not items:
        return []
    return [
        Finding(
            code="other-filename",
            severity="warning",
            subject="<filename> in annotations",
            found=f"{len(items):,} that name another image than the one of the annotation's own name",
            expected="one name for both; the annotation's own decides",
            hint="make sure that the files were not mixed up",
            items=tuple(items),
        )
    ]


def read_voc(content: bytes, source: str, settings: AnnotationConfig) -> BoxAnnotation:
    """What one XML file says.

    Args:
        content: of the file.
        source: its path below the data folder.

    Raises:
        AnnotationError: it is no such XML file, or an object has no class or no box.
    """
    top = _parse(content, source)
    if top.tag != "annotation":
        raise AnnotationError(
            "not-voc",
            f"{source}: <{shown(top.tag)}>",
            "<annotation>",
            "replace it, or correct task.annotations.format",
        )
    elements = [child for child in top.children if child.tag == "object"]
    objects = tuple(_read_object(element, source, settings) for element in elements)
    return BoxAnnotation(
        source, objects, _read_size(top.find("size")), name=top.text_of("filename")
    )


def _parse(content: bytes, source: str) -> _Element:
    builder = _TreeBuilder()
    parser = DefusedXMLParser(target=builder, forbid_dtd=True)
    builder.parser = parser
    try:
        parser.feed(content)
        top = parser.close()
    except DefusedXmlException as fault:
        raise AnnotationError(
            "xml-doctype",
            f"{source}: a document type (DOCTYPE), by which files can be read or memory filled",
            "plain XML",
            "remove the DOCTYPE, if you trust the file",
        ) from fault
    except ParseError as fault:
        raise AnnotationError(
            "annotation-unreadable",
            f"{source}: {fault}",
            "well-formed XML",
            "replace it",
        ) from fault
    except (ValueError, LookupError) as fault:
        # Encodings that are unknown, or not what the file is written in.
        found = f"{source}: {' '.join(str(fault).split())}"
        raise AnnotationError(
            "annotation-unreadable", found, "XML in UTF-8", "save it in UTF-8"
        ) from fault
    assert isinstance(top, _Element)
    return top


def _read_size(size: _Element | None) -> tuple[int, int] | None:
    """Width and height; None where they are missing, 0 or no numbers."""
    if size is None:
        return None
    width = _number(size.text_of("width"))
    height = _number(size.text_of("height"))
    if not width or not height:
        return None
    return int(width), int(height)


def _read_object(
    element: _Element, source: str, settings: AnnotationConfig
) -> AnnotatedObject:
    place = f"{source}#{element.line}"
    label = element.text_of("name")
    if not label:
        found = f"{place}: an object without a name"
        raise AnnotationError("no-class", found, "a class in <name>", "name it")
    box = element.find("bndbox")
    if box is None:
        found = f"{place}: {label} without <bndbox>"
        hint = "draw one, or remove the object"
        raise AnnotationError("bad-box", found, "a box", hint)
    texts = [box.text_of(corner) for corner in CORNERS]
    numbers = []
    for text in texts:
        number = _number(text)
        if number is None:
            found = f"{place}: {label} {shown(texts)}"
            raise AnnotationError(
                "bad-box", found, "four finite numbers", "correct the box"
            )
        numbers.append(number)
    left, top, right, bottom = numbers
    is_difficult = element.text_of("difficult") in ("1", "true")
    return AnnotatedObject(
        place,
        label,
        _to_edges((left, top, right, bottom), settings.first_pixel),
        ignored=is_difficult and settings.difficult == "ignore",
    )


def _to_edges(
    corners: tuple[float, float, float, float], first_pixel: int
) -> tuple[float, float, float, float]:
    """Corners as edges counted from 0.

    Counted from 1, the first pixel spans from 0 to 1. A box without an area as it is
    written keeps none: nobody meant one pixel.
    """
    left, top, right, bottom = corners
    if first_pixel == 0 or right <= left or bottom <= top:
        return corners
    return left - 1, top - 1, right, bottom


def _number(text: str) -> float | None:
    """A finite number; None of anything else."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
