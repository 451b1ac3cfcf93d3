"""All boxes of a data set, held against their pictures."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import DataConfig
from pipeline.data.labels import similar_labels
from pipeline.data.sources import label_findings
from pipeline.examples import (
    CheckedTargets,
    ExampleFault,
    ListedExample,
    MeasuredExample,
)
from pipeline.modalities.image.annotations.boxes import (
    AnnotatedObject,
    BoxAnnotation,
    BoxRules,
    Picture,
    all_objects,
    check_boxes,
    is_turn_unclear,
    write_target,
)
from pipeline.modalities.image.annotations.small_objects import (
    PictureObjects,
    find_small_objects,
)
from pipeline.modalities.image.annotations.strata import rarest_classes
from pipeline.modalities.image.decoding import read_orientation
from pipeline.records import Finding

Usable = tuple[ListedExample, MeasuredExample]


@dataclasses.dataclass
class _Checked:
    """What became of the images, in their order."""

    usable: list[tuple[ListedExample, MeasuredExample, tuple[AnnotatedObject, ...]]] = (
        dataclasses.field(default_factory=list)
    )
    annotated: list[PictureObjects] = dataclasses.field(default_factory=list)
    faults: list[ExampleFault] = dataclasses.field(default_factory=list)
    object_faults: list[ExampleFault] = dataclasses.field(default_factory=list)
    turned: list[str] = dataclasses.field(default_factory=list)
    unclear: list[str] = dataclasses.field(default_factory=list)


def check_box_targets(
    root: Path, usable: Sequence[Usable], data: DataConfig, rules: BoxRules
) -> CheckedTargets:
    """The images with their final targets: boxes in pixels of the upright picture.

    Args:
        root: the data folder.
        usable: images that can be decoded; `annotation` of each is a `BoxAnnotation`.
    """
    read = _Checked()
    for example, measured in usable:
        assert isinstance(example.annotation, BoxAnnotation)
        annotation = _without_dropped(example.annotation, data.drop_classes)
        picture = _picture(root / example.path, annotation, measured)
        checked = check_boxes(annotation, example.path, picture, rules)
        if isinstance(checked, ExampleFault):
            read.faults.append(dataclasses.replace(checked, id=measured.id))
            continue
        if checked.turned:
            read.turned.append(example.path)
        if checked.objects and is_turn_unclear(annotation, picture):
            read.unclear.append(example.path)
        for fault in checked.faults:
            read.object_faults.append(dataclasses.replace(fault, id=measured.id))
        read.usable.append((example, measured, checked.objects))
        read.annotated.append((picture, checked.objects))
    strata = rarest_classes([_classes(objects) for _, _, objects in read.usable])
    finished = []
    for row, stratum in zip(read.usable, strata, strict=True):
        example, measured, objects = row
        finished.append(_finish(example, measured, objects, stratum))
    labels, findings = _label_space(finished, usable, data)
    stated_objects = sum(len(example.annotation.objects) for example, _ in usable)
    findings += _left_out(read.object_faults, stated_objects)
    findings += _turns(read.turned, read.unclear)
    findings += find_small_objects(read.annotated, rules)
    return CheckedTargets(
        tuple(finished),
        tuple(read.faults),
        tuple(read.object_faults),
        tuple(findings),
        labels,
    )


def _without_dropped(
    annotation: BoxAnnotation, dropped: Sequence[str]
) -> BoxAnnotation:
    if not dropped:
        return annotation
    objects = tuple(each for each in annotation.objects if each.label not in dropped)
    return dataclasses.replace(annotation, objects=objects)


def _picture(
    path: Path, annotation: BoxAnnotation, measured: MeasuredExample
) -> Picture:
    orientation = 1
    if annotation.size is not None and "exif-rotated" in measured.converted:
        orientation = read_orientation(path)
    return Picture(measured.values["width"], measured.values["height"], orientation)


def _turns(turned: Sequence[str], unclear: Sequence[str]) -> list[Finding]:
    """What is to be said of boxes of pictures that their EXIF data turn."""
    findings = []
    if turned:
        findings.append(
            Finding(
                code="boxes-turned",
                severity="info",
                subject="boxes of pictures with an EXIF orientation",
                found=f"boxes of {len(turned):,} images are for the stored picture, as their size says, and were turned",
                items=tuple(turned),
            )
        )
    if unclear:
        findings.append(
            Finding(
                code="exif-unclear",
                severity="warning",
                subject="boxes of pictures with an EXIF orientation",
                found=f"{len(unclear):,} images have one size before and after the turn; boxes taken as upright",
                expected="boxes for the upright picture",
                hint="look at some; if they lie wrong, save the pictures without their EXIF orientation",
                items=tuple(unclear),
            )
        )
    return findings


def _classes(objects: Sequence[AnnotatedObject]) -> tuple[str, ...]:
    """The class of each object that counts."""
    counted = [item for item in objects if not item.ignored]
    return tuple(item.label for item in counted)


def _finish(
    example: ListedExample,
    measured: MeasuredExample,
    objects: Sequence[AnnotatedObject],
    stratum: str,
) -> Usable:
    classes = _classes(objects)
    target = write_target(objects)
    values = {**measured.values, "objects": len(classes)}
    return (
        dataclasses.replace(
            example, target=target, classes=classes, stratum=stratum, annotation=None
        ),
        dataclasses.replace(measured, values=values),
    )


def _label_space(
    finished: Sequence[Usable], usable: Sequence[Usable], data: DataConfig
) -> tuple[tuple[str, ...], list[Finding]]:
    """The classes there are, sorted, and what is to be said of their names."""
    images: Counter[str] = Counter()
    for example, _ in finished:
        images.update(set(example.classes or ()))
    annotated = {
        each.label for each in all_objects(example.annotation for example, _ in usable)
    }
    findings = label_findings(data, set(images), annotated)
    if data.labels is None:
        alike = similar_labels(images)
        if alike:
            findings.append(alike)
    return tuple(sorted(images)), findings


def _left_out(faults: Sequence[ExampleFault], objects: int) -> list[Finding]:
    if not faults:
        return []
    kinds = Counter(fault.code for fault in faults)
    counted = ", ".join(f"{count:,} {code}" for code, count in sorted(kinds.items()))
    return [
        Finding(
            code="objects-left-out",
            severity="info",
            subject="annotated objects",
            found=f"{len(faults):,} of {objects:,} left out or ignored, while their images stay: {counted}",
            hint="see quarantine.parquet",
            items=tuple(
                f"{fault.path}: {fault.code}: {fault.found}" for fault in faults
            ),
        )
    ]
