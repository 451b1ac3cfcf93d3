"""Settings of object detection: its section of params.yaml."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pipeline.config_section import TaskConfig
from pipeline.modalities.image.annotations.settings import AnnotationConfig
from pipeline.modalities.image.settings import (
    CanvasAugmentConfig,
    CanvasInputConfig,
    ImageIntakeConfig,
    TileConfig,
)
from pipeline.tasks.object_detection.head_settings import BoxHeadConfig

USUAL_SIDE = 320  # pixels of the canvas where the settings leave it open


class ObjectDetectionConfig(TaskConfig):
    name: Literal["object-detection"] = "object-detection"
    """the kind of problem"""
    intake: ImageIntakeConfig = ImageIntakeConfig()
    annotations: AnnotationConfig = AnnotationConfig()
    input: CanvasInputConfig = CanvasInputConfig()
    tiles: TileConfig = TileConfig()
    augment: CanvasAugmentConfig = CanvasAugmentConfig()
    head: BoxHeadConfig = BoxHeadConfig()

    # Rates: those by which a small set of blood cells was learnt best in a few minutes.
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "data": {"conflicts": "quarantine"},
        "finetune": {
            "recipes": ["full"],
            "epochs": 12,
            "batch_size": 8,
            "lr": 1e-3,
            "body_lr": 2e-4,
            "lr_decay": 1.0,
            "views": 16,
            "frozen_views": 16,
            "label_smoothing": 0.0,
            "primary": "mean_ap",
        },
    }


def detection_settings(task: TaskConfig) -> ObjectDetectionConfig:
    """A task's settings as those of object detection, which they are wherever this
    task's parts are used.
    """
    assert isinstance(task, ObjectDetectionConfig)
    return task
