"""The network of semantic segmentation: a U-Net decoder on any body, or one of
torchvision's segmenters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.tasks import dense_network

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from pipeline.config import BackboneConfig
    from pipeline.config_section import TaskConfig
    from pipeline.models.network import BlockedNetwork
    from pipeline.models.providers.torchvision.dense_network import HeadKind
    from pipeline.records import BackboneRecord, CandidateRecord, InputSpec

STRIDES = (4, 8, 16, 32)
MOST_CHANNELS = 256


class PixelNetwork:
    """The Network of masks.

    Args:
        find_side: from the task's settings to the canvas's pixels a side.
    """

    def __init__(self, find_side: Callable[[TaskConfig], int]) -> None:
        self._find_side = find_side

    def check_backbone(self, backbone: BackboneConfig, task: TaskConfig) -> str:
        """The strides of the maps that the head reads, or that the backbone is used
        whole, in words.
        """
        return dense_network.check_body(
            backbone, self._find_side(task), STRIDES, "segmenter"
        )

    def design(
        self,
        train: pa.Table,
        labels: Sequence[str],
        spec: InputSpec,
        task: TaskConfig,
        backbone: BackboneRecord,
    ) -> dict[str, Any]:
        """The body's maps and the decoder's channels; of a whole network, its own head.

        Raises:
            ConfigError: the backbone has no such maps, or is a detector.
        """
        from pipeline.tasks.semantic_segmentation.settings import segmentation_settings

        design = dense_network.find_body_design(backbone, spec, STRIDES, "segmenter")
        if "network" in design:
            return design
        width = segmentation_settings(task).head.width
        widths = [
            min(MOST_CHANNELS, width * 2**level) for level in range(len(design["maps"]))
        ]
        return {**design, "widths": widths}

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
        return dense_network.build(
            head_kind(), backbone, len(labels), design, pretrained=pretrained, seed=seed
        )

    def load(self, candidate: CandidateRecord) -> BlockedNetwork:
        return dense_network.load(head_kind(), candidate)


def head_kind() -> HeadKind:
    """How the head is built and asked."""
    from pipeline.models.providers.torchvision.dense_network import HeadKind
    from pipeline.serving.pixel_head import build_head

    def find_answer(head: nn.Module) -> Any:
        return head

    return HeadKind(build_head, find_answer)
