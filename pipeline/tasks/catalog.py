"""The tasks there are. Values are `module:name`, so that listing them imports none."""

from __future__ import annotations

import importlib

from pipeline.errors import ConfigError
from pipeline.tasks.base import Task

TASKS = {
    "image-classification": "pipeline.tasks.image_classification:ImageClassification",
}


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TASKS:
        raise ConfigError("task.name", found=name, expected="one of " + ", ".join(TASKS))
    module, _, attribute = TASKS[name].partition(":")
    task: Task = getattr(importlib.import_module(module), attribute)()
    return task
