"""Images with boxes on their way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config_section import TaskConfig
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
from pipeline.tasks.image_scan import scan_images
from pipeline.tasks.object_detection.settings import (
    USUAL_SIDE,
    ObjectDetectionConfig,
    detection_settings,
)
from pipeline.tasks.small_sets import describe_annotated

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import ColumnRole, DataConfig
    from pipeline.context import Console


class DetectionReader:
    """The Reader of images with boxes; an image is an example.

    Args:
        task_name: part of the key of what is remembered.
    """

    def __init__(self, task_name: str) -> None:
        self.task_name = task_name

    def describe_source(
        self, source: Path, columns: Mapping[ColumnRole, str] | None = None
    ) -> SourceDescription:
        """Finds out in which format the boxes are written."""
        from pipeline.modalities.image.annotations.box_source import describe_boxes

        return describe_annotated(
            describe_boxes(source), ObjectDetectionConfig.defaults
        )

    def list_examples(
        self, root: Path, data: DataConfig, task: TaskConfig
    ) -> ExampleListing:
        from pipeline.modalities.image.annotations.box_listing import list_boxes

        return list_boxes(root, data, detection_settings(task).annotations)

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
            detection_settings(task).intake,
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
        """Boxes in pixels of their pictures; see
        `pipeline.modalities.image.annotations.boxes.check_boxes`.
        """
        from pipeline.modalities.image.annotations.box_checks import check_box_targets
        from pipeline.modalities.image.annotations.boxes import BoxRules

        settings = detection_settings(task)
        size = settings.input.size
        rules = BoxRules(
            min_visible=settings.annotations.min_visible,
            min_side=settings.annotations.min_side,
            input_side=USUAL_SIDE if size == "auto" else size,
            squashed=settings.input.fit == "squash",
        )
        return check_box_targets(root, usable, data, rules)

    def expectations(self, task: TaskConfig) -> Sequence[ColumnExpectation]:
        from pipeline.modalities.image import measurement

        return measurement.list_expectations(detection_settings(task).intake)

    def measure_drift(
        self, rows: pa.Table, before: pa.Table, task: TaskConfig
    ) -> Sequence[DriftMeasure]:
        """Nothing further: classes and the number of objects are among what every task
        compares.
        """
        return ()
