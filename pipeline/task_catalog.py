"""The tasks there are. Values are `module:name`, so that listing them imports none."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, NamedTuple

from pipeline.config_section import TaskConfig
from pipeline.errors import ConfigError


class CatalogEntry(NamedTuple):
    """Where a task is found.

    Args:
        task: its parts, a `pipeline.tasks.base.Task`.
        settings: the model of its section of params.yaml.
        extra: what to install for it, as `pip install 'thaw[EXTRA]'`; "" where it comes
            with Thaw.
        needs: the packages that this brings, by the names they are imported by.
    """

    task: str
    settings: str
    extra: str = ""
    needs: tuple[str, ...] = ()


DEFAULT = "image-classification"
TASKS = {
    "image-classification": CatalogEntry(
        task="pipeline.tasks.image_classification:TASK",
        settings="pipeline.tasks.image_classification.settings:ImageClassificationConfig",
    ),
    "text-classification": CatalogEntry(
        task="pipeline.tasks.text_classification:TASK",
        settings="pipeline.tasks.text_classification.settings:TextClassificationConfig",
        extra="text",
        needs=("transformers", "tokenizers", "huggingface_hub"),
    ),
    "object-detection": CatalogEntry(
        task="pipeline.tasks.object_detection:TASK",
        settings="pipeline.tasks.object_detection.settings:ObjectDetectionConfig",
    ),
    "semantic-segmentation": CatalogEntry(
        task="pipeline.tasks.semantic_segmentation:TASK",
        settings="pipeline.tasks.semantic_segmentation.settings:SemanticSegmentationConfig",
    ),
}


def find(name: str) -> CatalogEntry:
    """The entry of a task.

    Raises:
        ConfigError: there is no such task.
    """
    if name not in TASKS:
        raise ConfigError(
            "task.name", found=str(name), expected="one of " + ", ".join(TASKS)
        )
    return TASKS[name]


def settings_type(name: str) -> type[TaskConfig]:
    """The model of a task's section of params.yaml.

    Raises:
        ConfigError: there is no such task.
    """
    settings: type[TaskConfig] = load_object(find(name).settings)
    return settings


def require_extra(name: str) -> None:
    """Makes sure that what a task needs is installed.

    Raises:
        ConfigError: there is no such task, or a package that it needs is missing.
    """
    entry = find(name)
    missing = [
        package for package in entry.needs if importlib.util.find_spec(package) is None
    ]
    if missing:
        raise ConfigError(
            f"task.name: {name}",
            found=f"{', '.join(missing)} not installed",
            expected=f"what this task needs, the extra {entry.extra}",
            hint=f"pip install 'thaw[{entry.extra}]'",
        )


def load_object(reference: str) -> Any:
    """The object that `module:name` names."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
