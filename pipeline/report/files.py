"""Reads the files that the steps left beside their records."""

from __future__ import annotations

import base64
import csv
import json
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.errors import VersioningError
from pipeline.records import MetricEstimate


@dataclass(frozen=True)
class WorstError:
    """One of the worst errors.

    Args:
        picture: as a data URI, where the example is a picture.
        text: where it is text.
    """

    path: str
    target: str
    predicted: str
    confidence: float
    target_probability: float
    picture: str | None
    text: str | None = None


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file.

    Raises:
        VersioningError: it is not there or not CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise VersioningError(
            str(path), found=str(fault), expected="a file of a finished step", hint="thaw run"
        ) from fault


def value(row: Mapping[str, str], name: str) -> float | None:
    """A number, or None where the field is empty."""
    return float(row[name]) if row[name] else None


def estimate(row: Mapping[str, str], name: str) -> MetricEstimate | None:
    """A value with its interval from the columns name, name_low and name_high."""
    if not row[name]:
        return None
    return MetricEstimate(value=float(row[name]), low=float(row[f"{name}_low"]), high=float(row[f"{name}_high"]))


def quarantine(path: Path) -> list[dict[str, str]]:
    """The rows of quarantine.parquet, by reason."""
    try:
        rows: list[dict[str, str]] = pq.read_table(path).to_pylist()
    except (OSError, ValueError) as fault:
        raise VersioningError(
            str(path), found=str(fault), expected="a file of a finished step", hint="thaw run"
        ) from fault
    return sorted(rows, key=lambda row: (row["code"], row["path"]))


def _worst_error(row: Mapping[str, Any], folder: Path) -> WorstError:
    picture = _inside(folder / row["picture"]) if row["picture"] else None
    return WorstError(
        path=row["path"],
        target=row["target"],
        predicted=row["predicted"],
        confidence=row["confidence"],
        target_probability=row["target_probability"],
        picture=picture,
        text=row.get("text"),
    )


def worst(folder: Path) -> list[WorstError]:
    """The worst errors with their pictures inside."""
    path = folder / "worst.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [_worst_error(row, folder) for row in rows]
    except (OSError, ValueError, KeyError) as fault:
        raise VersioningError(
            str(path), found=str(fault), expected="a file of a finished step", hint="thaw run"
        ) from fault


def _inside(picture: Path) -> str:
    kind = mimetypes.guess_type(picture.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
