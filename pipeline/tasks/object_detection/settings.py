"""Settings of object detection: its section of params.yaml."""

from __future__ import annotations

from typing import Literal

from pipeline.config_section import TaskConfig
from pipeline.modalities.image.annotations.settings import AnnotationConfig
from pipeline.modalities.image.settings import ImageAugmentConfig, ImageInputConfig, ImageIntakeConfig


class ObjectDetectionConfig(TaskConfig):
    name: Literal["object-detection"] = "object-detection"
    """the kind of problem"""
    intake: ImageIntakeConfig = ImageIntakeConfig()
    annotations: AnnotationConfig = AnnotationConfig()
    input: ImageInputConfig = ImageInputConfig(fit="squash")
    augment: ImageAugmentConfig = ImageAugmentConfig()


def detection_settings(task: TaskConfig) -> ObjectDetectionConfig:
    """A task's settings as those of object detection, which they are wherever this task's parts are used."""
    assert isinstance(task, ObjectDetectionConfig)
    return task
