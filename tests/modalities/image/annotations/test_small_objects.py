"""Objects that the network's input shows too small are told, with a size that would
do.
"""

from __future__ import annotations

from pipeline.modalities.image.annotations.boxes import (
    AnnotatedObject,
    BoxRules,
    Picture,
)
from pipeline.modalities.image.annotations.small_objects import find_small_objects

RULES = BoxRules(min_visible=0.5, min_side=1.0, input_side=320)
PICTURE = Picture(width=1280, height=640)


def square(label: str, side: float, *, ignored: bool = False) -> AnnotatedObject:
    return AnnotatedObject("a.xml#1", label, (0, 0, side, side), ignored)


def test_classes_of_small_objects_are_named_with_the_size_that_shows_them() -> None:
    """16 pixels of 1280 are 4 of the input's 320, so that 640 shows 8 of them."""
    objects = [square("seed", 16)] * 9 + [square("leaf", 200)] * 9
    (finding,) = find_small_objects([(PICTURE, objects)], RULES)
    assert finding.severity == "warning"
    assert finding.items == ("seed",)
    assert "seed: 9 of 9" in finding.found
    assert "task.input.size: 640" in finding.hint
    assert "4.0 times" in finding.hint


def test_no_size_is_suggested_that_no_machine_would_bear() -> None:
    (finding,) = find_small_objects([(PICTURE, [square("dust", 2)] * 9)], RULES)
    assert "task.input.size: 1024" in finding.hint


def test_few_small_ones_or_ones_that_do_not_count_are_no_matter() -> None:
    few = [square("leaf", 200)] * 91 + [square("leaf", 16)] * 9
    unseen = [square("dust", 16, ignored=True)] * 50
    assert find_small_objects([(PICTURE, few + unseen)], RULES) == []
    assert find_small_objects([(PICTURE, [square("seed", 16)] * 4)], RULES) == []


def test_a_padded_picture_shows_its_objects_smaller() -> None:
    """Squashed, 20 pixels of a height of 640 are 10 of 320; padded, 5."""
    wide = AnnotatedObject("a.xml#1", "bar", (0, 0, 400, 20), False)
    rules = RULES._replace(squashed=True)
    assert find_small_objects([(PICTURE, [wide] * 9)], rules) == []
    padded = RULES._replace(squashed=False)
    assert len(find_small_objects([(PICTURE, [wide] * 9)], padded)) == 1
