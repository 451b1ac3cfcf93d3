"""Settings of semantic segmentation: its section of params.yaml."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pipeline.config_section import TaskConfig
from pipeline.modalities.image.annotations.settings import MaskConfig
from pipeline.modalities.image.settings import (
    CanvasAugmentConfig,
    CanvasInputConfig,
    ImageIntakeConfig,
    TileConfig,
)
from pipeline.tasks.semantic_segmentation.head_settings import PixelHeadConfig


class SemanticSegmentationConfig(TaskConfig):
    name: Literal["semantic-segmentation"] = "semantic-segmentation"
    """the kind of problem"""
    intake: ImageIntakeConfig = ImageIntakeConfig()
    masks: MaskConfig = MaskConfig()
    input: CanvasInputConfig = CanvasInputConfig()
    tiles: TileConfig = TileConfig()
    augment: CanvasAugmentConfig = CanvasAugmentConfig()
    head: PixelHeadConfig = PixelHeadConfig()

    # Rates: those by which a small set of nuclei was learnt best in a minute.
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "data": {"conflicts": "quarantine"},
        "finetune": {
            "recipes": ["full"],
            "epochs": 6,
            "batch_size": 8,
            "lr": 2e-3,
            "body_lr": 4e-4,
            "lr_decay": 1.0,
            "views": 16,
            "frozen_views": 16,
            "label_smoothing": 0.0,
            "primary": "mean_iou",
        },
    }


def segmentation_settings(task: TaskConfig) -> SemanticSegmentationConfig:
    """A task's settings as those of semantic segmentation, which they are wherever this
    task's parts are used.
    """
    assert isinstance(task, SemanticSegmentationConfig)
    return task
