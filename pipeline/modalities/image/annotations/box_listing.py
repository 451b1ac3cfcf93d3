"""Images with boxes: which there are, and what is annotated of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.config import DataConfig
from pipeline.data.layout import unicode_collisions, walk
from pipeline.data.sources import NO_EXTRAS, read_metadata
from pipeline.errors import DataError
from pipeline.examples import ExampleFault, ExampleListing, ListedExample
from pipeline.modalities.image.annotations.annotated_images import AnnotatedImages
from pipeline.modalities.image.annotations.coco import read_coco_folder
from pipeline.modalities.image.annotations.pairing import lies_in, outside_mask_folders
from pipeline.modalities.image.annotations.settings import AnnotationConfig, BoxFormat
from pipeline.modalities.image.annotations.voc import read_voc_folder
from pipeline.modalities.image.annotations.yolo import read_yolo_folder
from pipeline.modalities.image.file_types import is_image_name

FolderReader = Callable[
    [Path, Sequence[str], Sequence[str], AnnotationConfig], AnnotatedImages
]
READERS: dict[BoxFormat, FolderReader] = {
    "voc": read_voc_folder,
    "coco": read_coco_folder,
    "yolo": read_yolo_folder,
}


def list_boxes(
    root: Path, data: DataConfig, settings: AnnotationConfig
) -> ExampleListing:
    """Lists the images of a data folder with the boxes that are annotated of them.

    `metadata.csv` at the top (column `path`, optionally `group`, any others) adds to
    them.

    Raises:
        DataError: no image has an annotation, or a file that concerns all of them
            cannot be used.
    """
    tree = walk(root)
    images = find_images(tree.files, settings.images)
    annotated = read_boxes(root, tree.files, images, settings)
    extras, findings = read_metadata(root, data, dict.fromkeys(images), tree)
    examples = []
    for path, annotation in sorted(annotated.of_image.items()):
        extra = extras.get(path, NO_EXTRAS)
        split = annotated.splits.of_image.get(path) or extra.split
        examples.append(
            ListedExample(
                path, "", extra.group, split, extra.meta, annotation=annotation
            )
        )
    all_findings = [*annotated.findings, *annotated.splits.findings, *findings]
    collisions = unicode_collisions(images)
    if collisions:
        all_findings.append(collisions)
    return ExampleListing(
        tuple(examples),
        (*tree.faults, *annotated.faults),
        tuple(all_findings),
        tuple(annotated.object_faults),
    )


def read_boxes(
    root: Path, files: Sequence[str], images: Sequence[str], settings: AnnotationConfig
) -> AnnotatedImages:
    """What the annotations of a data folder say of its images.

    Raises:
        DataError: no image has an annotation, or a file that concerns all of them
            cannot be used.
    """
    read = READERS[settings.format]
    annotated = read(root, files, images, settings)
    annotations = annotated.of_image.values()
    if not any(annotation.source for annotation in annotations):
        raise _nothing_annotated(root, settings, len(images), annotated.faults)
    return annotated


def find_images(files: Sequence[str], folder: str | None) -> list[str]:
    """The files that are called like images, in a folder or anywhere but where masks
    lie.
    """
    images = [path for path in files if is_image_name(path)]
    if folder is not None:
        return [path for path in images if lies_in(path, folder)]
    return outside_mask_folders(images)


def _hint(faults: Sequence[ExampleFault]) -> str:
    """What helps most of the images, where annotations were found and cannot be read."""
    hints = Counter(
        fault.hint
        for fault in faults
        if fault.code not in ("no-annotation", "no-image")
    )
    if hints:
        return hints.most_common(1)[0][0]
    return "put the annotations there (dvc pull), or correct task.annotations"


def _nothing_annotated(
    root: Path, settings: AnnotationConfig, images: int, faults: Sequence[ExampleFault]
) -> DataError:
    return DataError(
        f"data folder {root}",
        found=f"{images:,} images, and no annotation of one in the format {settings.format}",
        expected="images and their annotations (task.annotations.format)",
        hint=_hint(faults),
        details=[f"{fault.path}: {fault.code}: {fault.found}" for fault in faults],
    )
