"""What is served of a candidate besides its weights, and the key of the version that
serves it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from pipeline import task_catalog
from pipeline.config import Config
from pipeline.records import CandidateRecord, digest


def serving_of(task_name: str) -> Any:
    """The `pipeline.tasks.base.Serving` of a task.

    Raises:
        ConfigError: there is no such task, or a package that it needs is not installed.
    """
    task_catalog.require_extra(task_name)
    task = task_catalog.load_object(task_catalog.find(task_name).task)
    return task.serving()


def code_file(module: str) -> Path:
    """The file of a module of `pipeline.serving`, which travels with the weights and
    answers.
    """
    module_spec = importlib.util.find_spec(module)
    assert module_spec is not None
    assert module_spec.origin is not None
    return Path(module_spec.origin)


def settings(config: Config, candidate: CandidateRecord) -> dict[str, Any]:
    """How the served model presents its inputs, what it refuses and how it names its
    answers.
    """
    served_settings: dict[str, Any] = serving_of(config.task.name).settings(
        config, candidate
    )
    return served_settings


def key(config: Config, name: str, candidate: CandidateRecord) -> str:
    """The key of a model version: the same weights, served in the same way, have the
    same.

    Args:
        name: the model's name in the registry.
    """
    serving = serving_of(config.task.name)
    code = []
    for module in (serving.module, *serving.helpers):
        code.append(code_file(module).read_text(encoding="utf-8"))
    return digest("served", name, serving.settings(config, candidate), *code)
