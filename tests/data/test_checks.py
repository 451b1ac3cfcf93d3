"""The suites judge a manifest, and their findings name every item."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import DataConfig
from pipeline.data.checks import ExpectationSuite, judge
from pipeline.data.expectations import content_suites, drift_suite
from pipeline.errors import DataError
from pipeline.examples import ColumnExpectation
from pipeline.manifest import COLUMNS
from pipeline.records import Finding

EXPECTED = (
    ColumnExpectation("format", values=("PNG", "JPEG")),
    ColumnExpectation("width", low=16, high=1000),
)


def rows(labels: dict[str, int], **columns: list[Any]) -> pa.Table:
    """A manifest with so many examples a label; further columns by name, `__` standing
    for a dot.
    """
    targets = [label for label, count in labels.items() for _ in range(count)]
    names = [f"{label}/{at:03d}.png" for at, label in enumerate(targets)]
    total = len(targets)
    values: dict[str, list[Any]] = {
        "id": [hashlib.md5(name.encode()).hexdigest() for name in names],
        "path": names,
        "aliases": [[]] * total,
        "target": targets,
        "group": [None] * total,
        "given_split": [None] * total,
        "split": [None] * total,
    }
    table = pa.table(
        {
            field.name: pa.array(values.get(field.name, [None] * total), field.type)
            for field in COLUMNS
        }
    )
    measured = {"scan__format": ["PNG"] * total, "scan__width": [64] * total, **columns}
    for name, given in measured.items():
        table = table.append_column(name.replace("__", "."), pa.array(given))
    return table


def replaced(table: pa.Table, column: str, at: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[at] = value
    return table.set_column(table.column_names.index(column), column, pa.array(values))


def suites(
    table: pa.Table, bad: Sequence[str] = (), **settings: object
) -> list[ExpectationSuite]:
    data = DataConfig.model_validate({"min_per_class": 3, **settings})
    labels = data.labels or sorted(set(table["target"].to_pylist()))
    return content_suites(table, labels, EXPECTED, bad, table.num_rows + len(bad), data)


def found(given: list[ExpectationSuite], run_dir: Path) -> dict[str, Finding]:
    return {finding.code: finding for finding in judge(given, run_dir)}


def test_good_data_pass_and_data_docs_are_written(tmp_path: Path) -> None:
    assert judge(suites(rows({"cat": 5, "dog": 5})), tmp_path) == []
    index = (tmp_path / "data-docs" / "index.html").read_text()
    assert "examples" in index
    pages = [
        page.name for page in (tmp_path / "data-docs" / "validations").rglob("*.html")
    ]
    assert sorted(pages) == [
        "dataset-classes.html",
        "dataset-dataset.html",
        "dataset-examples.html",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "$HOME",
        "$unset",
        pytest.param("${HOME}", marks=pytest.mark.slow),
        pytest.param("\\$HOME", marks=pytest.mark.slow),
    ],
)
def test_a_dollar_in_a_path_or_a_class_name_is_no_variable(
    tmp_path: Path, name: str
) -> None:
    table = rows({name: 30, "b": 30})
    folder = tmp_path / name
    folder.mkdir()
    assert found(suites(table), folder) == {}
    assert (folder / "data-docs" / "index.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("without_data_docs")
def test_everything_wrong_is_found_at_once_with_its_items(tmp_path: Path) -> None:
    table = rows({"cat": 40, "dog": 2, "eel": 3, "yak": 3})
    table = replaced(table, "id", 1, table["id"][45].as_py())
    table = replaced(table, "path", 2, "cat/003.png")
    table = replaced(table, "scan.format", 4, "GIF")
    table = replaced(table, "scan.width", 5, 3)
    bad = [f"bad{at}.png: empty" for at in range(9)]
    result = found(
        suites(table, bad, labels=["cat", "dog", "eel", "owl"], max_imbalance=10),
        tmp_path,
    )
    assert {code: finding.severity for code, finding in result.items()} == {
        "conflicting-labels": "critical",
        "path-twice": "critical",
        "label-set": "critical",
        "format-limits": "critical",
        "width-limits": "critical",
        "small-class": "critical",
        "too-many-bad": "critical",
        "imbalance": "warning",
    }
    assert result["conflicting-labels"].items == (
        "cat/001.png is cat, yak/045.png is yak",
    )
    assert result["path-twice"].items == ("cat/003.png",)
    assert result["label-set"].items == (
        "yak/045.png: yak",
        "yak/046.png: yak",
        "yak/047.png: yak",
    )
    assert result["format-limits"].items == ("cat/004.png: GIF",)
    assert result["width-limits"].items == ("cat/005.png: 3",)
    assert result["small-class"].items == ("dog: 2", "owl: 0")
    assert result["too-many-bad"].items == tuple(bad)
    assert result["imbalance"].found == "20"


@pytest.mark.usefixtures("without_data_docs")
def test_hundreds_of_items_are_all_named(tmp_path: Path) -> None:
    table = rows({"cat": 300, "dog": 300}, scan__width=[1] * 600)
    assert len(found(suites(table), tmp_path)["width-limits"].items) == 600


@pytest.mark.usefixtures("without_data_docs")
def test_one_class_and_too_few(tmp_path: Path) -> None:
    assert sorted(found(suites(rows({"cat": 5})), tmp_path)) == ["one-class", "too-few"]


def test_empty_suite_is_refused(tmp_path: Path) -> None:
    (suite, *_) = suites(rows({"cat": 5, "dog": 5}))
    with pytest.raises(DataError, match="expected: at least one"):
        judge([ExpectationSuite("nothing", suite.frame, ())], tmp_path)


@pytest.mark.usefixtures("without_data_docs")
def test_drift_of_labels_and_measurements(tmp_path: Path) -> None:
    before = rows(
        {"cat": 10, "dog": 10, "eel": 10},
        scan__brightness=[100.0 + at % 5 for at in range(30)],
    )
    after = rows(
        {"cat": 20, "dog": 5, "owl": 5},
        scan__brightness=[180.0 + at % 5 for at in range(30)],
    )
    result = found([drift_suite(after, before, DataConfig())], tmp_path)
    assert {finding.severity for finding in result.values()} == {"warning"}
    assert result["drift-labels-added"].items == ("owl",)
    assert result["drift-labels-gone"].items == ("eel",)
    assert "cat: 33.3% before, 66.7% now" in result["drift-label-shares"].items
    assert result["drift-label-shares"].found == "0.5"
    assert "drift-brightness" in result
    assert "drift-width" not in result


@pytest.mark.usefixtures("without_data_docs")
def test_no_drift_where_nothing_moved(tmp_path: Path) -> None:
    before = rows({"cat": 10, "dog": 10})
    assert (
        judge(
            [drift_suite(rows({"cat": 11, "dog": 10}), before, DataConfig())], tmp_path
        )
        == []
    )


@pytest.mark.usefixtures("without_data_docs")
def test_a_small_class_is_told_with_its_count_whatever_it_is_called(
    tmp_path: Path,
) -> None:
    result = found(suites(rows({"2": 2, "dog": 5})), tmp_path)
    assert result["small-class"].items == ("2: 2",)


def test_names_are_escaped_in_data_docs(tmp_path: Path) -> None:
    label = "<script>alert(1)</script>"
    assert found(suites(rows({label: 2, "dog": 5})), tmp_path)["small-class"].items == (
        f"{label}: 2",
    )
    for page in (tmp_path / "data-docs").rglob("*.html"):
        assert label not in page.read_text()
