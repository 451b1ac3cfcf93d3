"""Learning rate sweeps find their way from a candidate's curves onto the page."""

from __future__ import annotations

from pathlib import Path

from pipeline.records import CandidateRecord, ImageInputSpec, StageResult
from pipeline.report.report_context import Sweep, read_sweeps
from pipeline.training.candidates import write_curves
from pipeline.training.lr_find import SPLIT
from pipeline.training.train_state import Row


def candidate(folder: Path, rows: list[Row]) -> None:
    stage = StageResult(
        name="top",
        epochs=1,
        best_epoch=1,
        trained=("b", "head"),
        frozen=("a",),
        freeze_digest="",
        val={},
        lr={"b": 0.005, "head": 0.01},
    )
    CandidateRecord(
        name=folder.name,
        key="",
        baseline=False,
        architecture="",
        labels=("a", "b"),
        input=ImageInputSpec(size=4, resize=4),
        stages=(stage,),
        val={},
        steps=1,
        model_sha256="",
        plan={},
    ).save(folder)
    write_curves(folder / "curves.csv", rows)


def test_the_sweeps_of_all_candidates_are_found(tmp_path: Path) -> None:
    usual = Row("top", 1, 8, "train", "loss", 0.5)
    points = [(0.001, 1.0), (0.01, 0.5), (0.1, 2.0)]
    rows = [
        Row("top", n, n, SPLIT, f"top/{kind}", value)
        for kind, values in zip(
            ("rate", "loss"), zip(*points, strict=True), strict=True
        )
        for n, value in enumerate(values)
    ]
    candidate(tmp_path / "gradual", [*rows, usual])
    candidate(tmp_path / "head", [usual])
    assert read_sweeps(tmp_path) == [
        Sweep("gradual", "top", (0.001, 0.01, 0.1), (1.0, 0.5, 2.0), 0.01)
    ]


def test_without_a_fine_tuning_there_are_none(tmp_path: Path) -> None:
    assert read_sweeps(tmp_path / "finetune") == []
