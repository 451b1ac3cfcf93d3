"""Settings of a segmenter's head."""

from __future__ import annotations

from pydantic import Field

from pipeline.config_section import ConfigSection


class PixelHeadConfig(ConfigSection):
    width: int = Field(default=32, ge=8, multiple_of=8)
    """channels of the decoder at the finest of the backbone's feature maps; twice as many at each coarser one, at most 256; one of torchvision's segmenters has its own head"""
