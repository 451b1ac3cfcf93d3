"""Fine-tuning on texts: candidates found again and gone on with, and what the record
says of texts that are cut.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from consoles import RecordingConsole
from pipeline import setup
from pipeline.config import Config, parse
from pipeline.context import SilentConsole
from pipeline.records import FinetuneRecord
from pipeline.steps.run import load_record, run_alone
from pipeline.tasks import catalog
from pipeline.workspace import Workspace

TASK = "text-classification"
KILLED = -9
TRAINING: dict[str, Any] = {
    "recipes": ["full"],
    "baseline": "never",
    "epochs": 2,
    "patience": 0,
    "plan": {
        "precision": "fp32",
        "memory_format": "contiguous",
        "threads": 1,
        "compile": "off",
    },
}


def settings() -> Config:
    """Those of the sample, with everything fixed that may be fixed, and texts cut at 16
    tokens.
    """
    values: dict[str, Any] = {"task": {"name": TASK}}
    for section, own in catalog.find(TASK).sample().settings.items():
        values[section] = {**values.get(section, {}), **own}
    values["task"]["input"] = {"max_tokens": 16}
    values["finetune"] = {**values.get("finetune", {}), **TRAINING}
    values["tracking"] = {"enabled": False}
    return parse(values, "the test")


def prepared(folder: Path) -> Workspace:
    """A workspace of the task's sample in which everything before fine-tuning is done."""
    catalog.find(TASK).sample().generate(folder / "sample")
    setup.init(folder / "workspace", source=folder / "sample", config=settings())
    workspace = Workspace(folder / "workspace")
    for step in ("validate", "split", "backbone"):
        run_alone(workspace, step, console=SilentConsole())
    return workspace


def finetune(workspace: Workspace) -> tuple[FinetuneRecord, list[str]]:
    """The record, and what was said."""
    words = RecordingConsole()
    record = run_alone(workspace, "finetune", console=words)
    assert isinstance(record, FinetuneRecord)
    return record, words.lines


def finetune_until(point: str, workspace: Workspace) -> int:
    """Fine-tunes in a process of its own that is killed at a point; its exit status."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "pipeline", "finetune"],
        cwd=workspace.root,
        env={**os.environ, "THAW_CRASH_AT": point},
        capture_output=True,
        timeout=600,
        check=False,
    ).returncode


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = prepared(tmp_path_factory.mktemp("texts"))
    finetune(workspace)
    return workspace


def record_of(workspace: Workspace) -> FinetuneRecord:
    record = load_record(workspace, "finetune")
    assert isinstance(record, FinetuneRecord)
    return record


@pytest.mark.full
def test_a_finished_candidate_is_not_trained_again(finished: Workspace) -> None:
    before = record_of(finished)
    again, said = finetune(finished)
    assert "full: unchanged" in said
    assert again.candidate().model_sha256 == before.candidate().model_sha256
    assert again.truncated_texts == before.truncated_texts


@pytest.mark.full
def test_texts_that_are_cut_are_counted_before_training_and_recorded(
    finished: Workspace,
) -> None:
    record, said = finetune(finished)
    truncated = record.truncated_texts
    assert truncated is not None
    assert truncated.truncated > 0
    assert 0 < truncated.median_excess <= truncated.max_excess
    (number,) = [
        number for number, line in enumerate(said) if "longer than 16 tokens" in line
    ]
    assert number < said.index("full: unchanged")


@pytest.mark.full
def test_a_killed_training_ends_with_the_same_weights(
    finished: Workspace, tmp_path: Path
) -> None:
    workspace = prepared(tmp_path)
    assert finetune_until("last-batch:2", workspace) == KILLED, (
        "the kill never happened"
    )
    assert finetune_until("between-stages", workspace) == KILLED, (
        "the kill never happened"
    )
    assert finetune_until("after-candidate", workspace) == KILLED, (
        "the kill never happened"
    )
    record, said = finetune(workspace)
    assert "full: unchanged" in said, (
        "the candidate was complete when the last kill came"
    )
    assert (
        record.candidate().model_sha256 == record_of(finished).candidate().model_sha256
    )
    assert not any((workspace.scratch / "checkpoints").iterdir())
