"""Settings of semantic segmentation: its section of params.yaml."""

from __future__ import annotations

from typing import Literal

from pipeline.config_section import TaskConfig
from pipeline.modalities.image.annotations.settings import MaskConfig
from pipeline.modalities.image.settings import ImageAugmentConfig, ImageInputConfig, ImageIntakeConfig


class SemanticSegmentationConfig(TaskConfig):
    name: Literal["semantic-segmentation"] = "semantic-segmentation"
    """the kind of problem"""
    intake: ImageIntakeConfig = ImageIntakeConfig()
    masks: MaskConfig = MaskConfig()
    input: ImageInputConfig = ImageInputConfig(fit="squash")
    augment: ImageAugmentConfig = ImageAugmentConfig()


def segmentation_settings(task: TaskConfig) -> SemanticSegmentationConfig:
    """A task's settings as those of semantic segmentation, which they are wherever this task's parts are used."""
    assert isinstance(task, SemanticSegmentationConfig)
    return task
