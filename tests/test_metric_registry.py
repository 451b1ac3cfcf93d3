"""The table of metrics, and who asks it."""

from __future__ import annotations

import importlib

import pytest

from pipeline import metric_registry
from pipeline.errors import ConfigError
from pipeline.metric_registry import METRICS, top_k_accuracy


@pytest.mark.parametrize(
    "metric", [*METRICS, top_k_accuracy(3)], ids=lambda metric: metric.name
)
def test_every_metric_is_found_by_its_name_and_has_a_function(
    metric: metric_registry.Metric,
) -> None:
    assert metric_registry.find(metric.name) == metric
    module, _, name = metric.function.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert metric.title
    assert metric.note


def test_names_and_titles_are_told_apart() -> None:
    assert (
        len({metric.name for metric in METRICS})
        == len({metric.title for metric in METRICS})
        == len(METRICS)
    )


def test_an_unknown_name_is_refused_with_the_one_it_may_mean() -> None:
    with pytest.raises(ConfigError) as refused:
        metric_registry.find("acuracy")
    assert refused.value.hint == "did you mean accuracy?"
    assert "log_loss" in refused.value.expected


@pytest.mark.parametrize(
    ("classes", "wanted", "k"),
    [(2, 3, None), (3, 3, 2), (5, 3, 3), (10, 5, 5), (10, 1, None)],
)
def test_top_k_stays_below_the_number_of_classes(
    classes: int, wanted: int, k: int | None
) -> None:
    assert metric_registry.largest_k(classes, wanted) == k


def test_a_threshold_may_name_what_is_measured() -> None:
    names = metric_registry.threshold_names(5, classes=4)
    assert "top_3_accuracy" in names
    assert "top_5_accuracy" not in names
    assert "auroc" not in metric_registry.threshold_names(5, classes=1000)
    assert {"top_2_accuracy", "top_5_accuracy", "auroc"} <= set(
        metric_registry.threshold_names(5)
    )


def test_readers_meet_what_is_better_where_it_is_higher_first() -> None:
    names = ["log_loss", "top_3_accuracy", "accuracy", "auroc", "calibration_error"]
    ordered = ["accuracy", "auroc", "top_3_accuracy", "log_loss", "calibration_error"]
    assert sorted(names, key=metric_registry.sort_key) == ordered
