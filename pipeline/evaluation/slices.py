"""Accuracy by the user's own metadata: where does the model do worse than it does overall?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.evaluation.bootstrap import Units, proportion
from pipeline.manifest import META
from pipeline.records import Estimate

MOST_VALUES = 20
QUARTILES = 4
ABSENT = "(none)"


@dataclass(frozen=True)
class Slice:
    """The test examples with one value of one metadata column."""

    column: str
    value: str
    examples: int
    accuracy: Estimate | None  # None: too few examples to judge
    verdict: Literal["as-overall", "below", "too-small"]


def columns_of(table: pa.Table, wanted: Sequence[str] | Literal["auto"]) -> list[str]:
    """The metadata columns to slice by, without their prefix, in order.

    `auto` takes numbers and whatever has between 2 and 20 values.

    Raises:
        ConfigError: a column asked for by name is not there.
    """
    there = [name.removeprefix(META) for name in table.column_names if name.startswith(META)]
    if wanted != "auto":
        if missing := [name for name in wanted if name.removeprefix(META) not in there]:
            raise ConfigError(
                "evaluate.slices", found=", ".join(missing),
                expected="metadata columns of the data: " + (", ".join(there) or "there are none"),
                mend="name a column that is there, or write auto",
            )  # fmt: skip
        return [name.removeprefix(META) for name in wanted]
    return [name for name in there if _worth(table[META + name])]


def _worth(column: pa.ChunkedArray) -> bool:
    values = len(pc.unique(column))
    return values > 1 and (values <= MOST_VALUES or _measured(column))


def _measured(column: pa.ChunkedArray) -> bool:
    """Whether the column holds numbers of many values, to be cut at its quartiles."""
    kind = column.type
    return (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and len(pc.unique(column)) > MOST_VALUES


def members(column: pa.ChunkedArray) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each value of a column, or each quarter of its range, with the rows (N,) that have it."""
    if _measured(column):
        yield from _quarters(np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64))
        return
    values = np.array([ABSENT if value is None else str(value) for value in column.to_pylist()], dtype=object)
    for value in sorted(set(values), key=lambda name: (name == ABSENT, name)):
        yield value, values == value


def _quarters(numbers: NDArray[np.float64]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    known = np.isfinite(numbers)
    edges = np.unique(np.quantile(numbers[known], np.linspace(0, 1, QUARTILES + 1)))
    for low, high in itertools.pairwise(edges):
        above = numbers >= low if low == edges[0] else numbers > low
        yield f"{low:.4g} – {high:.4g}", known & above & (numbers <= high)
    if not known.all():
        yield ABSENT, ~known


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
) -> list[Slice]:
    """Every slice of the rows of `table` (N), by column, worst first, the too small ones last.

    `correct` (N,) says which rows were right. A slice is `below` where its whole interval lies under the overall
    accuracy. One slice at a time: of many, a few come out so by chance.

    Raises:
        ConfigError: a column asked for by name is not there.
    """
    overall = float(correct.mean())
    found = []
    for name in columns_of(table, wanted):
        judged = []
        for value, within in members(table[META + name]):
            size = int(within.sum())
            if size < smallest:
                judged.append(Slice(name, value, size, None, "too-small"))
                continue
            share = proportion(correct[within], units[within], count=count, confidence=confidence, seed=seed)
            judged.append(Slice(name, value, size, share, "below" if share.high < overall else "as-overall"))
        found += sorted(judged, key=lambda s: (s.accuracy is None, s.accuracy.value if s.accuracy else 0.0))
    return found
