"""Drawings of answers: they replace no picture, and fail with words."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from flows.draw_answers import AnswerDrawing
from flows.predict import Prediction, Predictions, format_table
from pipeline.errors import ConfigError, WorkspaceError

BOXES = {
    "objects": [{"label": "a\nb", "score": 0.9, "box": [2, 0, 40, 30]}],
    "width": 64,
    "height": 48,
}
REGIONS = {
    "regions": [{"label": "a", "pixels": 10, "runs": [0, 10]}],
    "width": 64,
    "height": 48,
}


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 200, 200)).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("answer", [BOXES, REGIONS])
def test_an_answer_is_drawn_into_a_copy_of_the_same_size(
    answer: dict[str, object], tmp_path: Path
) -> None:
    path = AnswerDrawing(tmp_path / "drawn").draw("pictures/x.jpg", picture(), answer)
    assert path == tmp_path / "drawn" / "x.png"
    with Image.open(path) as drawn:
        assert drawn.size == (64, 48)
        assert len(drawn.convert("RGB").getcolors() or []) > 1, "nothing was drawn"


def test_what_colour_a_class_has_is_told(tmp_path: Path) -> None:
    regions = [{"label": label, "pixels": 1, "runs": [0, 1]} for label in "ab"]
    drawing = AnswerDrawing(tmp_path / "drawn")
    drawing.draw("x.png", picture(), {**REGIONS, "regions": regions})
    assert drawing.describe_colours() == "a blue, b orange"
    predictions = Predictions([Prediction("x.png", {}, answer=REGIONS)])
    predictions.colours = drawing.describe_colours()
    assert list(format_table(predictions))[-1] == "drawn: a blue, b orange"


@pytest.mark.parametrize("name", ["objects", "regions"])
def test_the_drawing_of_a_large_picture_is_shrunk(name: str, tmp_path: Path) -> None:
    width, height = 8192, 40
    content = io.BytesIO()
    Image.new("RGB", (width, height), (200, 200, 200)).save(content, "PNG")
    runs = [
        number
        for row in range(height)
        for number in (row * width + width // 2, width // 2)
    ]
    answers = {
        "objects": [{"label": "a", "score": 0.9, "box": [width / 2, 0, width, height]}],
        "regions": [{"label": "a", "pixels": width * height // 2, "runs": runs}],
    }
    answer = {name: answers[name], "width": width, "height": height}
    with Image.open(
        AnswerDrawing(tmp_path).draw("pictures/x.png", content.getvalue(), answer)
    ) as drawn:
        assert drawn.size == (4096, 20)
        assert drawn.getpixel((1000, 10)) == (200, 200, 200)
        right_half = drawn.convert("RGB").crop((2040, 0, 4096, 20))
        assert len(right_half.getcolors() or []) > 1, (
            "nothing was drawn where the object is"
        )


def test_names_hide_no_objects_that_are_small_beside_the_picture(
    tmp_path: Path,
) -> None:
    content = io.BytesIO()
    Image.new("RGB", (3000, 3000), (200, 200, 200)).save(content, "PNG")
    objects = [
        {"label": "cell", "score": 0.9, "box": [x, y, x + 60, y + 60]}
        for x, y in ((500, 500), (500, 570))
    ]
    answer = {"objects": objects, "width": 3000, "height": 3000}
    with Image.open(
        AnswerDrawing(tmp_path).draw("pictures/x.png", content.getvalue(), answer)
    ) as drawn:
        inside = drawn.convert("RGB").crop((505, 505, 555, 545))
    assert inside.getcolors() == [(50 * 40, (200, 200, 200))], (
        "a name lies on the object above its own"
    )


def test_two_pictures_of_one_name_have_a_drawing_each(tmp_path: Path) -> None:
    drawing = AnswerDrawing(tmp_path)
    names = [
        drawing.draw(f"{folder}/X.jpg", picture(), BOXES).name for folder in ("a", "b")
    ]
    assert names == ["X.png", "X-2.png"]


def test_no_picture_is_replaced_by_a_drawing(tmp_path: Path) -> None:
    source = tmp_path / "x.png"
    source.write_bytes(picture())
    with pytest.raises(ConfigError, match="another folder"):
        AnswerDrawing(tmp_path).draw(str(source), picture(), BOXES)
    assert source.read_bytes() == picture()


def test_a_drawing_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(WorkspaceError, match=r"x\.png"):
        AnswerDrawing(tmp_path).draw("pictures/x.jpg", picture(), BOXES)


def test_a_long_name_is_cut(tmp_path: Path) -> None:
    drawing = AnswerDrawing(tmp_path)
    for _ in range(2):
        assert drawing.draw(f"pictures/{'y' * 251}.jpg", picture(), BOXES).exists()
