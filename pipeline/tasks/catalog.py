"""From a task's name to its parts."""

from __future__ import annotations

from pipeline import task_catalog
from pipeline.tasks.base import Task


def find(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigError: there is none, or a package that it needs is not installed.
    """
    task_catalog.require_extra(name)
    task: Task = task_catalog.load_object(task_catalog.find(name).task)
    return task
