"""Reads the files that the steps left beside their records."""

from __future__ import annotations

import base64
import csv
import json
import mimetypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipeline.errors import VersioningError
from pipeline.records import MetricEstimate

LINE_BREAK = re.compile(r"\r\n|\r|\n")


class TextPiece(NamedTuple):
    """A run of characters of a text.

    Args:
        weight: from -1 to 1: how much it spoke for the answer; 0 for what lies between
            the words that did.
    """

    text: str
    weight: float = 0.0


@dataclass(frozen=True)
class WorstError:
    """One of the worst errors, with what is to be seen of the example: a picture, lines
    of text, or neither.

    Args:
        picture: a data URI.
        lines: of a text, each as pieces from left to right.
    """

    path: str
    target: str
    predicted: str
    confidence: float
    target_probability: float
    picture: str | None = None
    lines: tuple[tuple[TextPiece, ...], ...] = ()

    @property
    def is_explained(self) -> bool:
        """Whether any word is marked."""
        pieces = [piece for line in self.lines for piece in line]
        return any(piece.weight for piece in pieces)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file.

    Raises:
        VersioningError: it is not there or not CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise _unreadable(path, fault) from fault


def read_number(row: Mapping[str, str], name: str) -> float | None:
    """A number, or None where the field is empty."""
    if row[name]:
        return float(row[name])
    return None


def read_estimate(row: Mapping[str, str], name: str) -> MetricEstimate | None:
    """A value with its interval from the columns name, name_low and name_high; None
    where they are empty.
    """
    if not row[name]:
        return None
    return MetricEstimate(
        value=float(row[name]),
        low=float(row[f"{name}_low"]),
        high=float(row[f"{name}_high"]),
    )


def read_quarantine(path: Path) -> list[dict[str, str]]:
    """The rows of quarantine.parquet, by reason.

    Raises:
        VersioningError: it is not there or not Parquet.
    """
    try:
        rows: list[dict[str, str]] = pq.read_table(path).to_pylist()
    except (OSError, ValueError) as fault:
        raise _unreadable(path, fault) from fault
    return sorted(rows, key=lambda row: (row["code"], row["path"]))


def read_worst_errors(folder: Path) -> list[WorstError]:
    """The worst errors, with their pictures inside.

    Raises:
        VersioningError: they are not there or incomplete.
    """
    path = folder / "worst.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [_read_worst_error(row, folder) for row in rows]
    except (OSError, ValueError, KeyError) as fault:
        raise _unreadable(path, fault) from fault


def _read_worst_error(row: Mapping[str, Any], folder: Path) -> WorstError:
    picture = row["picture"]
    return WorstError(
        path=row["path"],
        target=row["target"],
        predicted=row["predicted"],
        confidence=row["confidence"],
        target_probability=row["target_probability"],
        picture=data_uri(folder / picture) if picture else None,
        lines=_split_lines(row.get("text", ""), row.get("highlights", [])),
    )


def _split_lines(
    text: str, highlights: Sequence[Sequence[float]]
) -> tuple[tuple[TextPiece, ...], ...]:
    """A text's lines in pieces, cut at the words that are marked.

    Args:
        highlights: first character, character behind the last, and weight of each, in
            any order.
    """
    pieces = []
    done = 0
    for start, end, weight in sorted(highlights, key=itemgetter(0)):
        first = max(int(start), done)
        last = int(end)
        if last <= first:
            continue
        pieces.append(TextPiece(text[done:first]))
        pieces.append(TextPiece(text[first:last], weight))
        done = last
    pieces.append(TextPiece(text[done:]))
    lines: list[list[TextPiece]] = [[]]
    for piece in pieces:
        first_line, *others = LINE_BREAK.split(piece.text)
        lines[-1].append(TextPiece(first_line, piece.weight))
        for other in others:
            lines.append([TextPiece(other, piece.weight)])
    filled = []
    for line in lines:
        filled.append(tuple(piece for piece in line if piece.text))
    return tuple(filled)


def data_uri(picture: Path) -> str:
    """A picture as a page holds it inside."""
    kind, _ = mimetypes.guess_type(picture.name)
    content = base64.b64encode(picture.read_bytes()).decode()
    return f"data:{kind or 'application/octet-stream'};base64,{content}"


def _unreadable(path: Path, fault: Exception) -> VersioningError:
    return VersioningError(
        str(path),
        found=str(fault),
        expected="a file of a finished step",
        hint="thaw run",
    )
