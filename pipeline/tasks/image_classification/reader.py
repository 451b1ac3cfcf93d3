"""Image files on their way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config_section import TaskConfig
from pipeline.errors import DataError
from pipeline.examples import (
    CheckedTargets,
    ColumnExpectation,
    DriftMeasure,
    ExampleFault,
    ExampleListing,
    ListedExample,
    MeasuredExample,
)
from pipeline.tasks.base import SourceDescription
from pipeline.tasks.image_classification.settings import image_settings
from pipeline.tasks.image_scan import scan_images
from pipeline.text import printable

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import ColumnRole, DataConfig
    from pipeline.context import Console


class ImageReader:
    """The Reader of images, one file an example, in class folders or listed by a table.

    Args:
        task_name: part of the key of what is remembered.
    """

    def __init__(self, task_name: str) -> None:
        self.task_name = task_name

    def describe_source(
        self, source: Path, columns: Mapping[ColumnRole, str] | None = None
    ) -> SourceDescription:
        """Images lie in class folders or are listed by a table in their folder, which
        the user names.

        Raises:
            DataError: it is a file, or a folder of images with boxes or masks.
        """
        from pipeline.modalities.image.annotations.other_task import (
            find_annotation_tasks,
        )

        if not source.is_dir():
            raise DataError(
                printable(str(source)),
                found="a file",
                expected="a folder of images",
                hint="name the folder that holds the images; or, of texts, add --task text-classification",
            )
        tasks = find_annotation_tasks(source)
        if tasks:
            raise DataError(
                printable(str(source)),
                found="images with annotations, in folders that are called like no class",
                expected="a folder for each class",
                hint=f"add --task {' or --task '.join(tasks)}; if the folders are classes, "
                "rename them or list the images in metadata.csv",
            )
        return SourceDescription({}, ())

    def list_examples(
        self, root: Path, data: DataConfig, task: TaskConfig
    ) -> ExampleListing:
        from pipeline.data import sources

        return sources.read(root, data)

    def scan_examples(
        self,
        root: Path,
        examples: Sequence[ListedExample],
        task: TaskConfig,
        scratch: Path,
        console: Console,
    ) -> Mapping[str, MeasuredExample | ExampleFault]:
        return scan_images(
            root,
            examples,
            image_settings(task).intake,
            self.task_name,
            scratch,
            console,
        )

    def check_targets(
        self,
        root: Path,
        usable: Sequence[tuple[ListedExample, MeasuredExample]],
        data: DataConfig,
        task: TaskConfig,
        scratch: Path,
        console: Console,
    ) -> CheckedTargets:
        """A class's name needs no check against the content."""
        return CheckedTargets(tuple(usable))

    def expectations(self, task: TaskConfig) -> Sequence[ColumnExpectation]:
        from pipeline.modalities.image import measurement

        return measurement.list_expectations(image_settings(task).intake)

    def measure_drift(
        self, rows: pa.Table, before: pa.Table, task: TaskConfig
    ) -> Sequence[DriftMeasure]:
        """Nothing further: what moves in pictures, the scan has measured."""
        return ()
