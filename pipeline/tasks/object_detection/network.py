"""The network of object detection: Faster R-CNN with a feature pyramid, on any body or
as torchvision publishes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pipeline.tasks import dense_network

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from torch import nn

    from pipeline.config_section import TaskConfig
    from pipeline.models.providers.torchvision.dense_network import HeadKind
    from pipeline.records import BackboneRecord, InputSpec
    from pipeline.tasks.object_detection.head_settings import BoxHeadConfig

KIND: Final = "detector"
STRIDES = (8, 16, 32)
FACTORS = [3.0 * 1.1**step for step in range(8)]  # from 3 to 5.8
USUAL_FACTOR = 4.0
USUAL_RATIOS = (0.5, 1.0, 2.0)
LEAST_STEP = 1.4
# Of a picture; 100 is what COCO's evaluation counts.
USUAL_DETECTIONS = 100
MOST_DETECTIONS = 1000
USUAL_PROPOSALS = 300


def find_design(
    train: pa.Table,
    labels: Sequence[str],
    spec: InputSpec,
    task: TaskConfig,
    backbone: BackboneRecord,
) -> dict[str, Any]:
    """The body's maps, the head's sizes, and anchors by the training boxes; of a whole
    network, its own sizes and the anchors that its weights were trained with.

    Raises:
        ConfigError: the backbone has no such maps, or is a segmenter.
    """
    from pipeline.tasks.object_detection.settings import detection_settings

    design = dense_network.find_body_design(backbone, spec, STRIDES, KIND)
    head = detection_settings(task).head
    if "network" not in design:
        strides = [one["stride"] for one in design["maps"]]
        anchors = find_anchors(train, labels, spec, [*strides, 2 * strides[-1]])
        design.update(anchors=anchors.sizes, ratios=anchors.ratios)
        design.update(pyramid_channels=head.channels, hidden=head.hidden)
    limits = find_limits(head, train, labels)
    return {
        **design,
        "proposals": [head.proposals_before, limits.proposals],
        "sampled_anchors": head.sampled_anchors,
        "sampled_regions": head.sampled_regions,
        "detections": limits.detections,
        "score_threshold": head.score_threshold,
        "overlap_threshold": head.overlap_threshold,
    }


def head_kind() -> HeadKind:
    """How the head is built and asked."""
    from pipeline.models.providers.torchvision.dense_network import HeadKind
    from pipeline.serving.box_head import BoxHead

    def find_answer(head: nn.Module) -> Any:
        assert isinstance(head, BoxHead)
        return head.detect

    def find_neck(head: nn.Module) -> Any:
        assert isinstance(head, BoxHead)
        return head.merge

    return HeadKind(BoxHead, find_answer, find_neck, "pyramid")


class AnswerLimits(NamedTuple):
    """How many boxes a picture's answer has at most, and from how many it is chosen."""

    proposals: int
    detections: int


def find_limits(
    head: BoxHeadConfig, train: pa.Table, labels: Sequence[str]
) -> AnswerLimits:
    """As the settings say; where they leave it to the data, with room for twice the
    objects of the training picture with the most of them.
    """
    if isinstance(head.detections, int):
        detections = head.detections
    else:
        room = min(2 * _count_most_objects(train, labels), MOST_DETECTIONS)
        detections = max(USUAL_DETECTIONS, room)
    if isinstance(head.proposals, int):
        proposals = head.proposals
    else:
        proposals = max(USUAL_PROPOSALS, detections)
    return AnswerLimits(proposals, detections)


def _count_most_objects(train: pa.Table, labels: Sequence[str]) -> int:
    from pipeline.tasks.object_detection.scorer import read_pictures

    counts = (len(picture.trained.boxes) for picture in read_pictures(train, labels))
    return max(counts, default=0)


class AnchorShapes(NamedTuple):
    """The boxes that answers start from.

    Args:
        sizes: side in pixels of each level's, from fine to coarse.
        ratios: of their height to their width, rising.
    """

    sizes: list[float]
    ratios: list[float]


def find_anchors(
    train: pa.Table, labels: Sequence[str], spec: InputSpec, strides: Sequence[int]
) -> AnchorShapes:
    """Anchors by the training boxes on the canvas, every class counting the same, so
    that a rare class of small objects has them too.

    A level's anchors are as many times as large as its stride at every level, as in the
    published detectors (4 times), since a place of a map cannot tell much smaller
    things apart; that factor, and the ratios, are chosen by the boxes.

    Args:
        strides: of the levels, from fine to coarse.
    """
    import numpy as np

    from pipeline.modalities.image.canvas import lay_boxes
    from pipeline.records import image_spec
    from pipeline.tasks.object_detection.scorer import read_pictures

    sides: list[NDArray[np.float64]] = [np.empty((0, 2))]
    classes: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    for picture in read_pictures(train, labels):
        laid = lay_boxes(picture.trained, image_spec(spec))
        sides.append((laid.boxes[:, 2:] - laid.boxes[:, :2]).astype(np.float64))
        classes.append(laid.labels)
    every_side = np.concatenate(sides)
    if not len(every_side):
        return AnchorShapes(
            [USUAL_FACTOR * stride for stride in strides], list(USUAL_RATIOS)
        )
    every_class = np.concatenate(classes)
    weights = 1.0 / np.bincount(every_class)[every_class]
    factor = _find_factor(np.sqrt(every_side.prod(axis=1)), weights, strides)
    sizes = [round(factor * stride, 1) for stride in strides]
    return AnchorShapes(
        sizes, _find_ratios(every_side[:, 1] / every_side[:, 0], weights)
    )


def _find_factor(
    sides: NDArray[np.float64], weights: NDArray[np.float64], strides: Sequence[int]
) -> float:
    """By how much anchors are larger than their level's stride so that boxes are
    nearest to one of them.
    """
    import numpy as np

    logarithms = np.log2(sides)[:, None]
    best = USUAL_FACTOR
    smallest = np.inf
    for factor in FACTORS:
        distances = np.abs(
            logarithms - np.log2(factor * np.array(strides, np.float64))
        ).min(axis=1)
        mean = float(np.average(distances, weights=weights))
        if mean < smallest:
            best, smallest = factor, mean
    return best


def _find_ratios(
    ratios: NDArray[np.float64], weights: NDArray[np.float64]
) -> list[float]:
    """The middle ratio and those that a tenth of the boxes lie beyond, each at least
    `LEAST_STEP` times the one before.
    """
    import numpy as np

    order = np.argsort(ratios, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    low, middle, high = (
        float(ratios[order][np.searchsorted(reached, share)])
        for share in (0.1, 0.5, 0.9)
    )
    return [
        round(min(low, middle / LEAST_STEP), 2),
        round(middle, 2),
        round(max(high, middle * LEAST_STEP), 2),
    ]
