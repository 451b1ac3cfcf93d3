"""Slices by metadata: which columns, which rows, and which are flagged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.evaluation.bootstrap import BootstrapSettings
from pipeline.evaluation.slices import (
    SliceScore,
    absent_columns,
    score_slices,
    slice_columns,
    slice_rows,
)

SETTINGS = BootstrapSettings(resamples=200, confidence=0.95, seed=0)


def names(rows: pa.Table, wanted: Any) -> list[str]:
    return [column.name for column in slice_columns(rows, wanted)]


def score(rows: pa.Table, correct: np.ndarray, wanted: Any) -> list[SliceScore]:
    columns = slice_columns(rows, wanted)
    return score_slices(
        rows, correct, np.arange(rows.num_rows), columns, smallest=10, settings=SETTINGS
    )


def table() -> pa.Table:
    rows = np.arange(120)
    return pa.table(
        {
            "meta.camera": ["old" if n % 4 == 0 else "new" for n in rows],
            "meta.exposure": pa.array([float(n) if n else None for n in rows]),
            "meta.operator": [f"person {n}" for n in rows],
            "meta.site": ["here"] * 120,
            "meta.rare": ["few" if n < 5 else None for n in rows],
            "scan.width": rows,
        }
    )


def test_auto_takes_numbers_and_short_lists_of_values() -> None:
    assert names(table(), "auto") == ["camera", "exposure", "rare"]


def test_a_column_asked_for_is_taken_whatever_it_holds() -> None:
    assert names(table(), ("operator", "meta.site")) == ["operator", "site"]


def test_a_column_that_is_not_there_is_named_and_stops_nothing() -> None:
    assert names(table(), ("camera", "lens")) == ["camera"]
    assert absent_columns(table(), ("camera", "lens", "meta.opperator")) == [
        "lens",
        "meta.opperator: did you mean operator?",
    ]


def test_what_the_scan_measured_is_taken_where_the_task_or_the_settings_say_so() -> (
    None
):
    assert [column.name for column in slice_columns(table(), "auto", ("width",))][
        -1
    ] == "width"
    assert names(table(), ("width",)) == names(table(), ("scan.width",)) == ["width"]
    own = table().append_column("meta.width", pa.array(["wide"] * 120))
    assert slice_columns(own, ("width",))[0].source == "meta.width"
    assert names(own, ("scan.width",)) == ["scan.width"]


@pytest.mark.parametrize("column", ["meta.camera", "meta.exposure", "meta.rare"])
def test_every_row_is_in_exactly_one_member(column: str) -> None:
    counts = np.sum([rows for _, rows in slice_rows(table()[column])], axis=0)
    assert (counts == 1).all()


def test_numbers_are_cut_at_their_quartiles() -> None:
    sizes = {
        value: int(rows.sum()) for value, rows in slice_rows(table()["meta.exposure"])
    }
    assert len(sizes) == 5
    assert sizes.pop("(none)") == 1
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_many_equal_numbers_do_not_make_empty_quarters() -> None:
    column = pa.chunked_array([[0.0] * 100 + [float(n) for n in range(30)]])
    assert all(rows.any() for _, rows in slice_rows(column))


def test_a_weak_slice_is_flagged_and_a_small_one_is_not_judged() -> None:
    # old: a third right, new: all.
    correct = np.array([n % 4 != 0 or n % 12 == 0 for n in range(120)])
    found = score(table(), correct, "auto")
    by_name = {(one.column, one.value): one for one in found}
    assert by_name["camera", "old"].verdict == "below"
    assert by_name["camera", "new"].verdict == "as-overall"
    assert by_name["rare", "few"].verdict == "too-small"
    assert by_name["rare", "few"].score is None
    # The worst first.
    assert [one.value for one in found if one.column == "camera"] == ["old", "new"]


def test_an_equally_good_slice_is_not_flagged() -> None:
    correct = np.array([n % 5 != 0 for n in range(120)])
    found = score(table(), correct, ("camera",))
    assert {one.verdict for one in found} == {"as-overall"}


BIG = 2**53
ODD_COLUMNS = {
    "integers past 2^53": [BIG + n for n in range(120)],
    "integers past 2^53, all one float": [2**62 + n % 40 for n in range(120)],
    "unsigned past 2^63": pa.array([2**64 - 1 - n for n in range(120)], pa.uint64()),
    "huge floats": [(-1) ** n * 1.7e308 / (n + 1) for n in range(120)],
    "not a number": [float("nan") if n % 2 else float(n) for n in range(120)],
    "infinite": [float("inf") if n % 2 else float(n) for n in range(120)],
    "nothing else": [float("nan") if n % 2 else float("inf") for n in range(120)],
    "booleans with nulls": [None if n % 3 else n % 2 == 0 for n in range(120)],
    "all null": pa.nulls(120),
    "digits of any length": ["9" * (n + 1) for n in range(120)],
    "numbers past any float": [f"1e{n * 10}" for n in range(120)],
    "mixed text": ["1", "2024-02-29", "true", "", '{"a": [1]}'] * 24,
    "long texts": [f"{n % 2}" * 200_000 for n in range(120)],
    "many long texts": [f"{n}" * 2_000 for n in range(120)],
    "names with line ends": ["a\nb" if n % 2 else "a,b" for n in range(120)],
}


@pytest.mark.parametrize("values", ODD_COLUMNS.values(), ids=ODD_COLUMNS.keys())
@pytest.mark.parametrize("wanted", ["auto", ("odd",)])
def test_odd_metadata_stop_nothing(values: Any, wanted: Any) -> None:
    rows = pa.table({"meta.odd": values})
    found = score(rows, np.arange(120) % 2 == 0, wanted)
    if wanted != "auto":
        assert sum(one.examples for one in found) == 120
    assert all(len(one.value) <= 100 for one in found)


def test_numbers_written_as_text_are_cut_at_their_quartiles() -> None:
    rows = pa.table(
        {
            "meta.exposure": [str(n) for n in range(120)],
            "meta.part": [f"{n:04d}" for n in range(120)],
        }
    )
    assert names(rows, "auto") == ["exposure"]
    assert [value for value, _ in slice_rows(rows["meta.exposure"])] == [
        "0 – 29",
        "29 – 59",
        "59 – 89",
        "89 – 119",
    ]


def test_quarters_of_near_numbers_have_different_names() -> None:
    rows = pa.table({"meta.serial": [10**12 + n for n in range(120)]})
    quarters = [value for value, _ in slice_rows(rows["meta.serial"])]
    assert len(set(quarters)) == 4
