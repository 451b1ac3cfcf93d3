"""Class names that look like slips: ones that differ from another in what is easily
mistyped.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping

from pipeline.records import Finding

HINTED = 20  # names that are compared with every other one

_WHOLE_NUMBER = re.compile(r"^(-?\d+)\.0+$")


def hints(names: Collection[str], known: Collection[str]) -> list[str]:
    """The names, sorted, each with the known class it may stand for."""
    ordered = sorted(names)
    if len(ordered) > HINTED:
        return ordered
    by_key = {_key(label): label for label in known}
    sentences = []
    for name in ordered:
        close = difflib.get_close_matches(name, known, 1)
        meant = by_key.get(_key(name))
        if not meant and close:
            meant = close[0]
        sentence = name
        if meant:
            sentence = f"{name}: did you mean {meant}?"
        sentences.append(sentence)
    return sentences


def similar_labels(examples: Mapping[str, int]) -> Finding | None:
    """A warning of classes that differ by case, blanks, Unicode form or a trailing .0
    only, given the number of examples of each.

    Names that differ in how their accents are written alone are passed over: those stop
    the run elsewhere.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for label in sorted(examples):
        alike[_key(label)].append(label)
    items = []
    for labels in alike.values():
        if len({unicodedata.normalize("NFC", label) for label in labels}) > 1:
            items.append(
                " and ".join(f"'{label}' ({examples[label]})" for label in labels)
            )
    if not items:
        return None
    return Finding(
        code="similar-classes",
        severity="warning",
        subject="class names",
        found=f"{len(items):,} that differ by case, blanks, Unicode form or a trailing .0 only",
        expected="one way of writing a name",
        hint="if they are one class, rename the wrong one; if not, list both in data.labels",
        items=tuple(items),
    )


def _key(label: str) -> str:
    """What is left of a name without case, blanks, invisible characters and typographic
    variants; of a whole number without the .0 that a column of floats gives it.
    """
    folded = unicodedata.normalize("NFKC", label).casefold()
    bare = "".join(
        letter
        for letter in folded
        if not letter.isspace() and unicodedata.category(letter) != "Cf"
    )
    return _WHOLE_NUMBER.sub(r"\1", bare)
