"""Numbers as a reader would say them, and charts that hold."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from PIL import Image, ImageColor

from pipeline.evaluation.mask_drawing import OPACITY, _lay_on
from pipeline.records import MetricEstimate
from pipeline.report import charts, dense_sections, formatting, run_sections
from pipeline.report.result_sections import scale_start


def plain(text: str) -> str:
    return text.replace("\u202f", "").replace("\u00a0", " ").replace("\u2212", "-")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1e-3, "1e-3"),
        (2.5e-4, "2.5e-4"),
        (0.5, "5e-1"),
        (0.00049, "4.9e-4"),
        (7.8125e-6, "7.8e-6"),
        (1.0, "1e0"),
    ],
)
def test_rates(value: float, said: str) -> None:
    assert plain(formatting.format_rate(value)) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (48.2, "48s"),
        (89.6, "90s"),
        (125, "2min 05s"),
        (3599.7, "60min 00s"),
        (7260, "2h 01min"),
    ],
)
def test_seconds(value: float, said: str) -> None:
    assert plain(formatting.format_seconds(value)) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(512, "512B"), (11_534_336, "11.5MB"), (2.5e9, "2.5GB"), (3e12, "3.0TB")],
)
def test_sizes(value: float, said: str) -> None:
    assert plain(formatting.format_size(value)) == said


def test_counts_and_lists() -> None:
    assert plain(formatting.pluralize(1, "example")) == "1 example"
    assert plain(formatting.pluralize(12345, "class", "classes")) == "12,345 classes"
    assert [
        formatting.join_names(names)
        for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])
    ] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_points_and_intervals() -> None:
    assert plain(formatting.format_points(-0.0521)) == "-5.2 points"
    assert (
        plain(
            formatting.format_difference(
                MetricEstimate(value=0, low=-0.012, high=0.034)
            )
        )
        == "-1.2 to +3.4"
    )
    assert (
        formatting.format_interval(
            "accuracy", MetricEstimate(value=0.95, low=0.912, high=0.98)
        )
        == "91.2–98.0"
    )
    assert (
        formatting.format_interval(
            "log_loss", MetricEstimate(value=0.2, low=0.1, high=0.3)
        )
        == "0.100–0.300"
    )


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.3, 1.45), (-2, 7), (0, 1234), (0.001, 0.0011), (5, 5)]
)
def test_ticks_are_few_round_and_within(low: float, high: float) -> None:
    found = charts.find_ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)


def test_charts_survive_gaps_single_points_and_level_lines() -> None:
    curves = [
        charts.Line("gap", [(1, 0.5), (2, math.nan), (3, 0.7)]),
        charts.Line("one", [(1, 0.5)], "second"),
        charts.Line("level", [(1, 0.5), (3, 0.5)], "faint"),
        charts.Line("none", []),
    ]
    drawn = charts.draw_lines("t", curves, x_label="epoch", y_format=str)
    assert "nan" not in drawn
    assert (
        charts.draw_lines("t", [charts.Line("none", [])], x_label="epoch", y_format=str)
        == ""
    )


def test_charts_escape_names() -> None:
    drawn = charts.draw_lines(
        "<b>&",
        [charts.Line("<i>", [(0, 0), (1, 1)])],
        x_label="<x>",
        y_format=lambda v: "<y>",
    )
    assert not any(tag in drawn for tag in ("<b>", "<i>", "<x>", "<y>"))


def test_labels_of_curves_that_end_together_are_moved_apart() -> None:
    drawn = charts.draw_lines(
        "t",
        [charts.Line(name, [(0, 0), (1, 1)]) for name in ("a", "b", "c")],
        x_label="x",
        y_format=str,
    )
    levels = [
        float(piece.split('"')[0])
        for piece in drawn.split('class="end')[1:]
        for piece in [piece.split('y="')[1]]
    ]
    assert all(
        later - sooner >= charts.LABEL_GAP
        for sooner, later in itertools.pairwise(levels)
    )


def test_the_scale_of_shares_begins_below_everything() -> None:
    assert [
        scale_start(values) for values in ([0.83, 0.95], [0.8], [0.05], [], [1.0])
    ] == [
        0.8,
        0.7,
        0.0,
        0.0,
        0.9,
    ]


def test_a_detectors_anchors_and_where_they_come_from() -> None:
    new = {"maps": [], "anchors": [12.0, 24.0], "ratios": [0.5, 1.0]}
    said = run_sections.describe_network(new)
    assert said == (
        "Its body was pretrained, the head is new. Anchors, chosen by the training boxes: "
        "sides of 12, 24 px, height to width 0.5, 1."
    )
    whole = {
        **new,
        "network": "fasterrcnn_mobilenet_v3_large_fpn",
        "anchors": [[32.0, 64.0]] * 3,
    }
    assert (
        "those that the weights were trained with: sides of 32, 64 px at every level"
        in (run_sections.describe_network(whole))
    )
    assert run_sections.describe_network({}) == ""


def test_each_class_of_masks_has_the_colour_that_it_is_drawn_in() -> None:
    rows = dense_sections.colours_section(("background", *"abcdefgh"))
    assert [row.label for row in rows] == [*"abcdefgh"]
    drawn = np.arange(9, dtype=np.uint8)[None]
    picture = Image.new("RGB", (9, 1), (0, 0, 0))
    shown = np.asarray(_lay_on(picture, drawn))[0]
    for row, pixel in zip(rows, shown[1:], strict=True):
        wanted = np.array(ImageColor.getrgb(row.colour)) * OPACITY
        assert np.abs(wanted - pixel).max() <= 1
