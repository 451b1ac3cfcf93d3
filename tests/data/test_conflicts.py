"""The same content under several labels."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import setup
from pipeline.config import parse
from pipeline.context import SilentConsole
from pipeline.data.deduplication import Partition, quarantine_conflicts
from pipeline.errors import DataError
from pipeline.examples import ListedExample, MeasuredExample
from pipeline.records import ValidateRecord
from pipeline.steps.run import run_alone
from pipeline.workspace import Workspace

pytestmark = pytest.mark.usefixtures("without_data_docs")


def make_workspace(folder: Path, lines: list[str], **data: object) -> Workspace:
    table = folder / "texts.csv"
    table.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    values = {
        "task": {"name": "text-classification"},
        "data": {"table": "texts.csv", **data},
    }
    setup.init(folder / "workspace", source=table, config=parse(values, "test"))
    return Workspace(folder / "workspace")


def texts(count: int) -> list[str]:
    return [
        f"an opinion number {number},{('good', 'bad')[number % 2]}"
        for number in range(count)
    ]


CONFLICT = ["so it goes,good", "so it goes,bad", "so it goes,good"]


def test_of_texts_all_copies_are_left_out_by_name(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, [CONFLICT[0], *texts(100), *CONFLICT[1:]])
    record = run_alone(workspace, "validate", console=SilentConsole())
    assert isinstance(record, ValidateRecord)
    assert record.examples == 100
    quarantined = pq.read_table(record.quarantine).to_pylist()
    assert [row["path"] for row in quarantined] == [
        "texts.csv:2",
        "texts.csv:103",
        "texts.csv:104",
    ]
    assert {row["code"] for row in quarantined} == {"conflicting-labels"}
    assert quarantined[0]["found"] == "good, and elsewhere bad (texts.csv:103)"
    assert "so it goes" not in str(
        pq.read_table(record.manifest)["content"].to_pylist()
    )


def test_more_of_them_than_the_data_may_hold_stop_the_run(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, [*texts(30), *CONFLICT])
    with pytest.raises(DataError, match="too-many-bad"):
        run_alone(workspace, "validate", console=SilentConsole())


def test_they_stop_the_run_where_the_settings_say_so(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, [*texts(100), *CONFLICT], conflicts="stop")
    with pytest.raises(DataError, match="conflicting-labels"):
        run_alone(workspace, "validate", console=SilentConsole())


def test_many_labels_of_one_content_are_not_all_told_of_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the time and the words would grow with the square of their number."""
    count = 500
    told: list[str] = []

    def tell(example: ListedExample) -> str:
        told.append(example.path)
        return example.target

    monkeypatch.setattr(ListedExample, "described_target", property(tell))
    usable = tuple(
        (ListedExample(f"a.csv:{number}", f"label {number}"), MeasuredExample("id", {}))
        for number in range(count)
    )
    partition = quarantine_conflicts(Partition(usable, (), ()))
    assert len(partition.faults) == count
    assert len(told) <= 10 * count
