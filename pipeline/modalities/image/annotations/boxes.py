"""Boxes: as an annotation writes them, held against their picture, and as the manifest
keeps them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.examples import ExampleError, ExampleFault
from pipeline.serving.image_pixels import QUARTER_TURNS, TURNS

# left, top, right, bottom; right and lower edge exclusive.
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class AnnotatedObject:
    """One object as it was annotated.

    Args:
        place: where: the annotation's file, `#` and the line or number.
        label: its class.
        box: in pixels, or in shares of the picture's sides where the annotation says
            so.
        ignored: neither trained on nor counted in evaluation: a crowd, or difficult.
    """

    place: str
    label: str
    box: Box
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class BoxAnnotation:
    """What is annotated of one image.

    Args:
        source: the annotation's file, below the data folder; "" where an image without
            one shows no object.
        objects: in their order.
        size: width and height of the picture in pixels, as the annotation gives them;
            None where it does not.
        in_shares: whether boxes are shares of the sides instead of pixels.
        name: of the image, as the annotation gives it; "" where it does not.
    """

    source: str
    objects: tuple[AnnotatedObject, ...] = ()
    size: tuple[int, int] | None = None
    in_shares: bool = False
    name: str = ""


def all_objects(annotations: Iterable[BoxAnnotation]) -> Iterator[AnnotatedObject]:
    """The objects of several images, one after the other."""
    for annotation in annotations:
        yield from annotation.objects


class Picture(NamedTuple):
    """The picture as Thaw decodes it.

    Args:
        width, height: in pixels, upright.
        orientation: by which its EXIF data turned it, 1 to 8 as EXIF numbers them; 1:
            not turned.
    """

    width: int
    height: int
    orientation: int = 1


class BoxRules(NamedTuple):
    """What is required of a box.

    Args:
        min_visible: share of it that must lie in the picture.
        min_side: its shorter side in pixels of the network's input.
        input_side: side of that square in pixels.
        squashed: whether the picture fills it, or keeps the ratio of its sides.
    """

    min_visible: float
    min_side: float
    input_side: int
    squashed: bool = True


@dataclass(frozen=True)
class CheckedBoxes:
    """The boxes of one image after the check.

    Args:
        objects: those that stay, in pixels of the picture.
        faults: what was left out, or is ignored, and why.
        turned: whether the boxes were written for the picture as it is stored, and were
            turned with it.
    """

    objects: tuple[AnnotatedObject, ...]
    faults: tuple[ExampleFault, ...]
    turned: bool = False


def check_boxes(
    annotation: BoxAnnotation, path: str, picture: Picture, rules: BoxRules
) -> CheckedBoxes | ExampleFault:
    """Holds the boxes of one image against its picture.

    A box that marks nothing (no area, a repetition, outside the picture) is left out
    alone. Where an object is there but nobody knows at what place (another picture
    size, no numbers) the image is the fault: learning that nothing is there would be
    wrong.

    Boxes written for the picture as it is stored, which the stated size proves, are
    turned as its EXIF data turn it.

    Args:
        path: of the image.
    """
    is_stored = is_for_stored(annotation, picture)
    try:
        if not is_stored:
            _check_size(annotation, picture)
        objects = [
            _to_pixels(each, annotation, picture, is_stored=is_stored)
            for each in annotation.objects
        ]
    except ExampleError as fault:
        return fault.of(path)
    distinct: dict[tuple[str, Box], AnnotatedObject] = {}
    faults: list[ExampleFault] = []
    for each in objects:
        checked = _check_object(each, picture, rules, faults)
        if checked is None:
            continue
        key = (checked.label, rounded(checked.box))
        if key in distinct:
            faults.append(_repetition(checked, distinct[key]))
        else:
            distinct[key] = checked
    return CheckedBoxes(tuple(distinct.values()), tuple(faults), turned=is_stored)


def is_for_stored(annotation: BoxAnnotation, picture: Picture) -> bool:
    """Whether the annotation's size proves that its boxes are for the picture before
    its EXIF data turn it.
    """
    upright = (picture.width, picture.height)
    is_quarter = picture.orientation in QUARTER_TURNS
    return (
        is_quarter and annotation.size != upright and annotation.size == upright[::-1]
    )


def is_turn_unclear(annotation: BoxAnnotation, picture: Picture) -> bool:
    """Whether a size is stated that the picture has both as it is stored and upright:
    it tells nothing of the turn.
    """
    if picture.orientation not in TURNS or annotation.size != (
        picture.width,
        picture.height,
    ):
        return False
    return picture.orientation not in QUARTER_TURNS or picture.width == picture.height


def _check_size(annotation: BoxAnnotation, picture: Picture) -> None:
    size = annotation.size
    if size is None or size == (picture.width, picture.height):
        return
    found = f"{annotation.source} says {size[0]} × {size[1]} pixels"
    expected = f"{picture.width} × {picture.height}, as the picture has"
    raise ExampleError(
        "annotation-size",
        found,
        expected,
        "annotate the picture as it is, or bring back the one annotated",
    )


def _to_pixels(
    annotated: AnnotatedObject,
    annotation: BoxAnnotation,
    picture: Picture,
    *,
    is_stored: bool,
) -> AnnotatedObject:
    """The object in pixels of the upright picture."""
    if not all(math.isfinite(edge) for edge in annotated.box):
        raise ExampleError(
            "bad-box",
            f"{annotated.place}: {_written(annotated.box)}",
            "four finite numbers",
            "correct the box",
        )
    width, height = (
        (picture.height, picture.width)
        if is_stored
        else (picture.width, picture.height)
    )
    box = annotated.box
    if annotation.in_shares:
        left, top, right, bottom = box
        box = (left * width, top * height, right * width, bottom * height)
    if is_stored:
        box = turn_box(box, width, height, picture.orientation)
    return AnnotatedObject(annotated.place, annotated.label, box, annotated.ignored)


def turn_box(box: Box, width: int, height: int, orientation: int) -> Box:
    """A box of a picture as it is stored, where its EXIF data turn the picture by a
    quarter.

    Args:
        width, height: of the stored picture, in pixels.
        orientation: one of `QUARTER_TURNS`.
    """
    left, top, right, bottom = box
    if orientation == 5:  # mirrored along the falling diagonal
        return top, left, bottom, right
    if orientation == 6:  # clockwise
        return height - bottom, left, height - top, right
    if orientation == 7:  # mirrored along the rising diagonal
        return height - bottom, width - right, height - top, width - left
    return top, width - right, bottom, width - left  # 8: counter-clockwise


def _check_object(
    annotated: AnnotatedObject,
    picture: Picture,
    rules: BoxRules,
    faults: list[ExampleFault],
) -> AnnotatedObject | None:
    """The object, cut at the picture's edge; None where it is left out, and why in
    `faults`.
    """
    left, top, right, bottom = annotated.box
    if right < left or bottom < top:
        expected = "left < right, top < bottom"
        hint = "correct the box, or remove it"
        faults.append(_fault(annotated, "inverted", expected, hint))
        return None
    if right == left or bottom == top:
        hint = "draw the box again, or remove it"
        faults.append(_fault(annotated, "zero-area", "a box with an area", hint))
        return None
    cut = _cut_at_edges(annotated.box, picture)
    visible = _area(cut) / _area(annotated.box)
    if visible <= 0 or visible < rules.min_visible:
        expected = f"at least {rules.min_visible:.0%} of it within {picture.width} × {picture.height}"
        hint = "correct the box, or lower task.annotations.min_visible"
        faults.append(_fault(annotated, "outside", expected, hint))
        return None
    cut_object = AnnotatedObject(
        annotated.place, annotated.label, cut, annotated.ignored
    )
    return _ignore_tiny(cut_object, picture, rules, faults)


def _cut_at_edges(box: Box, picture: Picture) -> Box:
    left, top, right, bottom = box
    width = float(picture.width)
    height = float(picture.height)
    return (
        min(max(left, 0.0), width),
        min(max(top, 0.0), height),
        max(min(right, width), 0.0),
        min(bottom, height),
    )


def input_side(annotated: AnnotatedObject, picture: Picture, rules: BoxRules) -> float:
    """An object's shorter side in pixels of the network's input."""
    left, top, right, bottom = annotated.box
    longer = max(picture.width, picture.height)
    across = picture.width if rules.squashed else longer
    down = picture.height if rules.squashed else longer
    share_across = (right - left) / across
    share_down = (bottom - top) / down
    return rules.input_side * min(share_across, share_down)


def _ignore_tiny(
    annotated: AnnotatedObject,
    picture: Picture,
    rules: BoxRules,
    faults: list[ExampleFault],
) -> AnnotatedObject:
    side = input_side(annotated, picture, rules)
    if annotated.ignored or side >= rules.min_side:
        return annotated
    expected = (
        f"at least {rules.min_side:g} pixels in the network's input, and has {side:.2g}"
    )
    faults.append(
        _fault(
            annotated,
            "tiny",
            expected,
            "ignored; raise task.input.size, or lower task.annotations.min_side",
        )
    )
    return AnnotatedObject(
        annotated.place, annotated.label, annotated.box, ignored=True
    )


def _fault(
    annotated: AnnotatedObject, code: str, expected: str, hint: str
) -> ExampleFault:
    return ExampleFault(
        annotated.place,
        code,
        f"{annotated.label} {_written(annotated.box)}",
        expected,
        hint,
    )


def _repetition(annotated: AnnotatedObject, first: AnnotatedObject) -> ExampleFault:
    return _fault(
        annotated,
        "duplicate-object",
        f"each object once, and {first.place} is the same",
        "remove one of the two",
    )


def _area(box: Box) -> float:
    left, top, right, bottom = box
    width = max(right - left, 0.0)
    height = max(bottom - top, 0.0)
    return width * height


def _written(box: Iterable[float]) -> str:
    edges = ", ".join(f"{edge:g}" for edge in box)
    return f"[{edges}]"


def rounded(box: Box) -> Box:
    """A box in hundredths of a pixel."""
    left, top, right, bottom = (round(edge, 2) for edge in box)
    return left, top, right, bottom


def write_target(objects: Iterable[AnnotatedObject]) -> str:
    """The objects of one image as the manifest's target: canonical JSON, sorted.

    `{"boxes":[{"box":[left,top,right,bottom],"label":"…"}, …]}`, `"ignored":true` where
    it is so; pixels of the upright picture, from 0, to two decimals.
    """
    ordered = sorted(
        objects, key=lambda each: (rounded(each.box), each.label, each.ignored)
    )
    boxes = [_plain(each) for each in ordered]
    return json.dumps(
        {"boxes": boxes}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )


def _plain(annotated: AnnotatedObject) -> dict[str, Any]:
    edges = []
    for edge in rounded(annotated.box):
        edges.append(int(edge) if edge == int(edge) else edge)
    plain: dict[str, Any] = {"box": edges, "label": annotated.label}
    if annotated.ignored:
        plain["ignored"] = True
    return plain


def read_target(target: str) -> list[dict[str, Any]]:
    """The boxes of a manifest's target, as `write_target` wrote them."""
    boxes: list[dict[str, Any]] = json.loads(target)["boxes"]
    return boxes


def polygon_box(points: Sequence[float]) -> Box:
    """The smallest box around a polygon x, y, x, y, …"""
    across = points[0::2]
    down = points[1::2]
    return min(across), min(down), max(across), max(down)
