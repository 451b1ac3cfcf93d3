"""Annotated images for tests: pictures with boxes or masks in the layouts that people
have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from consoles import RecordingConsole
from image_builders import encoded, picture, save
from pipeline.config import DataConfig
from pipeline.config_section import TaskConfig
from pipeline.data.deduplication import deduplicate, partition_by_fault
from pipeline.examples import CheckedTargets, ExampleListing
from pipeline.tasks.base import Reader

SIZE = (60, 40)  # width and height in pixels
Labelled = tuple[str, Sequence[object]]


def save_picture(
    path: Path, seed: int = 0, size: tuple[int, int] = SIZE, kind: str = "PNG"
) -> Path:
    return save(path, encoded(picture(seed, size), kind))


def voc_xml(
    objects: Sequence[Labelled],
    size: tuple[int, int] | None = SIZE,
    extra: str = "",
    **fields: str,
) -> str:
    """A VOC annotation, an element a line; `fields` come into every object."""
    lines = ["<annotation>", f"<folder>x</folder>{extra}"]
    if size is not None:
        lines.append(
            f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        )
    for label, box in objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        bounds = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
        others = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
        lines.append(
            f"<object><name>{label}</name>{others}<bndbox>{bounds}</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>"])


def save_text(path: Path, text: str | bytes) -> Path:
    return save(path, text.encode() if isinstance(text, str) else text)


def voc_folder(root: Path, images: Mapping[str, Sequence[Labelled]]) -> Path:
    """A folder in VOC's layout, with a picture of its own content for each stem."""
    for seed, (stem, objects) in enumerate(images.items()):
        save_picture(root / "JPEGImages" / f"{stem}.png", seed)
        save_text(root / "Annotations" / f"{stem}.xml", voc_xml(objects))
    return root


def save_mask(
    path: Path,
    values: np.ndarray,
    palette: Sequence[int] | None = None,
    kind: str = "PNG",
) -> Path:
    """A mask file of the values (H, W) or (H, W, 3)."""
    image = Image.fromarray(values)
    if palette is not None:
        image = Image.fromarray(values, "P")
        image.putpalette(list(palette))
    return save(path, encoded(image, kind))


def half_mask(value: int = 1, size: tuple[int, int] = SIZE) -> np.ndarray:
    """0 on the left, the value on the right (H, W)."""
    values = np.zeros((size[1], size[0]), dtype=np.uint8)
    values[:, size[0] // 2 :] = value
    return values


def take_in(
    reader: Reader, root: Path, task: TaskConfig, data: DataConfig | None = None
) -> tuple[ExampleListing, CheckedTargets]:
    """What a reader lists below a folder, and what is left when targets were checked."""
    data = data or DataConfig()
    console = RecordingConsole()
    listing = reader.list_examples(root, data, task)
    scratch = root.parent / "scratch"
    measured = reader.scan_examples(root, listing.examples, task, scratch, console)
    parted = partition_by_fault(listing.examples, measured, 1.0)
    checked = reader.check_targets(root, parted.usable, data, task, scratch, console)
    _write_out(listing, checked)
    return listing, checked


def _write_out(listing: ExampleListing, checked: CheckedTargets) -> None:
    """Everything can be written to tables, whatever the files hold."""
    deduplicate(checked.usable)
    for fault in (
        *listing.faults,
        *listing.object_faults,
        *checked.faults,
        *checked.object_faults,
    ):
        pa.array(
            [fault.path, fault.code, fault.found, fault.expected, fault.hint],
            pa.string(),
        )
    for finding in (*listing.findings, *checked.findings):
        finding.model_dump_json().encode()
