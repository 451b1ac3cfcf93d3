"""Texts on their way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from pipeline.tasks.text_classification.settings import text_settings

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import ColumnRole, DataConfig
    from pipeline.context import Console


class TextReader:
    """The Reader of texts: a row of a table, or a .txt file, is an example."""

    def describe_source(
        self, source: Path, columns: Mapping[ColumnRole, str] | None = None
    ) -> SourceDescription:
        """Which columns hold the texts and the labels; see
        `pipeline.modalities.text.columns`.
        """
        from pipeline.modalities.text.columns import describe_columns

        layout = describe_columns(source, columns)
        data: dict[str, Any] = {}
        if layout.table is not None:
            data["table"] = layout.table
        if layout.header is not None:
            data["header"] = layout.header
        if layout.columns:
            data["columns"] = layout.columns
        settings: dict[str, dict[str, Any]] = {}
        if data:
            settings["data"] = data
        if layout.pair:
            settings["task"] = {"intake": {"pair": True}}
        return SourceDescription(settings, layout.notes)

    def list_examples(
        self, root: Path, data: DataConfig, task: TaskConfig
    ) -> ExampleListing:
        from pipeline.modalities.text.reading import list_texts

        return list_texts(root, data, text_settings(task).intake)

    def scan_examples(
        self,
        root: Path,
        examples: Sequence[ListedExample],
        task: TaskConfig,
        scratch: Path,
        console: Console,
    ) -> Mapping[str, MeasuredExample | ExampleFault]:
        """Measures the texts anew each time: that takes less than to remember them."""
        from pipeline.modalities.text.measure import measure_texts

        return measure_texts(examples, text_settings(task).intake, console)

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
        from pipeline.modalities.text.measure import expectations

        return expectations(text_settings(task).intake)

    def measure_drift(
        self, rows: pa.Table, before: pa.Table, task: TaskConfig
    ) -> Sequence[DriftMeasure]:
        """Words that the earlier texts do not have."""
        from pipeline.modalities.text.vocabulary import measure_vocabulary_drift

        return measure_vocabulary_drift(rows, before, text_settings(task).intake)
