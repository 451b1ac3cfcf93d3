"""The evaluate step on a real small network and real files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from consoles import RecordingConsole
from pipeline import manifest
from pipeline.config import EvaluateConfig
from pipeline.context import Context, MetricPoint, NoRun, SilentConsole, TrackedRun
from pipeline.errors import SplitError, TrainingError
from pipeline.evaluation import predict
from pipeline.models.network import state_to_save
from pipeline.models.providers.torchvision import blocks
from pipeline.records import (
    BaselineAge,
    CandidateRecord,
    EvaluateRecord,
    FinetuneRecord,
    ImageInputSpec,
    SplitRecord,
)
from pipeline.steps.evaluate import evaluate
from pipeline.tasks.image_classification.settings import ImageClassificationConfig
from pipeline.training import members
from threads import threads

LABELS = ("dark", "light", "never")
ARCHITECTURE = "squeezenet1_1"
CONFIG = EvaluateConfig(bootstrap=50, min_slice=5, worst=4)


@dataclass
class Recorded(NoRun):
    """A tracked run, and the tracker that opens it."""

    points: dict[str, float] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def open(
        self,
        key: str,
        name: str,
        *,
        parent: TrackedRun | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> TrackedRun:
        self.keys.append(key)
        return self

    def metrics(self, points: Iterable[MetricPoint]) -> None:
        self.points |= {point.name: point.value for point in points}

    def artifact(self, path: Path, folder: str = "") -> None:
        self.artifacts.append(f"{folder}/{path.name}")


@dataclass
class Place:
    """A workspace as the steps before left it."""

    root: Path
    split: SplitRecord
    finetuned: FinetuneRecord
    run: Recorded

    def evaluate(
        self,
        name: str = "evaluate",
        config: EvaluateConfig = CONFIG,
        **surroundings: Any,
    ) -> EvaluateRecord:
        out = self.root / name
        out.mkdir()
        context = Context(
            root=self.root,
            data=self.root / "data",
            scratch=self.root / ".thaw",
            run_dir=self.root / ".thaw/runs/now/e",
            tracker=self.run,
            **surroundings,
        )
        return evaluate(
            config,
            ImageClassificationConfig(),
            self.split,
            self.finetuned,
            out,
            context,
        )


@pytest.fixture(scope="module", autouse=True)
def _one_thread_timed_in_a_moment() -> Iterator[None]:
    with threads(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "TIMED_SECONDS", 0.0)  # so the fewest runs will do
        yield


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return _place(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, EvaluateRecord]:
    """A place, and its evaluation: for tests that change neither."""
    place = _place(tmp_path_factory.mktemp("evaluated"))
    return place, place.evaluate()


def _place(tmp_path: Path) -> Place:
    rows = _examples(tmp_path / "data")
    table = pa.Table.from_pylist(rows, schema=_schema())
    manifest.write(table, tmp_path / "split" / "manifest.parquet")
    split = SplitRecord(
        manifest_sha256="0" * 64,
        labels=LABELS,
        counts={},
        new=0,
        left_out=(),
        warnings=(),
        near_duplicate_groups=0,
    ).save(tmp_path / "split")
    names = ("head", "scratch")
    for seed, name in enumerate(names):
        _candidate(tmp_path / "finetune" / name, name, seed)
    finetuned = FinetuneRecord(
        key="parent-key",
        candidates=names,
        best="head",
        primary="accuracy",
        higher_is_better=True,
        val={},
    ).save(tmp_path / "finetune")
    return Place(tmp_path, split, finetuned, Recorded())


def _schema() -> pa.Schema:
    return pa.schema([*manifest.COLUMNS, pa.field("meta.lamp", pa.string())])


def _examples(data: Path) -> list[dict[str, Any]]:
    dice, rows = np.random.default_rng(0), []
    for number in range(40):
        target = LABELS[number % 2]
        path = (
            data / target / (f"-{number} <b>é\n.png" if number < 2 else f"{number}.png")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(
            dice.integers(0, 128, (40, 48, 3), dtype=np.uint8)
            + np.uint8(128 * (number % 2))
        ).save(path)
        rows.append(
            {
                "id": manifest_id(path),
                "path": path.relative_to(data).as_posix(),
                "aliases": [],
                "target": target,
                "group": f"part {number // 4}",
                "given_split": None,
                "split": "test" if number < 36 else "train",
                "unit": f"unit {number // 4}",
                "meta.lamp": "left" if number % 3 else "right",
            }
        )
    return rows


def manifest_id(path: Path) -> str:
    import hashlib

    return hashlib.md5(path.read_bytes()).hexdigest()


def _candidate(folder: Path, name: str, seed: int, *, spoil: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = state_to_save(blocks.build_network(ARCHITECTURE, len(LABELS), seed=seed))
    if spoil:
        first = next(iter(state))
        state[first] = torch.full_like(state[first], 3e38)  # overflows on the way
    save_file(state, folder / "model.safetensors")
    CandidateRecord(
        name=name,
        key=name,
        baseline=name == "scratch",
        architecture=ARCHITECTURE,
        labels=LABELS,
        input=ImageInputSpec(size=40, resize=44),
        stages=(),
        val={},
        steps=1,
        model_sha256=manifest.sha256(folder / "model.safetensors"),
        plan={"device": "cpu"},
    ).save(folder)


def test_every_candidate_is_judged_on_the_test_split(
    done: tuple[Place, EvaluateRecord],
) -> None:
    _, record = done
    assert (record.candidate, record.examples, record.units) == ("head", 36, 9)
    assert set(record.others) == {"scratch"}
    assert (
        set(record.metrics)
        == set(record.others["scratch"])
        >= {"accuracy", "log_loss", "top_2_accuracy"}
    )
    assert [one.other for one in record.comparisons] == ["scratch"]
    answers = pq.read_table(record.predictions)
    assert answers.column_names == [
        "id",
        "path",
        "target",
        "predicted",
        "confidence",
        *(f"p.{n}" for n in LABELS),
    ]
    right = [row["target"] == row["predicted"] for row in answers.to_pylist()]
    assert record.metrics["accuracy"].value == pytest.approx(np.mean(right))
    # The odd name was opened, and kept.
    assert any("é\n" in path for path in answers["path"].to_pylist())


def test_a_remembered_candidate_is_compared_on_what_it_had_not_learnt_from(
    tmp_path: Path,
) -> None:
    place = _place(tmp_path)
    table = manifest.read(place.split.manifest)
    group = [row for row in table.to_pylist() if row["group"] == "part 0"]
    learnt = [{**group[0], "split": "train"}, {**group[1], "split": "val"}]
    rows = [{name: row[name] for name in members.SCHEMA.names} for row in learnt]
    members.write_members(
        pa.Table.from_pylist(rows, members.SCHEMA),
        place.finetuned.folder / "scratch" / members.FILE,
    )
    age = BaselineAge(trained="2026-01-31", data="0123456789abcdef.dir", examples=1234)
    words = RecordingConsole()
    finetuned = place.finetuned.model_copy(update={"baseline": age})
    record = replace(place, finetuned=finetuned).evaluate(console=words)
    (comparison,) = record.comparisons
    assert (record.examples, comparison.examples) == (36, 32), (
        "the other two examples of their group go with them"
    )
    left_out = {row["id"] for row in group}
    answers = [
        row
        for row in pq.read_table(record.predictions).to_pylist()
        if row["id"] not in left_out
    ]
    ours = np.mean([row["target"] == row["predicted"] for row in answers])
    theirs = record.others["scratch"]["accuracy"].value
    assert comparison.difference.value == pytest.approx(ours - theirs)

    assert record.baseline == age
    (said,) = [
        line
        for line in words.lines
        if line.startswith("compared with training from scratch")
    ]
    assert (
        "trained on 2026-01-31 from data version 01234567, 1,234 examples then" in said
    )
    assert "4 of today's 36 test examples left out" in said


def test_the_answers_are_the_networks_own_in_fp32(
    done: tuple[Place, EvaluateRecord],
) -> None:
    place, record = done
    row = pq.read_table(record.predictions).slice(5, 1).to_pylist()[0]
    model = blocks.load_finetuned(
        ARCHITECTURE, 3, place.finetuned.folder / "head" / "model.safetensors"
    ).eval()
    from pipeline.tasks.image_classification import TASK

    kind, spec = TASK, place.finetuned.candidate().input
    decoded = torch.from_numpy(
        kind.codec.decode(place.root / "data" / row["path"], spec)
    )[None]
    with torch.inference_mode():
        expected = kind.scorer.probabilities(
            model(kind.codec.prepare(decoded, spec, ImageClassificationConfig(), None))
        )[0]
    assert [row[f"p.{label}"] for label in LABELS] == pytest.approx(
        expected.tolist(), abs=1e-6
    )


def test_the_same_inputs_leave_the_same_bytes(
    done: tuple[Place, EvaluateRecord],
) -> None:
    place, first = done
    second = replace(place, run=Recorded()).evaluate("again")
    names = sorted(
        path.relative_to(first.folder)
        for path in first.folder.rglob("*")
        if path.is_file()
    )
    assert {str(name) for name in names} >= {
        "record.json",
        "predictions.parquet",
        "confusion.csv",
        "per_class.csv",
        "slices.csv",
        "reliability.csv",
        "worst/worst.json",
    }
    for name in names:
        assert (first.folder / name).read_bytes() == (
            second.folder / name
        ).read_bytes(), name


def test_the_worst_errors_are_shown_surest_first(
    done: tuple[Place, EvaluateRecord],
) -> None:
    _, record = done
    rows = json.loads((record.folder / "worst" / "worst.json").read_text())
    assert len(rows) == 4
    assert [row["confidence"] for row in rows] == sorted(
        (row["confidence"] for row in rows), reverse=True
    )
    for row in rows:
        assert row["target"] != row["predicted"]
        with Image.open(record.folder / "worst" / row["picture"]) as picture:
            assert picture.format == "JPEG"


def test_latency_and_size_are_no_output(done: tuple[Place, EvaluateRecord]) -> None:
    place, record = done
    latency = json.loads((place.root / ".thaw/runs/now/e/latency.json").read_text())
    assert [one["batch"] for one in latency["batches"]] == [1, 32]
    assert all(0 < one["median_ms"] <= one["p95_ms"] for one in latency["batches"])
    assert latency["model_sha256"] == record.model_sha256
    assert latency["megabytes"] == pytest.approx(
        place.finetuned.candidate().model.stat().st_size / 1e6
    )
    assert not list(record.folder.rglob("latency*"))


def test_metrics_go_to_the_run_the_candidates_were_trained_under(
    done: tuple[Place, EvaluateRecord],
) -> None:
    place, record = done
    assert place.run.keys == ["parent-key"]
    accuracy = record.metrics["accuracy"]
    assert place.run.points["test/accuracy"] == accuracy.value
    assert (
        place.run.points["test/accuracy_low"],
        place.run.points["test/accuracy_high"],
    ) == (
        accuracy.low,
        accuracy.high,
    )
    assert "test/per_class.csv" in place.run.artifacts


def test_what_the_test_split_cannot_say_is_said(
    done: tuple[Place, EvaluateRecord],
) -> None:
    found = {one.code: one for one in done[1].warnings}
    assert found["class-not-tested"].items == ("never",)
    assert "9 groups" in found["few-test-groups"].found


def test_few_examples_are_warned_of(place: Place) -> None:
    table = manifest.read(place.split.manifest)
    split = pa.array(["test" if n < 12 else "train" for n in range(table.num_rows)])
    manifest.write(
        table.set_column(table.column_names.index("split"), "split", split),
        place.split.manifest,
    )
    codes = [one.code for one in place.evaluate().warnings]
    assert "few-test-examples" in codes
    assert "few-test-groups" not in codes


def test_no_test_examples_stop_the_run(place: Place) -> None:
    table = manifest.read(place.split.manifest)
    split = pa.array(["train"] * table.num_rows)
    manifest.write(
        table.set_column(table.column_names.index("split"), "split", split),
        place.split.manifest,
    )
    with pytest.raises(SplitError, match="no examples"):
        place.evaluate()


def test_a_model_that_answers_nan_is_refused(place: Place) -> None:
    _candidate(place.finetuned.folder / "scratch", "scratch", 1, spoil=True)
    with pytest.raises(TrainingError, match="candidate 'scratch'"):
        place.evaluate()


@pytest.mark.slow
def test_the_store_of_decoded_examples_keeps_to_the_limit_it_is_given(
    place: Place,
) -> None:
    class Told(SilentConsole):
        lines: ClassVar[list[str]] = []

        def info(self, text: str) -> None:
            self.lines.append(text)

    record = place.evaluate("without", pixel_cache_gb=0.0, console=Told())
    assert any("finetune.plan.pixel_cache_gb: 0" in line for line in Told.lines)
    assert record.metrics == place.evaluate("with").metrics


def test_a_slice_that_is_not_there_is_told_and_stops_nothing(place: Place) -> None:
    record = place.evaluate(
        config=EvaluateConfig(bootstrap=50, slices=("lamp", "lmap"))
    )
    (warning,) = (one for one in record.warnings if one.code == "no-such-slice")
    assert warning.items == ("lmap: did you mean lamp?",)


def test_slices_come_from_the_metadata(done: tuple[Place, EvaluateRecord]) -> None:
    _, record = done
    with (record.folder / "slices.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["column"], row["value"]) for row in rows} == {
        ("lamp", "left"),
        ("lamp", "right"),
    }
    assert sum(int(row["examples"]) for row in rows) == record.examples


def test_labels_are_matched_by_name(place: Place) -> None:
    """A candidate whose label space is in another order gives the same accuracies."""
    expected = _accuracies(place.evaluate("one"))
    record = place.finetuned.candidate("head")
    order = [2, 0, 1]
    state = state_to_save(blocks.load_finetuned(ARCHITECTURE, 3, record.model))
    for name in ("classifier.1.weight", "classifier.1.bias"):
        state[name] = state[name][order].contiguous()
    save_file(state, record.model)
    record.model_copy(update={"labels": tuple(LABELS[n] for n in order)}).save(
        record.folder
    )
    assert _accuracies(place.evaluate("two")) == expected


def _accuracies(record: EvaluateRecord) -> dict[str, Any]:
    with (record.folder / "per_class.csv").open(newline="", encoding="utf-8") as stream:
        found = {row["label"]: row["recall"] for row in csv.DictReader(stream)}
    return {"all": record.metrics["accuracy"].value, **found}
