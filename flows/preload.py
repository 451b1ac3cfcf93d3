"""Imports made while something else is waited for."""

from __future__ import annotations

import importlib
from collections.abc import Collection

from pipeline.step_table import STEPS

# Each takes seconds, and none is needed to say that nothing changed.
ALWAYS = ("flows.retrain", "mlflow")


def import_for_steps(steps: Collection[str]) -> None:
    """Imports what a retraining that runs these steps is about to use."""
    modules = list(ALWAYS)
    for name, entry in STEPS.items():
        if name in steps:
            modules += entry.preload
    for module in dict.fromkeys(modules):
        importlib.import_module(module)
