"""What an example on text is made of, as one string: its content, whose digest is its
id.
"""

from __future__ import annotations

import json
from typing import NamedTuple

_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class Texts(NamedTuple):
    """The texts of an example: one, or a pair."""

    text: str
    pair: str | None = None


def to_content(texts: Texts) -> str:
    """The texts as canonical JSON, such as `{"text":"so it goes"}`: the same texts
    always give the same string.
    """
    if texts.pair is None:
        return _ENCODER.encode({"text": texts.text})
    return _ENCODER.encode({"text": texts.text, "pair": texts.pair})


def from_content(content: str) -> Texts:
    """The texts of an example by its content."""
    values = json.loads(content)
    return Texts(values["text"], values.get("pair"))
