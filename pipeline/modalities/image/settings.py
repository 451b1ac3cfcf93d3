"""Settings of images, shared by every task that has them."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config_section import Above, ConfigSection, Fraction, Positive

Level = Annotated[int, Field(ge=0, le=255)]

ImageFormat = Literal[
    "JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF"
]


class ImageIntakeConfig(ConfigSection):
    formats: tuple[ImageFormat, ...] = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
    """file formats accepted, by what the file is and not by its name"""
    min_side: Positive = 16
    """reject an image whose shorter side has fewer pixels"""
    max_pixels: int = Field(default=50_000_000, ge=1, le=178_956_970)
    """reject an image with more pixels, on its header, before decoding"""
    max_bytes: Positive = 50_000_000
    """reject a larger file"""
    max_aspect: float = Field(default=10.0, ge=1)
    """reject an image whose sides differ by more than this factor"""
    min_detail: float = Field(default=0.75, ge=0, le=8)
    """reject, as a placeholder or an empty frame, an image whose grey levels have less entropy than this (bits per pixel), unless more than max_bad_fraction of the data are like that; 0: off"""
    animated: Literal["reject", "first-frame"] = "reject"
    """what to do with a file of several frames or pages"""
    background: tuple[Level, Level, Level] = (255, 255, 255)
    """the colour (RGB, 0–255) that transparent images are laid on"""


class ImageInputConfig(ConfigSection):
    size: Positive | Literal["auto"] = "auto"
    """side of the network's square input in pixels; auto: what the backbone was trained with"""
    fit: Literal["crop", "squash", "pad"] = "crop"
    """how an image becomes square: crop the centre, squash both sides, or pad with the background"""


class ImageAugmentConfig(ConfigSection):
    crop_scale: tuple[Above, Above] = (0.5, 1.0)
    """random resized crop: share of the area kept"""
    crop_ratio: tuple[Above, Above] = (0.75, 1.3333)
    """random resized crop: aspect ratio"""
    hflip: Fraction = 0.5
    """probability of a horizontal flip"""
    vflip: Fraction = 0.0
    """probability of a vertical flip"""
    rotate90: bool = False
    """turn by a random multiple of 90 degrees"""
    brightness: Fraction = 0.2
    """random brightness factor, 1 ± this"""
    contrast: Fraction = 0.2
    """random contrast factor, 1 ± this"""
    saturation: Fraction = 0.2
    """random saturation factor, 1 ± this"""

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _rising(
        cls, given: tuple[float, float], info: ValidationInfo
    ) -> tuple[float, float]:
        is_share = info.field_name == "crop_scale"
        rule = "must be the smallest, then the largest"
        if is_share:
            rule += ", at most 1"
        if given[0] > given[1] or (is_share and given[1] > 1):
            raise ValueError(rule)
        return given


class CanvasInputConfig(ConfigSection):
    size: Positive | Literal["auto"] = "auto"
    """side of the square canvas in pixels; auto: 320 for detection, 256 for segmentation"""
    fit: Literal["squash", "pad"] = "squash"
    """how a picture becomes square: squash both sides, or pad with the background"""


class TileConfig(ConfigSection):
    side: Annotated[int, Field(ge=32)] | Literal["auto"] | None = None
    """pictures much larger than those trained on are answered in tiles of so many pixels a side; auto: as wide and as high as the training pictures' medians; null: every picture is shown whole"""
    overlap: float = Field(default=0.25, ge=0, le=0.5)
    """share of a tile's side that neighbours have in common at least; their answers are blended there"""


class CanvasAugmentConfig(ImageAugmentConfig):
    crop_scale: tuple[Above, Above] = (0.5, 1.0)
    """random resized crop: share of the area kept; boxes and masks are cropped with it"""


class CanvasSettings(Protocol):
    """Settings of a task whose truths lie on the picture, as far as they concern the
    picture.
    """

    @property
    def intake(self) -> ImageIntakeConfig: ...

    @property
    def input(self) -> CanvasInputConfig: ...

    @property
    def augment(self) -> ImageAugmentConfig: ...
