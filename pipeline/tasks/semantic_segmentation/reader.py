"""Images with masks on their way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
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
from pipeline.tasks.semantic_segmentation.settings import (
    SemanticSegmentationConfig,
    segmentation_settings,
)
from pipeline.tasks.small_sets import describe_annotated

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import ColumnRole, DataConfig
    from pipeline.context import Console


class SegmentationReader:
    """The Reader of images with masks; an image is an example.

    Args:
        task_name: part of the key of what is remembered.
    """

    def __init__(self, task_name: str) -> None:
        self.task_name = task_name

    def describe_source(
        self, source: Path, columns: Mapping[ColumnRole, str] | None = None
    ) -> SourceDescription:
        """Finds out where the masks lie and what their values stand for."""
        from pipeline.modalities.image.annotations.mask_source import describe_masks

        return describe_annotated(
            describe_masks(source), SemanticSegmentationConfig.defaults
        )

    def list_examples(
        self, root: Path, data: DataConfig, task: TaskConfig
    ) -> ExampleListing:
        from pipeline.modalities.image.annotations.mask_listing import list_masks

        return list_masks(root, data, segmentation_settings(task).masks)

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
            segmentation_settings(task).intake,
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
        """Masks of the size of their pictures, with known values; what was counted is
        remembered by the mask's own content.
        """
        from pipeline.config import ENGINE
        from pipeline.data.scan import scan
        from pipeline.data.scan_cache import ScanCache
        from pipeline.modalities.image.annotations.mask_checks import (
            check_mask_targets,
            label_space,
        )
        from pipeline.modalities.image.annotations.masks import measure_mask
        from pipeline.records import digest

        values = segmentation_settings(task).masks.values
        labels = label_space(values, data)
        paths = sorted({example.annotation.path for example, _ in usable} - {""})
        measure = partial(measure_mask, root, values=values, labels=labels)
        cache = ScanCache(
            scratch / "scan",
            digest(ENGINE, "mask", values, labels, list(values.classes)),
        )
        measured = scan(root, paths, measure, cache, console)
        return check_mask_targets(usable, measured, labels, values, data)

    def expectations(self, task: TaskConfig) -> Sequence[ColumnExpectation]:
        from pipeline.modalities.image import measurement

        return measurement.list_expectations(segmentation_settings(task).intake)

    def measure_drift(
        self, rows: pa.Table, before: pa.Table, task: TaskConfig
    ) -> Sequence[DriftMeasure]:
        """Nothing further: classes and their share of the pixels are among what every
        task compares.
        """
        return ()
