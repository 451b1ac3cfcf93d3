"""The network of semantic segmentation: a U-Net decoder on any body, or one of
torchvision's segmenters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pipeline.tasks import dense_network

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from pipeline.config_section import TaskConfig
    from pipeline.models.providers.torchvision.dense_network import HeadKind
    from pipeline.records import BackboneRecord, InputSpec

KIND: Final = "segmenter"
STRIDES = (4, 8, 16, 32)
MOST_CHANNELS = 256


def find_design(
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

    design = dense_network.find_body_design(backbone, spec, STRIDES, KIND)
    if "network" in design:
        return design
    width = segmentation_settings(task).head.width
    widths = []
    for level in range(len(design["maps"])):
        widths.append(min(MOST_CHANNELS, width * 2**level))
    return {**design, "widths": widths}


def head_kind() -> HeadKind:
    """How the head is built and asked."""
    from pipeline.models.providers.torchvision.dense_network import HeadKind
    from pipeline.serving.pixel_head import build_head

    def find_answer(head: nn.Module) -> Any:
        return head

    return HeadKind(build_head, find_answer)
