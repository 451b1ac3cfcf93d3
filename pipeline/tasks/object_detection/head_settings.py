"""Settings of a detector's head."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config_section import ConfigSection, Fraction, Positive


class BoxHeadConfig(ConfigSection):
    channels: int = Field(default=128, ge=8)
    """channels of a new head's feature pyramid; one of torchvision's detectors has its own"""
    hidden: int = Field(default=512, ge=8)
    """hidden units of a new head's box classifier; one of torchvision's detectors has its own"""
    proposals_before: Positive = 1000
    """proposals of a picture and level before those that overlap are removed"""
    proposals: Positive | Literal["auto"] = "auto"
    """proposals of a picture that are classified; auto: 300, or as many as boxes are answered where that is more"""
    sampled_anchors: Positive = 256
    """anchors of a picture that a training step learns from"""
    sampled_regions: Positive = 128
    """proposals of a picture that a training step learns from"""
    detections: Positive | Literal["auto"] = "auto"
    """most boxes in the answer to a picture; auto: 100, or twice as many as the training picture with the most objects has where that is more"""
    score_threshold: Fraction = 0.05
    """boxes with a lower score are left out of the answer"""
    overlap_threshold: Fraction = 0.5
    """of two boxes of one class that overlap more than this (intersection over union), the one with the lower score is left out"""
