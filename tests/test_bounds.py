"""Settings that cannot work are refused by name, before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import parse
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.labels", ["a", "a", "b"]),
        ("data.path", "../data"),
        ("data.path", "/data"),
        ("finetune.lr", -1),
        ("finetune.lr", float("nan")),
        ("finetune.clip_norm", 0),
        ("finetune.recipes", []),
        ("task.input.size", 0),
        ("backbone.size", 0),
        ("backbone.std", [0, 0, 0]),
        ("task.augment.crop_ratio", [0, 1]),
        ("task.augment.crop_scale", [0.9, 0.5]),
        ("task.augment.crop_scale", [0.5, 2]),
        ("finetune.plan.threads", 0),
        ("task.intake.background", [300, 0, 0]),
        ("register.thresholds", {"accuracy": float("nan")}),
        ("promotion.expires_days", 10**9),
    ],
)
def test_a_setting_that_cannot_work_is_named(name: str, value: Any) -> None:
    *sections, last = name.split(".")
    given: dict[str, Any] = {last: value}
    for section in reversed(sections):
        given = {section: given}
    with pytest.raises(ConfigError) as caught:
        parse(given, "params.yaml")
    assert name in str(caught.value)
