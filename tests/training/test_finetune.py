"""The fine-tune step: candidates made, found again, gone on with; the best chosen;
everything told once.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consoles import RecordingConsole
from pipeline import manifest
from pipeline.config import FinetuneConfig, PlanConfig
from pipeline.context import Context, MetricPoint, NoTracker
from pipeline.errors import ConfigError
from pipeline.records import BackboneRecord, FinetuneRecord, SplitRecord
from pipeline.steps import finetune as step
from pipeline.tasks import catalog
from pipeline.tasks.image_classification.settings import ImageClassificationConfig
from tiny import LABELS, SPEC, TinyStore, elsewhere, tiny_task

CONFIG = FinetuneConfig(
    recipes=("head",),
    epochs=3,
    batch_size=8,
    views=2,
    lr=1e-2,
    head_solver="optimizer",
    plan=PlanConfig(
        precision="fp32", memory_format="contiguous", threads=1, device="cpu"
    ),
)
BACKBONE = BackboneRecord(
    name="tiny/tiny",
    architecture="tiny",
    source="file",
    sha256="0",
    weights_sha256="1",
    parameters=1,
    classes=3,
    blocks=("low", "mid", "top", "head"),
    input=SPEC,
)


class Remembering(NoTracker):
    """A tracker that remembers every point told to each run, in order."""

    def __init__(self) -> None:
        self.runs: dict[str, RememberedRun] = {}

    def open(
        self,
        key: str,
        name: str,
        *,
        parent: Any = None,
        tags: Mapping[str, str] | None = None,
    ) -> Any:
        return self.runs.setdefault(key, RememberedRun(name, parent))


class RememberedRun:
    def __init__(self, name: str, parent: Any) -> None:
        self.id, self.parent, self.points, self.values, self.closed = (
            name,
            parent,
            [],
            {},
            "",
        )  # type: ignore[var-annotated]

    def params(self, values: Mapping[str, object]) -> None:
        self.values.update(values)

    def tags(self, values: Mapping[str, str]) -> None: ...

    def metrics(self, points: Any) -> None:
        self.points += list(points)

    def artifact(self, path: Path, folder: str = "") -> None: ...

    def close(self, status: str = "FINISHED") -> None:
        self.closed = status


def data(root: Path, count: int = 60) -> SplitRecord:
    """Files of coloured squares, and the record of their split."""
    store, rows = TinyStore(count), []
    (root / "data").mkdir(parents=True, exist_ok=True)
    for row, identity in enumerate(store.ids):
        content = store.batch(np.array([row])).numpy().tobytes()
        (root / "data" / f"{identity}.bin").write_bytes(content)
        part = "train" if row % 4 else ("val" if row % 8 else "test")
        rows.append(
            {
                "id": hashlib.md5(content).hexdigest(),
                "path": f"{identity}.bin",
                "aliases": [],
                "target": LABELS[store.target(identity)],
                "group": None,
                "given_split": None,
                "split": part,
            }
        )
    sha = manifest.write(
        pa.Table.from_pylist(rows, schema=manifest.COLUMNS),
        root / "split" / "manifest.parquet",
    )
    record = SplitRecord(
        manifest_sha256=sha,
        labels=LABELS,
        counts={},
        new=0,
        left_out=(),
        warnings=(),
        near_duplicate_groups=0,
    )
    return record.save(root / "split")


def run(
    root: Path, config: FinetuneConfig = CONFIG, **surroundings: Any
) -> FinetuneRecord:
    """The step in a workspace below `root`; each call writes to a new folder."""
    catalog.find = lambda name: tiny_task()  # type: ignore[assignment, return-value]
    split = data(root)
    out = root / f"out{len(list(root.glob('out*')))}"
    out.mkdir()
    context = Context(
        root=root,
        data=root / "data",
        scratch=root / ".thaw",
        run_dir=root / "side",
        **surroundings,
    )
    return step.finetune(
        config, ImageClassificationConfig(), split, BACKBONE, out, context
    )


@pytest.fixture(autouse=True)
def _tiny_task(monkeypatch: pytest.MonkeyPatch) -> None:
    # `run` replaces it, this puts it back.
    monkeypatch.setattr(catalog, "find", catalog.find)


def test_a_candidates_files_say_what_the_record_says(tmp_path: Path) -> None:
    record = run(tmp_path)
    assert record.candidates == ("head", "scratch")
    best = record.candidate()
    assert manifest.sha256(best.model) == best.model_sha256
    table = pq.read_table(best.folder / "val.parquet")
    assert table.column_names == ["id", "target", *(f"p.{label}" for label in LABELS)]
    assert table.column("id").to_pylist() == sorted(table.column("id").to_pylist())
    probabilities = np.stack(
        [table.column(f"p.{label}").to_numpy() for label in LABELS], axis=1
    )
    hits = probabilities.argmax(1) == [
        LABELS.index(label) for label in table.column("target").to_pylist()
    ]
    assert hits.mean() == best.val["accuracy"]
    with (best.folder / "curves.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    accuracies = [float(row["value"]) for row in rows if row["metric"] == "accuracy"]
    assert len(accuracies) == sum(stage.epochs for stage in best.stages)
    assert max(accuracies) == best.val["accuracy"]
    timing = json.loads((tmp_path / "side" / "timing.json").read_text())
    assert timing["head"]["stages"]["head"]["train"] > 0
    assert not (best.folder / "timing.json").exists()


def test_the_baseline_is_trained_for_comparison_and_is_not_the_best(
    tmp_path: Path,
) -> None:
    record = run(tmp_path)
    head, scratch = record.candidate("head"), record.candidate("scratch")
    assert record.best == "head"
    assert scratch.baseline
    assert not head.baseline
    assert scratch.stages[0].frozen == ()
    assert sum(s.epochs for s in scratch.stages) <= sum(s.epochs for s in head.stages)


def test_adding_a_recipe_trains_only_that_one(tmp_path: Path) -> None:
    first, words = (
        run(tmp_path, CONFIG.model_copy(update={"baseline": "never"})),
        RecordingConsole(),
    )
    more = CONFIG.model_copy(update={"baseline": "never", "recipes": ("full", "head")})
    second = run(tmp_path, more, console=words)
    assert "head: unchanged" in words
    assert "full: unchanged" not in words
    assert second.candidate("head").model_sha256 == first.candidate("head").model_sha256
    assert second.candidates == ("full", "head")


def test_a_damaged_candidate_is_trained_again(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"baseline": "never"})
    first, words = run(tmp_path, config), RecordingConsole()
    (model,) = (tmp_path / ".thaw" / "candidates").glob("*/model.safetensors")
    model.write_bytes(b"rubbish")
    second = run(tmp_path, config, console=words)
    assert "is damaged" in words
    assert second.candidate().model_sha256 == first.candidate().model_sha256


def test_what_does_not_change_the_result_does_not_change_the_key(
    tmp_path: Path,
) -> None:
    config = CONFIG.model_copy(update={"baseline": "never"})
    run(tmp_path, config)
    words = RecordingConsole()
    others = {
        "checkpoint": config.checkpoint.model_copy(update={"keep": 5}),
        "baseline": "never",
        "epochs": 3,
    }
    plan = config.plan.model_copy(update={"workers": 2})
    run(tmp_path, config.model_copy(update={**others, "plan": plan}), console=words)
    assert "head: unchanged" in words
    run(
        tmp_path,
        config.model_copy(update={"label_smoothing": 0.2}),
        console=(fresh := RecordingConsole()),
    )
    assert "head: unchanged" not in fresh


def test_runs_are_told_every_point_under_one_parent(tmp_path: Path) -> None:
    tracker = Remembering()
    record = run(tmp_path, tracker=tracker)
    parent = tracker.runs[record.key]
    child = tracker.runs[record.candidate("head").key]
    assert child.parent is parent
    assert parent.closed == child.closed == "FINISHED"
    told = {(point.name, point.step): point.value for point in child.points}
    assert {"train/loss", "val/accuracy", "val/log_loss", "lr/head"} <= {
        name for name, _ in told
    }
    assert len(set(child.points)) == len(told), "one place was told two values"
    assert child.values["recipe"] == "head"


@pytest.mark.slow
def test_a_killed_step_goes_on_and_tells_the_same_points(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", tracker=(plain := Remembering()))
    for point in ("last-batch:2", "between-stages", "after-candidate"):
        code, _ = elsewhere(
            _run_quietly, tmp_path / "killed", env={"THAW_CRASH_AT": point}
        )
        assert code == -9, "the kill never happened"
    record = run(
        tmp_path / "killed",
        tracker=(again := Remembering()),
        console=(words := RecordingConsole()),
    )
    assert "head: unchanged" in words, (
        "the candidate was complete when the last kill came"
    )
    assert {n: record.candidate(n).model_sha256 for n in record.candidates} == {
        n: whole.candidate(n).model_sha256 for n in whole.candidates
    }
    key = record.candidate("head").key
    assert set(again.runs[key].points) == set(plain.runs[key].points)
    assert all(isinstance(point, MetricPoint) for point in again.runs[key].points)
    assert not any((tmp_path / "killed" / ".thaw" / "checkpoints").iterdir())


def _run_quietly(root: Path) -> None:
    run(root)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipes": ("hed",)}, "did you mean head"),
        ({"primary": "acuracy"}, "did you mean accuracy"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_any_work(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, CONFIG.model_copy(update=change))
    assert not (tmp_path / ".thaw").exists()


def test_the_metric_chosen_decides_and_low_loss_is_better(tmp_path: Path) -> None:
    config = CONFIG.model_copy(
        update={"recipes": ("head", "full"), "primary": "log_loss", "baseline": "never"}
    )
    record = run(tmp_path, config)
    assert not record.higher_is_better
    assert record.best == min(record.val, key=lambda name: record.val[name]["log_loss"])
