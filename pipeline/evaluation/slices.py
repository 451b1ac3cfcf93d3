"""How good answers are by the user's own metadata, and by what the scan measured: where
does the model do worse than overall?
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import (
    BootstrapSettings,
    Floats,
    Units,
    estimate_share,
    estimate_statistic,
    weighted_mean,
)
from pipeline.manifest import META, SCAN
from pipeline.records import MetricEstimate

MOST_VALUES = 20
QUARTILES = 4
ABSENT = "(none)"
LONGEST_VALUE = 100  # characters; longer values are texts, and no names of a slice
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$"  # "007" is a name

WantedSlices = Sequence[str] | Literal["auto"]
Rows = NDArray[np.bool_]  # (N,): which rows


@dataclass(frozen=True)
class SliceScore:
    """The test examples with one value of one column."""

    column: str
    value: str
    examples: int
    # Mean of what single examples are judged by; None: too few of them.
    score: MetricEstimate | None
    verdict: Literal["as-overall", "below", "too-small"]


class SliceColumn(NamedTuple):
    """A column to slice by.

    Args:
        name: what a reader is shown.
        source: the manifest's column, `meta.…` or `scan.…`.
    """

    name: str
    source: str


def slice_columns(
    table: pa.Table, wanted: WantedSlices, measured: Sequence[str] = ()
) -> list[SliceColumn]:
    """The columns to slice by, in order.

    `auto` takes, of the metadata columns and of what the scan `measured` and the task
    finds worth slicing by, numbers and whatever has between 2 and 20 values, none of
    them long. A column asked for by name that is not there is passed over:
    `absent_columns` names it.
    """
    if wanted != "auto":
        columns = [_find_column(table, name) for name in wanted]
        return [column for column in columns if column is not None]
    sources = [name for name in table.column_names if name.startswith(META)]
    sources += [SCAN + name for name in measured if SCAN + name in table.column_names]
    return [
        _named(table, source) for source in sources if _is_worth_slicing(table[source])
    ]


def absent_columns(table: pa.Table, wanted: WantedSlices) -> list[str]:
    """The columns asked for by name that are not there, each with the one it may mean."""
    if wanted == "auto":
        return []
    present = [
        name.removeprefix(META)
        for name in table.column_names
        if name.startswith((META, SCAN))
    ]
    absent = []
    for name in wanted:
        if _find_column(table, name) is None:
            close = difflib.get_close_matches(name.removeprefix(META), present, 1)
            sentence = name
            if close:
                sentence = f"{name}: did you mean {close[0]}?"
            absent.append(sentence)
    return absent


def _find_column(table: pa.Table, name: str) -> SliceColumn | None:
    """The column that a setting names, with or without its prefix; the user's own
    before a measured one.
    """
    plain = name.removeprefix(META)
    for source in (META + plain, SCAN + plain, plain):
        if source in table.column_names and source.startswith((META, SCAN)):
            return _named(table, source)
    return None


def _named(table: pa.Table, source: str) -> SliceColumn:
    """The column under its plain name; under its full one where the user's own column
    has the plain one.
    """
    if source.startswith(META):
        return SliceColumn(source.removeprefix(META), source)
    plain = source.removeprefix(SCAN)
    name = source if META + plain in table.column_names else plain
    return SliceColumn(name, source)


def _is_worth_slicing(column: pa.ChunkedArray) -> bool:
    values = pc.unique(column)
    if len(values) < 2:
        return False
    if len(values) > MOST_VALUES:
        return _numbers(column) is not None
    longest = max(len(_as_text(value)) for value in values.to_pylist())
    return longest <= LONGEST_VALUE


def _numbers(column: pa.ChunkedArray) -> Floats | None:
    """The column's numbers (N,), to be cut at their quartiles; None where it has few
    values, or other ones.

    The tables of a data folder give text, so text counts as a number where all of it
    is.
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


def slice_rows(column: pa.ChunkedArray) -> Iterator[tuple[str, Rows]]:
    """Each value of a column, or each quarter of its range, with the rows (N,) that
    have it.
    """
    numbers = _numbers(column)
    if numbers is not None:
        yield from _quarters(numbers)
        return
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    values = encoded.dictionary.to_pylist()
    texts = [_as_text(value) for value in values]
    ordered = sorted(
        range(len(values)), key=lambda code: (values[code] is None, texts[code])
    )
    for code in ordered:
        yield _shortened(texts[code]), codes == code


def _as_text(value: object) -> str:
    if value is None:
        return ABSENT
    return str(value)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_VALUE:
        return text
    return text[: LONGEST_VALUE - 1] + "…"


def _quarters(numbers: Floats) -> Iterator[tuple[str, Rows]]:
    is_known = np.isfinite(numbers)
    edges = _quartile_edges(numbers[is_known])
    names = _edge_names(edges)
    if len(edges) == 1:
        yield names[0], is_known
    for at in range(len(edges) - 1):
        low = edges[at]
        high = edges[at + 1]
        if at == 0:
            is_above = numbers >= low
        else:
            is_above = numbers > low
        yield f"{names[at]} – {names[at + 1]}", is_known & is_above & (numbers <= high)
    if not is_known.all():
        yield ABSENT, ~is_known


def _quartile_edges(numbers: Floats) -> Floats:
    """The distinct edges of the quarters. They are values that occur: between two huge
    ones there would be no finite middle.
    """
    if not len(numbers):
        return np.empty(0)
    shares = np.linspace(0, 1, QUARTILES + 1)
    edges: Floats = np.unique(np.quantile(numbers, shares, method="inverted_cdf"))
    return edges


def _edge_names(edges: Floats) -> list[str]:
    """The edges in as many digits as tell them apart, at least four."""
    names = [f"{edge:.4g}" for edge in edges]
    digits = 4
    while len(set(names)) < len(names) and digits < 17:
        digits += 1
        names = [f"{edge:.{digits}g}" for edge in edges]
    return names


def score_slices(
    table: pa.Table,
    goodness: NDArray[Any],
    units: Units,
    columns: Sequence[SliceColumn],
    *,
    smallest: int,
    settings: BootstrapSettings,
) -> list[SliceScore]:
    """Every slice of the rows of `table` (N), by column, worst first, the too small
    ones last.

    A slice is `below` where its whole interval lies under the overall mean. One slice
    at a time: of many, a few come out so by chance.

    Args:
        goodness: (N,), which rows were right, or how good each answer is.
        units: (N,), what is resampled together.
        smallest: with fewer examples a slice is not judged.
    """
    overall = float(goodness.mean())
    scores = []
    for column in columns:
        of_column = []
        for value, within in slice_rows(table[column.source]):
            size = int(within.sum())
            if size < smallest:
                of_column.append(
                    SliceScore(column.name, value, size, None, "too-small")
                )
                continue
            score = _estimate_mean(goodness[within], units[within], settings)
            verdict: Literal["below", "as-overall"] = (
                "below" if score.high < overall else "as-overall"
            )
            of_column.append(SliceScore(column.name, value, size, score, verdict))
        scores += sorted(of_column, key=_worst_first)
    return scores


def _estimate_mean(
    goodness: NDArray[Any], units: Units, settings: BootstrapSettings
) -> MetricEstimate:
    """The mean (of N) with its interval over resamples of the units."""
    if goodness.dtype == np.bool_:
        return estimate_share(goodness, units, settings)
    _, codes = np.unique(units, return_inverse=True)
    return estimate_statistic(
        lambda weights: weighted_mean(goodness, weights), codes, settings
    )


def _worst_first(score: SliceScore) -> tuple[bool, float]:
    if score.score is None:
        return True, 0.0
    return False, score.score.value
