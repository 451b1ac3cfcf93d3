"""Truth and answer drawn into a picture of the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.objectives.box_matching import SCORE

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

    from pipeline.evaluation.bootstrap import Floats
    from pipeline.objectives.box_targets import PictureBoxes

# Told apart by those who do not tell red from green, too: the truth is dashed, an
# answer's line is solid.
TRUTH = (255, 214, 10)
ANSWER = (10, 132, 255)
DASH = 5  # pixels
SMALLEST_SIDE = 300  # pixels of a picture's longer side


def draw_boxes(path: Path, truth: PictureBoxes, answer: Floats) -> None:
    """Draws objects, dashed, and answers into a small picture of the example, in place.

    Args:
        path: the picture.
        truth: in pixels of the example.
        answer: (K, 6) in the same pixels.
    """
    from PIL import Image, ImageDraw

    with Image.open(path) as opened:
        picture = enlarge(opened.convert("RGB"))
    scale = picture.width / truth.width
    canvas = ImageDraw.Draw(picture)
    for box in answer:
        corners = [float(value) * scale for value in box[:SCORE]]
        canvas.rectangle(corners, outline=ANSWER, width=2)
    for corners in truth.trained.boxes.tolist():
        _draw_dashed(canvas, [value * scale for value in corners])
    picture.save(path, quality=86, optimize=True)


def enlarge(picture: Image.Image) -> Image.Image:
    """A very small picture, a whole number of times as large, so that what is drawn
    does not hide it.
    """
    longest = max(picture.size)
    times = max(1, -(-SMALLEST_SIDE // longest))
    size = (times * picture.width, times * picture.height)
    return picture.resize(size)


def _draw_dashed(canvas: ImageDraw.ImageDraw, corners: list[float]) -> None:
    left, top, right, bottom = corners
    for start in range(int(left), int(right), 2 * DASH):
        stop = min(start + DASH, right)
        for row in (top, bottom):
            canvas.line([(start, row), (stop, row)], fill=TRUTH, width=2)
    for start in range(int(top), int(bottom), 2 * DASH):
        stop = min(start + DASH, bottom)
        for column in (left, right):
            canvas.line([(column, start), (column, stop)], fill=TRUTH, width=2)
