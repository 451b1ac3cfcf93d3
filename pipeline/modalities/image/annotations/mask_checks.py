"""All masks of a data set, held against their pictures."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.config import DataConfig
from pipeline.data.sources import label_findings
from pipeline.errors import ConfigError
from pipeline.examples import (
    CheckedTargets,
    ExampleFault,
    ListedExample,
    MeasuredExample,
)
from pipeline.modalities.image.annotations.mask_listing import MaskAnnotation
from pipeline.modalities.image.annotations.masks import (
    measure_background,
    write_background_target,
    write_mask_target,
)
from pipeline.modalities.image.annotations.settings import MaskValues
from pipeline.modalities.image.annotations.strata import rarest_classes
from pipeline.records import Finding

Usable = tuple[ListedExample, MeasuredExample]
Measured = Mapping[str, MeasuredExample | ExampleFault]
# Of all pixels: a class with less was without any answer after 300 steps, where
# balanced weights found it.
RARE = 0.005
ONE_SIDED = 0.99  # of all pixels: a class with more leaves next to nothing to learn


def label_space(values: MaskValues, data: DataConfig) -> tuple[str, ...]:
    """The classes in their order, the background first, without those that are left
    out.

    Raises:
        ConfigError: `data.labels` has the background behind another class.
    """
    if not data.labels:
        return tuple(
            label for label in values.classes if label not in data.drop_classes
        )
    background = next(iter(values.classes))
    if background in data.labels[1:]:
        raise ConfigError(
            "data.labels",
            found=f"{data.labels[0]} first",
            expected=f"the background first: {background}, which is the first of task.masks.values.classes",
            hint=f"move {background} to the front",
        )
    return data.labels


def check_mask_targets(
    usable: Sequence[Usable],
    measured_masks: Measured,
    labels: Sequence[str],
    values: MaskValues,
    data: DataConfig,
) -> CheckedTargets:
    """The images with their final targets: where the mask lies, and its digest.

    Args:
        usable: images that can be decoded; `annotation` of each is a `MaskAnnotation`.
        measured_masks: what `measure_mask` said of each mask, by its path.
        labels: the label space.

    Where `annotation` names no mask, the image is background everywhere.
    """
    usable_masks: list[tuple[Usable, str, MeasuredExample]] = []
    faults: list[ExampleFault] = []
    for example, measured in usable:
        path = _mask_of(example)
        size = (measured.values["width"], measured.values["height"])
        all_findings = (
            measured_masks[path] if path else measure_background(*size, values, labels)
        )
        mask = _check(example.path, path or "no mask", measured, all_findings)
        if isinstance(mask, ExampleFault):
            faults.append(dataclasses.replace(mask, id=measured.id))
        else:
            usable_masks.append(((example, measured), path, mask))
    classes = [_classes(mask, labels) for _, _, mask in usable_masks]
    strata = rarest_classes(classes, background=labels[0])
    targets = _targets(usable_masks)
    finished = []
    for (pair, _, mask), target, present, stratum in zip(
        usable_masks, targets, classes, strata, strict=True
    ):
        finished.append(_finish(pair, mask, labels[0], target, present, stratum))
    findings = [
        *label_findings(data, set(labels), set(values.classes)),
        *_warn_of_shares(usable_masks, labels[0]),
        *_without_mask(usable_masks),
    ]
    return CheckedTargets(
        tuple(finished), tuple(faults), findings=tuple(findings), labels=tuple(labels)
    )


def _classes(mask: MeasuredExample, labels: Sequence[str]) -> tuple[str, ...]:
    """The classes that a mask shows, in the order of the label space."""
    shown = mask.values["pixels"]
    return tuple(label for label in labels if label in shown)


def _mask_of(example: ListedExample) -> str:
    assert isinstance(example.annotation, MaskAnnotation)
    return example.annotation.path


def _check(
    image: str,
    path: str,
    measured: MeasuredExample,
    mask: MeasuredExample | ExampleFault,
) -> MeasuredExample | ExampleFault:
    """The mask's measures, or why the image cannot be used."""
    if isinstance(mask, ExampleFault):
        return dataclasses.replace(mask, path=image)
    size = (measured.values["width"], measured.values["height"])
    mask_size = (mask.values["width"], mask.values["height"])
    if mask_size != size:
        return _wrong_size(
            image, path, mask_size, size, is_turned="exif-rotated" in measured.converted
        )
    if not mask.values["pixels"]:
        found = f"{path}: every pixel is ignored"
        return ExampleFault(
            image,
            "all-ignored",
            found,
            "pixels with a class",
            "remove it, or correct the mask",
        )
    return mask


