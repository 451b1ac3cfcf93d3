"""One of torchvision's segmenters and one of its detectors, from a file of their
weights to the served model.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipeline import setup
from pipeline.config import Config, parse
from pipeline.context import SilentConsole
from pipeline.records import BackboneRecord, CandidateRecord, FinetuneRecord
from pipeline.steps.register import package_candidate
from pipeline.steps.run import load_record, run_alone
from pipeline.tasks import catalog
from pipeline.tracking import packaging
from pipeline.workspace import Workspace
from published_networks import published_state
from threads import threads

pytestmark = pytest.mark.full

SIDE = 64
NETWORKS = {
    "semantic-segmentation": "deeplabv3_mobilenet_v3_large",
    "object-detection": "fasterrcnn_mobilenet_v3_large_320_fpn",
}
RECIPES = {
    "top": [{"name": "top", "train": ["head"], "epochs": 2, "lr": 1e-3}],
    "upper": [
        {
            "name": "upper",
            "train": ["last:6"],
            "epochs": 2,
            "lr": 1e-3,
            "batchnorm": "train",
        }
    ],
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


def settings(task: str, weights: Path) -> Config:
    values: dict[str, Any] = {
        key: dict(own) for key, own in catalog.find(task).sample().settings.items()
    }
    values["task"] = {**values["task"], "name": task, "input": {"size": SIDE}}
    values["backbone"] = {
        "name": f"torchvision/{NETWORKS[task]}",
        "weights": str(weights),
    }
    plan = {
        "precision": "fp32",
        "memory_format": "contiguous",
        "threads": 1,
        "compile": "off",
        "feature_cache": "on",
    }
    values["finetune"] = {
        "recipes": list(RECIPES),
        "own": RECIPES,
        "baseline": "never",
        "views": 2,
        "patience": 0,
        "checkpoint": {"every_seconds": 0.1},
        "plan": plan,
    }
    values["evaluate"] = {"bootstrap": 20, "worst": 2}
    values["tracking"] = {"enabled": False}
    return parse(values, "this test")


@dataclass
class Trained:
    """A workspace in which everything up to the fine-tuning has run."""

    task: str
    workspace: Workspace

    def candidate(self, name: str) -> CandidateRecord:
        finetuned: FinetuneRecord = self.record("finetune")
        return finetuned.candidate(name)

    def record(self, step: str) -> Any:
        return load_record(self.workspace, step)

    def weights(self) -> list[str]:
        """A hash of each candidate's."""
        return [
            hashlib.sha256(self.candidate(name).model.read_bytes()).hexdigest()
            for name in RECIPES
        ]


def prepare(task: str, folder: Path) -> Trained:
    """A workspace that is ready to train."""
    weights = folder / "published.pth"
    torch.save(published_state(NETWORKS[task]), weights)
    catalog.find(task).sample().generate(folder / "sample")
    setup.init(
        folder / "workspace", source=folder / "sample", config=settings(task, weights)
    )
    workspace = Workspace(folder / "workspace")
    for step in ("validate", "split", "backbone"):
        run_alone(workspace, step, console=SilentConsole())
    return Trained(task, workspace)


@pytest.fixture(scope="module", params=list(NETWORKS))
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    made = prepare(request.param, tmp_path_factory.mktemp(request.param))
    with threads(1):
        run_alone(made.workspace, "finetune", console=SilentConsole())
    return made


def test_what_no_stage_trained_is_what_was_published(trained: Trained) -> None:
    network = catalog.find(trained.task).network
    backbone: BackboneRecord = trained.record("backbone")
    for name in RECIPES:
        candidate = trained.candidate(name)
        before = network.build(backbone, candidate.labels, design=candidate.design)
        after = network.load(candidate)
        for old, new in zip(before.blocks, after.blocks, strict=True):
            pairs = zip(
                list(old.parameters()) + list(old.buffers()),
                list(new.parameters()) + list(new.buffers()),
                strict=True,
            )
            is_same = all(torch.equal(one, other) for one, other in pairs)
            assert is_same == (old.name in candidate.stages[0].frozen), (name, old.name)


def test_killed_in_the_middle_it_ends_with_the_same_weights(
    trained: Trained, tmp_path: Path
) -> None:
    again = prepare(trained.task, tmp_path)
    command = [sys.executable, "-P", "-m", "pipeline", "finetune"]
    for crash, code in (("last-batch", -9), ("after-candidate", -9), ("", 0)):
        environment = (
            {**os.environ, "THAW_CRASH_AT": crash} if crash else dict(os.environ)
        )
        done = subprocess.run(
            command,
            cwd=again.workspace.root,
            env=environment,
            capture_output=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stderr
    assert again.weights() == trained.weights()


def test_the_served_model_answers_as_it_was_judged(
    trained: Trained, tmp_path: Path
) -> None:
    evaluated: Any = run_alone(trained.workspace, "evaluate", console=SilentConsole())
    finetuned: FinetuneRecord = trained.record("finetune")
    candidate = finetuned.candidate()
    config = trained.workspace.config()
    package_candidate(tmp_path / "model", config, candidate, finetuned.members, {})
    rows = pq.read_table(evaluated.predictions).slice(0, 4).to_pylist()
    serving = catalog.find(trained.task).serving()
    requests = serving.requests(rows, trained.workspace.root / "data")
    for row, answer in zip(
        rows, packaging.answers(tmp_path / "model", requests), strict=True
    ):
        assert serving.difference(answer, row, candidate) == ""
