"""Slices by metadata: which columns, which rows, and which are flagged."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.evaluation.slices import columns_of, members, slices

SETTINGS = {"smallest": 10, "count": 200, "confidence": 0.95, "seed": 0}


def table() -> pa.Table:
    rows = np.arange(120)
    return pa.table({
        "meta.camera": ["old" if n % 4 == 0 else "new" for n in rows],
        "meta.exposure": pa.array([float(n) if n else None for n in rows]),
        "meta.operator": [f"person {n}" for n in rows],
        "meta.site": ["here"] * 120,
        "meta.rare": ["few" if n < 5 else None for n in rows],
        "scan.width": rows,
    })  # fmt: skip


def test_auto_takes_numbers_and_short_lists_of_values() -> None:
    assert columns_of(table(), "auto") == ["camera", "exposure", "rare"]


def test_a_column_asked_for_is_taken_whatever_it_holds() -> None:
    assert columns_of(table(), ("operator", "meta.site")) == ["operator", "site"]


def test_a_column_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="lens") as refused:
        columns_of(table(), ("camera", "lens"))
    assert "operator" in refused.value.expected


@pytest.mark.parametrize("column", ["meta.camera", "meta.exposure", "meta.rare"])
def test_every_row_is_in_exactly_one_member(column: str) -> None:
    counts = np.sum([rows for _, rows in members(table()[column])], axis=0)
    assert (counts == 1).all()


def test_numbers_are_cut_at_their_quartiles() -> None:
    sizes = {value: int(rows.sum()) for value, rows in members(table()["meta.exposure"])}
    assert len(sizes) == 5
    assert sizes.pop("(none)") == 1
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_many_equal_numbers_do_not_make_empty_quarters() -> None:
    column = pa.chunked_array([[0.0] * 100 + [float(n) for n in range(30)]])
    assert all(rows.any() for _, rows in members(column))


def test_a_weak_slice_is_flagged_and_a_small_one_is_not_judged() -> None:
    correct = np.array([n % 4 != 0 or n % 12 == 0 for n in range(120)])  # old: a third right, new: all
    found = slices(table(), correct, np.arange(120), wanted="auto", **SETTINGS)
    by_name = {(one.column, one.value): one for one in found}
    assert by_name["camera", "old"].verdict == "below"
    assert by_name["camera", "new"].verdict == "as-overall"
    assert by_name["rare", "few"].verdict == "too-small"
    assert by_name["rare", "few"].accuracy is None
    assert [one.value for one in found if one.column == "camera"] == ["old", "new"]  # the worst first


def test_an_equally_good_slice_is_not_flagged() -> None:
    correct = np.array([n % 5 != 0 for n in range(120)])
    found = slices(table(), correct, np.arange(120), wanted=("camera",), **SETTINGS)
    assert {one.verdict for one in found} == {"as-overall"}