def _wrong_size(
    image: str,
    path: str,
    mask: tuple[int, int],
    size: tuple[int, int],
    *,
    is_turned: bool,
) -> ExampleFault:
    found = f"{path}: {mask[0]} × {mask[1]} pixels"
    expected = f"{size[0]} × {size[1]}, as the picture has"
    if is_turned and mask == size[::-1]:
        return ExampleFault(
            image,
            "exif-size",
            f"{found}: it is for the picture before its EXIF data turn it",
            f"{expected} when upright",
            "save the picture without its EXIF orientation, or turn the mask",
        )
    return ExampleFault(
        image, "mask-size", found, expected, "export the mask at the picture's size"
    )


def _targets(usable_masks: Sequence[tuple[Usable, str, MeasuredExample]]) -> list[str]:
    """A target for each image; copies of one image with copies of one mask have the
    same, with the first's path.
    """
    first: dict[tuple[str, str], str] = {}
    targets = []
    for (_, measured), path, mask in usable_masks:
        if not path:
            targets.append(
                write_background_target(mask.values["width"], mask.values["height"])
            )
            continue
        shared = first.setdefault((measured.id, mask.id), path)
        targets.append(write_mask_target(shared, mask.id))
    return targets


def _finish(
    pair: Usable,
    mask: MeasuredExample,
    background: str,
    target: str,
    classes: tuple[str, ...],
    stratum: str,
) -> Usable:
    example, measured = pair
    pixels = mask.values["pixels"]
    foreground = 1 - pixels.get(background, 0) / sum(pixels.values())
    values = {
        **measured.values,
        "foreground": round(foreground, 6),
        "ignored": _share_ignored(mask),
    }
    return (
        dataclasses.replace(
            example, target=target, classes=classes, stratum=stratum, annotation=None
        ),
        dataclasses.replace(measured, values=values),
    )


def _share_ignored(mask: MeasuredExample) -> float:
    total: int = mask.values["width"] * mask.values["height"]
    ignored: int = mask.values["ignored"]
    return round(ignored / total, 6)


def _without_mask(
    usable_masks: Sequence[tuple[Usable, str, MeasuredExample]],
) -> list[Finding]:
    images = tuple(example.path for (example, _), path, _ in usable_masks if not path)
    if not images:
        return []
    return [
        Finding(
            code="no-mask",
            severity="info",
            subject="images without a mask",
            found=f"{len(images):,} images are background everywhere, as task.masks.unannotated: empty says",
            items=images,
        )
    ]


def _warn_of_shares(
    usable_masks: Sequence[tuple[Usable, str, MeasuredExample]], background: str
) -> list[Finding]:
    """Warns of a class with nearly all of the pixels, else of those with very few."""
    pixels: Counter[str] = Counter()
    for _, _, mask in usable_masks:
        pixels.update(mask.values["pixels"])
    return _one_sided(pixels) or _rare(pixels, background)


def rare_classes(pixels: Mapping[str, int], background: str) -> list[str]:
    """The classes with very few of the pixels, each with its share."""
    total = sum(pixels.values())
    rare = []
    for label, count in pixels.items():
        if label != background and 0 < count < RARE * total:
            rare.append(f"{label} ({count / total:.2%})")
    return rare


def _rare(pixels: Counter[str], background: str) -> list[Finding]:
    rare = rare_classes(pixels, background)
    if not rare:
        return []
    return [
        Finding(
            code="rare-pixels",
            severity="warning",
            subject=f"{len(rare)} of {len(pixels)} classes",
            found=f"few of the pixels: {', '.join(rare[:5])}",
            expected=f"at least {RARE:.1%}: of less, a short training may find nothing",
            hint="with finetune.class_weights: balanced all classes count alike",
            items=tuple(rare),
        )
    ]


def _one_sided(pixels: Counter[str]) -> list[Finding]:
    total = pixels.total()
    if not total:
        return []
    shares = [
        f"{label}: {count / total:.3%}" for label, count in sorted(pixels.items())
    ]
    label, count = pixels.most_common(1)[0]
    if count <= ONE_SIDED * total:
        return []
    return [
        Finding(
            code="one-sided-masks",
            severity="warning",
            subject=f"class {label}",
            found=f"{count / total:.2%} of all pixels",
            expected=f"at most {ONE_SIDED:.0%}: beside it there is little to learn",
            hint="crop the pictures around what matters, or set finetune.class_weights: balanced",
            items=tuple(shares),
        )
    ]
