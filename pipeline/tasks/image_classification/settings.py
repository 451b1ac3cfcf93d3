"""Settings of image classification: its section of params.yaml."""

from __future__ import annotations

from typing import Literal

from pipeline.config_section import TaskConfig
from pipeline.modalities.image.settings import (
    ImageAugmentConfig,
    ImageInputConfig,
    ImageIntakeConfig,
)


class ImageClassificationConfig(TaskConfig):
    name: Literal["image-classification"] = "image-classification"
    """the kind of problem"""
    intake: ImageIntakeConfig = ImageIntakeConfig()
    input: ImageInputConfig = ImageInputConfig()
    augment: ImageAugmentConfig = ImageAugmentConfig()


def image_settings(task: TaskConfig) -> ImageClassificationConfig:
    """A task's settings as those of image classification, which they are wherever this
    task's parts are used.
    """
    assert isinstance(task, ImageClassificationConfig)
    return task
