"""Accuracy by the user's own metadata: where does the model do worse than it does overall?"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import Floats, Units, proportion
from pipeline.manifest import META
from pipeline.records import MetricEstimate

MOST_VALUES = 20
QUARTILES = 4
ABSENT = "(none)"
LONGEST_VALUE = 100  # characters; longer values are texts, and no names of a slice
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$"  # "007" is a name


@dataclass(frozen=True)
class SliceScore:
    """The test examples with one value of one metadata column."""

    column: str
    value: str
    examples: int
    accuracy: MetricEstimate | None  # None: too few examples to judge
    verdict: Literal["as-overall", "below", "too-small"]


def columns_of(table: pa.Table, wanted: Sequence[str] | Literal["auto"]) -> list[str]:
    """The metadata columns to slice by, without their prefix, in order.

    `auto` takes numbers and whatever has between 2 and 20 values, none of them long. A column asked for by name that
    is not there is passed over: `absent_columns` names it.
    """
    present = _metadata_columns(table)
    if wanted == "auto":
        return [name for name in present if _is_worth_slicing(table[META + name])]
    asked = [name.removeprefix(META) for name in wanted]
    return [name for name in asked if name in present]


def absent_columns(table: pa.Table, wanted: Sequence[str] | Literal["auto"]) -> list[str]:
    """The columns asked for by name that are not there, each with the one it may mean."""
    if wanted == "auto":
        return []
    present = _metadata_columns(table)
    absent = []
    for name in wanted:
        plain = name.removeprefix(META)
        if plain not in present:
            close = difflib.get_close_matches(plain, present, 1)
            absent.append(f"{name}: did you mean {close[0]}?" if close else name)
    return absent


def _metadata_columns(table: pa.Table) -> list[str]:
    return [name.removeprefix(META) for name in table.column_names if name.startswith(META)]


def _is_worth_slicing(column: pa.ChunkedArray) -> bool:
    values = pc.unique(column)
    if len(values) < 2:
        return False
    if len(values) > MOST_VALUES:
        return _numbers(column) is not None
    longest = max(len(_as_text(value)) for value in values.to_pylist())
    return longest <= LONGEST_VALUE


def _numbers(column: pa.ChunkedArray) -> Floats | None:
    """The column's numbers (N,), to be cut at their quartiles; None where it has few values, or other ones.

    The tables of a data folder give text, so text counts as a number where all of it is.
    """
    if len(pc.unique(column)) <= MOST_VALUES:
        return None
    kind = column.type
    if pa.types.is_string(kind):
        is_number = pc.match_substring_regex(column, NUMBER)
        if not pc.all(is_number, min_count=0).as_py():
            return None
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    # Unsafe: an integer past 2^53 loses its last digits, which quartiles do not need.
    numbers = column.cast(pa.float64(), safe=False)
    return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)


def members(column: pa.ChunkedArray) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each value of a column, or each quarter of its range, with the rows (N,) that have it."""
    numbers = _numbers(column)
    if numbers is not None:
        yield from _quarters(numbers)
        return
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    values = encoded.dictionary.to_pylist()
    for code in sorted(range(len(values)), key=lambda code: (values[code] is None, _as_text(values[code]))):
        yield _shortened(_as_text(values[code])), codes == code


def _as_text(value: object) -> str:
    return ABSENT if value is None else str(value)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _quarters(numbers: Floats) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    known = np.isfinite(numbers)
    # Edges are values that occur: between two huge ones there would be no finite middle.
    shares = np.linspace(0, 1, QUARTILES + 1)
    edges = np.unique(np.quantile(numbers[known], shares, method="inverted_cdf")) if known.any() else np.empty(0)
    names = _edge_names(edges)
    if len(edges) == 1:
        yield names[0], known
    for at in range(len(edges) - 1):
        low, high = edges[at], edges[at + 1]
        above = numbers >= low if at == 0 else numbers > low
        yield f"{names[at]} – {names[at + 1]}", known & above & (numbers <= high)
    if not known.all():
        yield ABSENT, ~known


def _edge_names(edges: Floats) -> list[str]:
    """The edges in as many digits as tell them apart, at least four."""
    names = [f"{edge:.4g}" for edge in edges]
    digits = 4
    while len(set(names)) < len(names) and digits < 17:
        digits += 1
        names = [f"{edge:.{digits}g}" for edge in edges]
    return names


def slices(
    table: pa.Table,
    correct: NDArray[np.bool_],
    units: Units,
    *,
    wanted: Sequence[str] | Literal["auto"],
    smallest: int,
    count: int,
    confidence: float,
    seed: int,
) -> list[SliceScore]:
    """Every slice of the rows of `table` (N), by column, worst first, the too small ones last.

    `correct` (N,) says which rows were right. A slice is `below` where its whole interval lies under the overall
    accuracy. One slice at a time: of many, a few come out so by chance.
    """
    overall = float(correct.mean())
    found = []
    for name in columns_of(table, wanted):
        judged = []
        for value, within in members(table[META + name]):
            size = int(within.sum())
            if size < smallest:
                judged.append(SliceScore(name, value, size, None, "too-small"))
                continue
            share = proportion(correct[within], units[within], count=count, confidence=confidence, seed=seed)
            judged.append(SliceScore(name, value, size, share, "below" if share.high < overall else "as-overall"))
        found += sorted(judged, key=lambda s: (s.accuracy is None, s.accuracy.value if s.accuracy else 0.0))
    return found
