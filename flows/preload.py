"""Imports made while something else is waited for."""

from __future__ import annotations

import importlib
from collections.abc import Collection

# Each takes seconds, and none is needed to say that nothing changed.
ALWAYS = ("flows.retrain", "mlflow")
NEEDED = {
    "validate": "great_expectations", "backbone": "torchvision", "finetune": "torchvision", "evaluate": "torchvision",
}  # fmt: skip


def up(steps: Collection[str]) -> None:
    """Imports what a retraining that runs these steps is about to use."""
    for name in dict.fromkeys((*ALWAYS, *(NEEDED[step] for step in NEEDED if step in steps))):
        importlib.import_module(name)
