"""What the training boxes decide about a detector."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from pipeline.tasks.object_detection.head_settings import BoxHeadConfig
from pipeline.tasks.object_detection.network import find_limits

CELL: dict[str, Any] = {"label": "cell", "box": [1, 1, 9, 9]}


def manifest_of(*objects: int) -> pa.Table:
    """Pictures with so many boxes each, and one more that does not count."""
    rows = []
    for count in objects:
        boxes = [CELL] * count + [{**CELL, "ignored": True}]
        target = json.dumps({"boxes": boxes})
        rows.append({"target": target, "scan.width": 64, "scan.height": 64})
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize(
    ("most", "detections", "proposals"),
    [(3, 100, 300), (50, 100, 300), (219, 438, 438), (2000, 1000, 1000)],
)
def test_a_crowded_pictures_answer_has_room_for_all_of_it(
    most: int, detections: int, proposals: int
) -> None:
    limits = find_limits(BoxHeadConfig(), manifest_of(1, most, 2), ["cell"])
    assert limits == (proposals, detections)


def test_limits_that_are_set_stay() -> None:
    head = BoxHeadConfig(detections=7, proposals=9)
    assert find_limits(head, manifest_of(500), ["cell"]) == (9, 7)
