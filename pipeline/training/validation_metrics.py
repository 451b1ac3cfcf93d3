"""Which metric judges a validation, and which of two results is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pipeline import metric_registry
from pipeline.errors import ConfigError
from pipeline.metric_registry import TargetKind


def check_primary(primary: str, kind: TargetKind = "classes") -> None:
    """Raises ConfigError where validation has no such metric for this kind of targets."""
    known = metric_registry.validation_names(kind)
    if primary not in known:
        raise ConfigError(
            "finetune.primary",
            found=primary,
            expected="one of " + ", ".join(known),
            hint=metric_registry.suggest(primary, known),
        )


def higher_is_better(primary: str) -> bool:
    return metric_registry.find(primary).higher_is_better


class Score(NamedTuple):
    """Results in the order they are preferred in: the greater tuple is the better
    result.
    """

    primary: float
    tie_breaker: float


def score(metrics: Mapping[str, float], primary: str) -> Score:
    """Ties in the primary metric go to the kind's second one, the log loss for classes;
    a tie in both leaves the earlier result standing.
    """
    kind = metric_registry.find(primary).targets
    second = metric_registry.TIE_BREAKERS[kind]
    return Score(_rising(metrics, primary), _rising(metrics, second))


def _rising(metrics: Mapping[str, float], name: str) -> float:
    """A metric's value, negative where less of it is better."""
    value = metrics[name]
    return value if higher_is_better(name) else -value
