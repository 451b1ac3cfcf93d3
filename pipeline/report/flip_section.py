"""What the page shows of the examples that a challenger answers better, and worse, than
the champion.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.records import PromoteRecord
from pipeline.report import files, formatting

FLIPS = "flips.json"


@dataclass(frozen=True)
class Flip:
    """One example.

    Args:
        target: what is right; empty where a picture shows it.
        before: what the champion answered, in words.
        after: what the challenger answered.
        pictures: data URIs: of the example, or of the champion's answer and the
            challenger's.
        lines: of a text.
    """

    path: str
    target: str
    before: str
    after: str
    pictures: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class FlipWay:
    """The examples of one direction.

    Args:
        title: of their list.
        count: of all of them.
        shown: the largest.
    """

    title: str
    count: int
    shown: tuple[Flip, ...]


def flips_section(promoted: PromoteRecord, scratch: Path) -> tuple[FlipWay, ...]:
    """Both directions; empty where nothing was compared, or what was shown is lost.

    Args:
        scratch: the workspace's `.thaw`.
    """
    if not promoted.flips or promoted.better is None or promoted.worse is None:
        return ()
    folder = scratch / promoted.flips
    try:
        ways = json.loads((folder / FLIPS).read_text(encoding="utf-8"))
        better = tuple(_read_flip(row, folder) for row in ways["better"])
        worse = tuple(_read_flip(row, folder) for row in ways["worse"])
    except (OSError, ValueError, KeyError, TypeError):  # `.thaw` may be cleared
        return ()
    better_title, worse_title = name_ways(promoted)
    return (
        FlipWay(better_title, promoted.better, better),
        FlipWay(worse_title, promoted.worse, worse),
    )


def name_ways(promoted: PromoteRecord) -> tuple[str, str]:
    """How the two directions are called: answers are right or wrong, or more or less
    good.
    """
    if promoted.negative_flips is not None:
        return "Newly right", "Newly wrong"
    return "Better than the champion's answer", "Worse than the champion's answer"


def _read_flip(row: Mapping[str, Mapping[str, Any]], folder: Path) -> Flip:
    ours = row["challenger"]
    theirs = row["champion"]
    is_class = "confidence" in ours
    sides = (ours,) if is_class else (theirs, ours)
    pictures = tuple(
        files.data_uri(folder / side["picture"]) for side in sides if side["picture"]
    )
    return Flip(
        path=ours["path"],
        target=ours["target"] if is_class else "",
        before=describe_answer(theirs),
        after=describe_answer(ours),
        pictures=pictures,
        lines=tuple(files.LINE_BREAK.split(ours["text"])) if "text" in ours else (),
    )


def describe_answer(row: Mapping[str, Any]) -> str:
    """An answer in a few words, as its judge described it."""
    if "confidence" in row:
        confidence = formatting.format_percent(row["confidence"], 0)
        return f"{row['predicted']} ({confidence})"
    if "objects" in row:
        objects = formatting.pluralize(row["objects"], "object")
        return f"{row['right']} of {objects} found, {row['wrong']} wrong"
    iou = formatting.format_percent(row["mean_iou"], 0)
    return f"IoU {iou}"
