"""Masks of single objects as COCO writes them, by run lengths, and the boxes around
them.

Runs of 0 and 1 take turns, column by column from the top left. They stand as a list of
numbers or, compressed, as a text: five bits a character, a run as its difference to the
last but one from the fourth on (`rleToString` of pycocotools).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.modalities.image.annotations.boxes import Box

_FIRST_CHARACTER = 48
_BITS, _PAYLOAD, _SIGN, _CONTINUED = 5, 0x1F, 0x10, 0x20
_LONGEST = 8  # characters of a number: more than any picture's pixels take


def run_length_box(segmentation: Mapping[str, Any]) -> Box | None:
    """The smallest box around an object's mask, without an area where the mask is
    empty; None where it is no such mask.
    """
    size = segmentation.get("size")
    counts = segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(map(_is_count, size)):
        return None
    runs = counts
    if isinstance(counts, str):
        runs = _decompress(counts)
    if not isinstance(runs, list) or not all(map(_is_count, runs)):
        return None
    height, width = size
    if not height or sum(runs) != height * width:
        return None
    return _box_of_runs(runs, height)


def _is_count(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return value >= 0


def _decompress(text: str) -> list[int] | None:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - _FIRST_CHARACTER
        if not 0 <= code < 2 * _CONTINUED or shift >= _BITS * _LONGEST:
            return None
        value |= (code & _PAYLOAD) << shift
        shift += _BITS
        if code & _CONTINUED:
            continue
        if code & _SIGN:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    return runs if shift == 0 else None


def _box_of_runs(runs: Sequence[int], height: int) -> Box:
    columns: list[int] = []
    rows: list[int] = []
    position = 0
    for number, run in enumerate(runs):
        if number % 2 and run:
            first_column, first_row = divmod(position, height)
            last_column, last_row = divmod(position + run - 1, height)
            columns += [first_column, last_column]
            if first_column == last_column:
                rows += [first_row, last_row]
            else:
                rows += [0, height - 1]
        position += run
    if not columns:
        return 0.0, 0.0, 0.0, 0.0
    left = float(min(columns))
    top = float(min(rows))
    return left, top, max(columns) + 1.0, max(rows) + 1.0
