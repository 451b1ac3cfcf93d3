"""Settings of annotations: how boxes and masks are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config_section import ConfigSection, Fraction

BoxFormat = Literal["voc", "coco", "yolo"]

MOST_VALUE = 65535
PixelValue = (
    Annotated[int, Field(ge=0, le=MOST_VALUE)]
    | Annotated[str, Field(pattern=r"^(#[0-9a-fA-F]{6}|\d{1,5}-\d{1,5})$")]
)
# A mask's pixels are bytes, and the last is kept for what is ignored.
MOST_CLASSES = 255


class AnnotationConfig(ConfigSection):
    format: BoxFormat = "voc"
    """voc: an XML file for each image (Pascal VOC); coco: JSON files; yolo: a text file for each image"""
    files: tuple[str, ...] = ()
    """of coco, the JSON files to read, of yolo, the file that names the classes, by their paths below the data folder; empty: found by what they hold"""
    images: str | None = None
    """the folder of the images, by its name or its path below the data folder; null: all image files but masks"""
    unannotated: Literal["auto", "error", "empty", "skip"] = "auto"
    """an image without an annotation; error: it is left out by name; empty: it shows no object; skip: it does not belong to the data; auto: empty for yolo, where that is the rule, else error"""
    first_pixel: Literal[0, 1] = 1
    """of voc, the number of the first pixel of a row: 1 in Pascal VOC, 0 with some other programs"""
    difficult: Literal["ignore", "use"] = "ignore"
    """objects marked as difficult; ignore: neither trained on nor counted in evaluation"""
    min_visible: Fraction = 0.5
    """a box of which less than this share lies in the picture is left out; others are cut at its edge"""
    min_side: float = Field(default=1.0, ge=0)
    """ignore a box that is narrower than this many pixels once its picture has the size of the network's input; 0: off"""


class MaskValues(ConfigSection):
    classes: dict[str, PixelValue | tuple[PixelValue, ...]] = Field(
        default_factory=dict
    )
    """class → its pixels' value, or several: a number (grey, or index of a palette), a range of numbers such as 1-254, or a colour such as "#804000"; the first class is the background"""
    ignore: tuple[PixelValue, ...] = ()
    """values that are neither trained on nor counted in evaluation"""

    @field_validator("classes")
    @classmethod
    def _limit_classes(
        cls, given: dict[str, PixelValue | tuple[PixelValue, ...]]
    ) -> object:
        if len(given) == 1:
            raise ValueError("must name at least two classes, the background first")
        if len(given) > MOST_CLASSES:
            raise ValueError(f"must name at most {MOST_CLASSES} classes")
        return given

    @model_validator(mode="after")
    def _refuse_mixed(self) -> MaskValues:
        values = [value for _, value in self.pairs()]
        repeated = [
            str(value) for value, count in Counter(values).items() if count > 1
        ][:10]
        if repeated:
            raise ValueError(
                f"must give every value once, and gives {', '.join(repeated)} more often"
            )
        if len({type(value) for value in values}) > 1:
            raise ValueError("must give numbers or colours, not both")
        return self

    @property
    def are_colours(self) -> bool:
        """Whether classes are told by colours instead of numbers."""
        return any(isinstance(value, str) for _, value in self.pairs())

    def pairs(self) -> Iterator[tuple[str | None, int | str]]:
        """Each class with each of its values; None stands for what is ignored. Colours
        are in lower case.
        """
        for label, given in self.classes.items():
            for value in given if isinstance(given, tuple) else (given,):
                yield from ((label, number) for number in _expand(value))
        for value in self.ignore:
            yield from ((None, number) for number in _expand(value))


def _expand(value: int | str) -> Sequence[int | str]:
    """The values that one in the settings stands for."""
    if isinstance(value, int):
        return [value]
    if "-" not in value:
        return [value.lower()]
    first, _, last = value.partition("-")
    highest = min(int(last), MOST_VALUE)
    return range(int(first), highest + 1)


class MaskConfig(ConfigSection):
    images: str | None = None
    """the folder of the images, by its name or its path below the data folder; null: images, img, JPEGImages and the like"""
    masks: str | None = None
    """the folder of the masks; null: masks, mask, SegmentationClass and the like"""
    suffix: str = ""
    """what a mask's name has after its image's, before the ending: _mask, for example"""
    image_suffix: str = ""
    """what an image's name has and its mask's has not, before the ending: _leftImg8bit, for example"""
    unannotated: Literal["error", "empty", "skip"] = "error"
    """an image without a mask; error: it is left out by name; empty: all of it is background; skip: it does not belong to the data"""
    values: MaskValues = MaskValues()
