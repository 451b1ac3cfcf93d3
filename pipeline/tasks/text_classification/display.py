"""A text as the report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.tasks.base import Exhibit

SHOWN = 1200  # characters of a text that the report shows
BETWEEN = "\n\n"  # the texts of a pair


class TextDisplay:
    """The Display of texts: the text itself, of a pair both."""

    measured_slices: tuple[str, ...] = ("words",)

    def exhibit(
        self, example: Mapping[str, Any], data: Path, folder: Path, name: str
    ) -> Exhibit:
        from pipeline.modalities.text.content import from_content

        texts = from_content(example["content"])
        shown = shorten(texts.text)
        if texts.pair is not None:
            shown += BETWEEN + shorten(texts.pair)
        return Exhibit("text", shown)


def shorten(text: str) -> str:
    """The text's beginning, where it is long."""
    if len(text) <= SHOWN:
        return text
    return text[:SHOWN].rstrip() + " …"
