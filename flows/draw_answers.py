"""`thaw predict --draw FOLDER`: pictures with the model's answers drawn in."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, WorkspaceError
from pipeline.text import printable

if TYPE_CHECKING:
    from PIL import Image

OPACITY = 0.5
LONGEST_SIDE = 4096  # pixels of a drawing; a larger picture is shrunk
LONGEST_STEM = 200  # characters of a file's name, of which file systems take 255


class AnswerDrawing:
    """Draws answers into copies of the pictures.

    Args:
        folder: made where it is missing; what is there under the same name is replaced.

    Raises:
        WorkspaceError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()
        self._classes: dict[str, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise WorkspaceError(
                "--draw",
                found=f"{folder}: {fault.strerror}",
                expected="a folder to write to",
            ) from fault

    def draw(self, source: str, content: bytes, answer: Mapping[str, Any]) -> Path:
        """Writes a picture with its boxes or regions, shrunk where a side has more than
        `LONGEST_SIDE` pixels.

        Args:
            source: the picture's file.
            content: of the file.
            answer: as the model gave it.

        Returns:
            The file that was written, a PNG.

        Raises:
            ConfigError: the picture lies in the folder that is drawn into: a drawing
                could take another picture's place.
            WorkspaceError: the drawing cannot be written.
        """
        self._refuse_own_folder(source)
        picture = _open_upright(content)
        if "objects" in answer:
            self._draw_boxes(picture, answer)
        else:
            picture = self._lay_on_regions(picture, answer)
        path = self._folder / self._free_name(Path(source).stem[:LONGEST_STEM])
        try:
            picture.save(path, "PNG")
        except OSError as fault:
            reason = fault.strerror or str(fault)
            raise WorkspaceError(
                "--draw",
                found=f"{path}: {reason}",
                expected="a file that can be written",
            ) from fault
        return path

    def describe_colours(self) -> str:
        """Which colour each class was drawn in."""
        from pipeline.modalities.image.class_colours import COLOUR_NAMES

        described = []
        for label, number in self._classes.items():
            colour = COLOUR_NAMES[number % len(COLOUR_NAMES)]
            described.append(f"{printable(label)} {colour}")
        return ", ".join(described)

    def _refuse_own_folder(self, source: str) -> None:
        if Path(source).resolve().parent == self._folder.resolve():
            raise ConfigError(
                "--draw",
                found=f"{self._folder}, where {printable(source)} lies",
                expected="another folder than that of the pictures, none of which may be replaced",
                hint="name a new folder",
            )

    def _free_name(self, stem: str) -> str:
        """A name that none of this call's pictures has; two of one name come from
        different folders.
        """
        name = f"{stem}.png"
        number = 2
        while name.lower() in self._names:
            name = f"{stem}-{number}.png"
            number += 1
        self._names.add(name.lower())
        return name

    def _colour(self, label: str) -> tuple[int, int, int]:
        from pipeline.modalities.image.class_colours import COLOURS

        number = self._classes.setdefault(label, len(self._classes))
        return COLOURS[number % len(COLOURS)]

    def _draw_boxes(self, picture: Image.Image, answer: Mapping[str, Any]) -> None:
        from PIL import ImageDraw, ImageFont

        canvas = ImageDraw.Draw(picture)
        scale = picture.width / answer["width"]
        longest = max(picture.size)
        middle = scale * _find_middle_side(answer["objects"])
        line_width = max(1, round(min(longest / 400, middle / 40)))
        text_size = max(10, round(min(longest / 50, middle / 5)))
        font = ImageFont.load_default(size=text_size)
        for item in reversed(answer["objects"]):  # the surest last, on top
            colour = self._colour(item["label"])
            left, top, right, bottom = (scale * value for value in item["box"])
            corners = [left, top, right, bottom]
            canvas.rectangle(corners, outline=colour, width=line_width)
            label = " ".join(item["label"].split())
            text = f"{label} {item['score']:.0%}"
            ground = canvas.textbbox((left, top), text, font=font, anchor="lb")
            if ground[1] < 0:  # no room above the box
                top += ground[3] - ground[1]
                ground = canvas.textbbox((left, top), text, font=font, anchor="lb")
            canvas.rectangle(ground, fill=colour)
            canvas.text((left, top), text, font=font, anchor="lb", fill=(255, 255, 255))

    def _lay_on_regions(
        self, picture: Image.Image, answer: Mapping[str, Any]
    ) -> Image.Image:
        import numpy as np
        from PIL import Image

        from pipeline.serving.pixel_runs import decode_mask

        pixels = np.array(picture)
        for region in answer["regions"]:
            mask = decode_mask(
                [region], ("", region["label"]), answer["width"], answer["height"]
            )
            chosen = (
                np.asarray(
                    Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST)
                )
                == 1
            )
            mixed = (1 - OPACITY) * pixels[chosen] + OPACITY * np.array(
                self._colour(region["label"])
            )
            pixels[chosen] = mixed.astype(np.uint8)
        return Image.fromarray(pixels)


def _find_middle_side(objects: Sequence[Mapping[str, Any]]) -> float:
    """The median of the boxes' longer sides, in pixels: names as large as the picture
    allows would hide small objects.
    """
    sides = []
    for each in objects:
        left, top, right, bottom = each["box"]
        sides.append(max(right - left, bottom - top))
    return float(median(sides)) if sides else 0.0


def _open_upright(content: bytes) -> Image.Image:
    """A picture as it is shown, with at most `LONGEST_SIDE` pixels a side."""
    from PIL import Image

    from pipeline.modalities.image.decoding import quiet
    from pipeline.serving.image_pixels import DECODERS, find_orientation, to_rgb

    with quiet(), Image.open(io.BytesIO(content), formats=DECODERS) as image:
        picture = to_rgb(image, find_orientation(image), (255, 255, 255))
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        return picture
