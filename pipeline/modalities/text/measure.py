"""Intake of texts: what cannot be used is named, everything else is measured."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from pipeline.context import Console
from pipeline.examples import (
    ColumnExpectation,
    ExampleFault,
    ListedExample,
    MeasuredExample,
)
from pipeline.modalities.text.content import Texts, from_content
from pipeline.modalities.text.settings import TextIntakeConfig
from pipeline.modalities.text.simhash import hash_texts
from pipeline.records import Finding

CHUNK = 20_000  # examples measured at once
LONGEST_TAG = 200  # characters

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MARKUP = re.compile(
    rf"</?[A-Za-z][A-Za-z0-9-]*(?:\s[^<>]{{0,{LONGEST_TAG}}})?/?>|&(?:[A-Za-z]{{2,8}}|#\d{{1,7}}|#[xX][0-9A-Fa-f]{{1,6}});"
)


def measure_texts(
    examples: Sequence[ListedExample], intake: TextIntakeConfig, console: Console
) -> dict[str, MeasuredExample | ExampleFault]:
    """Measures examples by their content.

    The columns are: characters and words (of both texts of a pair together), markup (1
    where there are HTML tags or entities, else 0) and phash (see `simhash`).

    Returns:
        What was measured, or the fault, by the example's path.
    """
    results: dict[str, MeasuredExample | ExampleFault] = {}
    total = len(examples)
    for start in range(0, total, CHUNK):
        stop = min(start + CHUNK, total)
        _measure_chunk(examples[start:stop], intake, results)
        console.progress("scan", stop, total)
    return results


def _measure_chunk(
    examples: Sequence[ListedExample],
    intake: TextIntakeConfig,
    results: dict[str, MeasuredExample | ExampleFault],
) -> None:
    usable: list[tuple[ListedExample, str, Texts]] = []
    for example in examples:
        assert example.content is not None
        identity = hashlib.md5(
            example.content.encode(), usedforsecurity=False
        ).hexdigest()
        texts = from_content(example.content)
        fault = find_fault(example.path, identity, texts, intake)
        if fault is not None:
            results[example.path] = fault
        else:
            usable.append((example, identity, texts))
    hashes = hash_texts([_joined(texts) for _, _, texts in usable])
    for (example, identity, texts), phash in zip(usable, hashes, strict=True):
        results[example.path] = MeasuredExample(identity, _measure(texts, phash))


def _joined(texts: Texts) -> str:
    if texts.pair is None:
        return texts.text
    return f"{texts.text}\n{texts.pair}"


def _measure(texts: Texts, phash: str | None) -> dict[str, Any]:
    joined = _joined(texts)
    values = {
        "characters": len(joined),
        "words": len(joined.split()),
        "markup": int(has_markup(joined)),
    }
    return {**values, "phash": phash}


def has_markup(text: str) -> bool:
    """Whether a text holds HTML tags or entities."""
    if "<" not in text and "&" not in text:
        return False
    return _MARKUP.search(text) is not None


def find_fault(
    path: str, identity: str, texts: Texts, intake: TextIntakeConfig
) -> ExampleFault | None:
    """Why an example cannot be used; None where it can."""
    if texts.pair is None:
        parts = [texts.text]
    else:
        parts = [texts.text, texts.pair]
    for part in parts:
        problem = _problem(part, intake)
        if problem is not None:
            code, found, expected, hint = problem
            return ExampleFault(path, code, found, expected, hint, identity)
    return None


def _problem(text: str, intake: TextIntakeConfig) -> tuple[str, str, str, str] | None:
    """Code, found, expected and hint of what is wrong with a text."""
    if len(text) > intake.max_characters:
        return (
            "too-long",
            f"{len(text)} characters",
            f"at most {intake.max_characters} (task.intake.max_characters)",
            "shorten it, or raise task.intake.max_characters",
        )
    filled = len(text.strip())
    if not filled:
        found = "only blanks" if text else "no text"
        return "empty", found, "a text", "fill it in, or remove it"
    if filled < intake.min_characters:
        return (
            "too-short",
            f"{filled} characters",
            f"at least {intake.min_characters} (task.intake.min_characters)",
            "remove it, or lower task.intake.min_characters",
        )
    if intake.control_characters == "reject":
        return _control_character(text)
    return None


def _control_character(text: str) -> tuple[str, str, str, str] | None:
    control = _CONTROL.search(text)
    if control is None:
        return None
    code = f"U+{ord(control[0]):04X}"
    place = control.start() + 1
    return (
        "control-characters",
        f"the control character {code}, {place} characters in",
        "printable characters, tabs and line breaks",
        "remove it, or set task.intake.control_characters: keep",
    )


def find_markup(
    examples: Sequence[ListedExample], intake: TextIntakeConfig
) -> Finding | None:
    """A warning of HTML in the texts, which a network would read as words."""
    marked = []
    for example in examples:
        content = example.content
        if content is not None and has_markup(content):
            marked.append(example.path)
    if len(marked) <= intake.max_markup * len(examples):
        return None
    return Finding(
        code="markup",
        severity="warning",
        subject="HTML in the texts",
        found=f"tags or entities in {len(marked):,} of {len(examples):,} texts ({len(marked) / len(examples):.1%})",
        expected=f"at most {intake.max_markup:.1%} (task.intake.max_markup)",
        hint="take the markup out before, or raise task.intake.max_markup if it belongs",
        items=tuple(marked),
    )


def expectations(intake: TextIntakeConfig) -> tuple[ColumnExpectation, ...]:
    """What the measured columns of every accepted example satisfy."""
    texts = 2 if intake.pair else 1
    most = texts * intake.max_characters + 1
    return (
        ColumnExpectation("characters", low=texts * intake.min_characters, high=most),
    )
