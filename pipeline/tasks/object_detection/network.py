"""The network of object detection: Faster R-CNN with a feature pyramid on any body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.tasks import dense_network
from pipeline.tasks.dense_network import HeadKind

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from torch import nn

    from pipeline.config_section import TaskConfig
    from pipeline.models.network import BlockedNetwork
    from pipeline.records import BackboneRecord, CandidateRecord, InputSpec

STRIDES = (8, 16, 32)
SMALLEST_ANCHOR = 8.0  # pixels a side


class BoxNetwork:
    """The Network of boxes."""

    def design(
        self, train: pa.Table, labels: Sequence[str], spec: InputSpec, task: TaskConfig, backbone: BackboneRecord
    ) -> dict[str, Any]:
        """The body's maps, the head's sizes, and anchors by the training boxes.

        Raises:
            ConfigError: the backbone has no such maps.
        """
        from pipeline.tasks.object_detection.settings import detection_settings

        design = dense_network.find_body_design(backbone, spec, STRIDES)
        head = detection_settings(task).head
        levels = len(design["maps"]) + 1
        return {
            **design,
            "anchors": find_anchors(train, labels, spec, levels),
            "ratios": [0.5, 1.0, 2.0],
            "pyramid_channels": head.channels,
            "hidden": head.hidden,
            "proposals": [head.proposals_before, head.proposals],
            "sampled_anchors": head.sampled_anchors,
            "sampled_regions": head.sampled_regions,
            "detections": head.detections,
            "score_threshold": head.score_threshold,
            "overlap_threshold": head.overlap_threshold,
        }

    def build(
        self,
        backbone: BackboneRecord,
        labels: Sequence[str],
        *,
        design: Mapping[str, Any] | None = None,
        pretrained: bool = True,
        seed: int = 0,
    ) -> BlockedNetwork:
        assert design is not None  # as `design` made it
        return dense_network.build(_kind(), backbone, len(labels), design, pretrained=pretrained, seed=seed)

    def load(self, candidate: CandidateRecord) -> BlockedNetwork:
        return dense_network.load(_kind(), candidate)


def _kind() -> HeadKind:
    from pipeline.serving.box_head import BoxHead

    def find_answer(head: nn.Module) -> Any:
        assert isinstance(head, BoxHead)
        return head.detect

    return HeadKind(BoxHead, find_answer)


def find_anchors(train: pa.Table, labels: Sequence[str], spec: InputSpec, levels: int) -> list[float]:
    """The side in pixels of each level's anchors, rising: quantiles of the training boxes' sides on the canvas, every
    class counting the same, so that a rare class of small objects has anchors too."""
    import numpy as np

    from pipeline.modalities.image.canvas import lay_boxes
    from pipeline.records import image_spec
    from pipeline.tasks.object_detection.scorer import read_pictures

    sides: list[NDArray[np.float64]] = []
    classes: list[NDArray[np.int64]] = []
    for picture in read_pictures(train, labels):
        laid = lay_boxes(picture.trained, image_spec(spec))
        lengths = (laid.boxes[:, 2:] - laid.boxes[:, :2]).astype(np.float64)
        sides.append(np.sqrt(lengths.prod(axis=1)))
        classes.append(laid.labels)
    every_side = np.concatenate(sides)
    if not len(every_side):
        return [SMALLEST_ANCHOR * 2.0**level for level in range(1, levels + 1)]
    every_class = np.concatenate(classes)
    counts = np.bincount(every_class)
    return _weighted_quantiles(every_side, 1.0 / counts[every_class], levels)


def _weighted_quantiles(values: NDArray[np.float64], weights: NDArray[np.float64], count: int) -> list[float]:
    """The middles of `count` parts of equal weight, each at least a tenth above the one before."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    found: list[float] = []
    for part in range(count):
        wanted = reached[-1] * (part + 0.5) / count
        place = min(int(np.searchsorted(reached, wanted)), len(values) - 1)
        least = SMALLEST_ANCHOR if not found else found[-1] * 1.1
        found.append(round(max(float(values[order[place]]), least), 1))
    return found
