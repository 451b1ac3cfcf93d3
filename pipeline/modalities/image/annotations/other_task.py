"""Tells a folder of annotated images from one of class folders: whoever forgot the task
would else train a classifier of images and masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.data.layout import METADATA, walk
from pipeline.modalities.image.annotations.box_source import find_readings
from pipeline.modalities.image.annotations.given_splits import split_of_name
from pipeline.modalities.image.annotations.pairing import (
    MASK_FOLDERS,
    roles_of,
    strip_role,
)
from pipeline.modalities.image.file_types import is_image_name

BOXES, MASKS = "object-detection", "semantic-segmentation"


def find_annotation_tasks(source: Path) -> tuple[str, ...]:
    """The tasks that the annotations of a folder are for; none where its folders are
    called like classes, or a table lists its images.
    """
    files = walk(source).files
    images = [path for path in files if is_image_name(path)]
    if METADATA in files or not images or not _are_no_classes(images):
        return ()
    tasks = []
    if find_readings(source, files, images):
        tasks.append(BOXES)
    homes = {path.rpartition("/")[0] for path in images}
    if len(homes) > 1 and not roles_of(images).isdisjoint(MASK_FOLDERS):
        tasks.append(MASKS)
    return tuple(tasks)


def _are_no_classes(images: Sequence[str]) -> bool:
    """Whether all folders with images are called by what lies in them or by a split:
    images, train, train_masks.
    """
    homes = {path.rpartition("/")[0] for path in images}
    names = {home.rpartition("/")[2] for home in homes}
    return all(
        not strip_role(name) or split_of_name(strip_role(name)) for name in names
    )
