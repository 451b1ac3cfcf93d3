"""The comparison with training from scratch: trained once, remembered, pinned, and
asked about each new test split.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from test_finetune import BACKBONE, CONFIG, data

from consoles import RecordingConsole
from pipeline import manifest
from pipeline.config import Config, FinetuneConfig, parse, to_yaml
from pipeline.context import Context, SilentConsole
from pipeline.errors import TrainingError
from pipeline.records import BackboneRecord, FinetuneRecord
from pipeline.steps import baseline
from pipeline.steps import finetune as step
from pipeline.tasks import catalog
from pipeline.tasks.image_classification.settings import ImageClassificationConfig
from pipeline.training import members
from pipeline.upgrade import upgrade
from pipeline.versioning import Versioning, initialise
from pipeline.workspace import Workspace
from tiny import elsewhere, tiny_task

ONCE = CONFIG.model_copy(update={"baseline_steps": 10})
ANOTHER = CONFIG.model_copy(update={"baseline_steps": 1})


@pytest.fixture(autouse=True)
def _tiny_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "find", lambda name: tiny_task())


def run(
    root: Path,
    config: FinetuneConfig = ONCE,
    *,
    count: int = 60,
    backbone: BackboneRecord = BACKBONE,
    console: Any = None,
) -> FinetuneRecord:
    """The step on `count` examples; each call writes to a new folder."""
    split = data(root, count)
    out = root / "artifacts" / f"finetune{len(list(root.glob('artifacts/finetune*')))}"
    out.mkdir(parents=True)
    context = Context(
        root=root,
        data=root / "data",
        scratch=root / ".thaw",
        run_dir=root / "side",
        console=console or SilentConsole(),
    )
    return step.finetune(
        config, ImageClassificationConfig(), split, backbone, out, context
    )


def run_in_another_process(root: Path) -> None:
    catalog.find = lambda name: tiny_task()  # type: ignore[assignment, return-value]
    run(root)


def train_another_in_another_process(root: Path) -> None:
    catalog.find = lambda name: tiny_task()  # type: ignore[assignment, return-value]
    run(root, ANOTHER)


def forget_candidates(root: Path) -> None:
    """So that whatever is not remembered elsewhere is trained again."""
    shutil.rmtree(root / ".thaw" / "candidates", ignore_errors=True)


def scratch_sha(record: FinetuneRecord) -> str:
    return record.candidate("scratch").model_sha256


# --- once -----------------------------------------------------------------------------
def test_it_is_trained_once_however_the_data_grow_and_settings_change(
    tmp_path: Path,
) -> None:
    first, words = run(tmp_path), RecordingConsole()
    forget_candidates(tmp_path)
    changed = ONCE.model_copy(
        update={"label_smoothing": 0.2, "lr": 5e-3, "epochs": 2, "seed": 3}
    )
    second = run(tmp_path, changed, count=90, console=words)
    assert scratch_sha(second) == scratch_sha(first)
    assert second.candidate("head").model_sha256 != first.candidate("head").model_sha256
    assert first.baseline is not None
    assert second.baseline == first.baseline, "its age is that of its training"
    learnt = members.read_members(first.folder / "scratch" / members.FILE)
    assert first.baseline.examples == learnt.num_rows < 60
    assert f"scratch: remembered, trained on {first.baseline.trained}" in words
    assert "for comparison, at most" not in words


def test_its_seconds_are_said_before_it_starts(tmp_path: Path) -> None:
    words = RecordingConsole()
    run(tmp_path, console=words)
    said = [
        line.split(":")[0]
        + (" duration" if "for comparison, at most 2 epochs" in line else "")
        for line in words.lines
    ]
    assert said.index("scratch duration") < said.index("scratch")


def test_scratch_that_was_asked_for_is_no_comparison_to_go_without(
    tmp_path: Path,
) -> None:
    asked = ONCE.model_copy(update={"recipes": ("head", "scratch")})
    record = run(tmp_path, asked, console=(words := RecordingConsole()))
    assert len(record.candidates) == 2
    assert "for comparison" not in words


@pytest.mark.parametrize(("setting", "candidates"), [("always", 2), ("never", 1)])
def test_always_trains_it_anew_and_never_does_without(
    tmp_path: Path, setting: str, candidates: int
) -> None:
    run(tmp_path)
    forget_candidates(tmp_path)
    record = run(
        tmp_path,
        ONCE.model_copy(update={"baseline": setting}),
        count=90,
        console=(words := RecordingConsole()),
    )
    assert len(record.candidates) == candidates
    assert record.baseline is None
    assert ("for comparison, at most" in words) == (setting == "always")


@pytest.mark.parametrize(
    ("before", "now"), [(True, "first"), (False, "never"), ("always", "always")]
)
def test_settings_of_earlier_versions_are_understood(before: Any, now: str) -> None:
    assert (
        parse({"finetune": {"baseline": before}}, "params.yaml").finetune.baseline
        == now
    )


def test_as_a_recipe_of_its_own_it_is_a_candidate_and_nothing_is_remembered(
    tmp_path: Path,
) -> None:
    record = run(tmp_path, ONCE.model_copy(update={"recipes": ("head", "scratch")}))
    assert record.candidates == ("head", "scratch")
    assert not record.candidate("scratch").baseline
    assert not (tmp_path / "baseline").exists()


# --- again ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("engine", 0),
        ("labels", ["red", "green"]),
        ("architecture", "other"),
        ("input", {"size": 9}),
        ("baseline_steps", None),
    ],
)
def test_what_it_cannot_be_compared_under_has_it_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition: str, value: Any
) -> None:
    run(tmp_path)
    forget_candidates(tmp_path)
    usual = baseline.Comparison.conditions.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(
        baseline.Comparison,
        "conditions",
        property(lambda self: {**usual(self), condition: value}),
    )
    words = RecordingConsole()
    run(tmp_path, console=words)
    assert "it is trained again" in words
    assert "for comparison, at most" in words
    assert len(yaml.safe_load((tmp_path / "baseline.lock").read_text())) == 2


def test_each_condition_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    other = BACKBONE.model_copy(update={"architecture": "tiny2"})
    run(
        tmp_path,
        ONCE.model_copy(update={"baseline_steps": 20}),
        backbone=other,
        console=(words := RecordingConsole()),
    )
    assert "the architecture, finetune.baseline_steps changed" in words


def test_too_few_test_examples_that_it_does_not_know_have_it_trained_again(
    tmp_path: Path,
) -> None:
    run(tmp_path)
    forget_candidates(tmp_path)
    path = tmp_path / "baseline" / members.FILE
    table = manifest.read(tmp_path / "split" / "manifest.parquet")
    members.write_members(
        members.members_of_split(table).set_column(
            2, "split", pa.array(["train"] * len(table))
        ),
        path,
    )
    words = RecordingConsole()
    run(tmp_path, console=words)
    assert "it had learnt from all but 0 of 8 test examples; 8 are needed" in words
    assert pc.sum(pc.equal(members.read_members(path)["split"], "test")).as_py() in (
        0,
        None,
    )
    forget_candidates(tmp_path)
    run(tmp_path, console=(words := RecordingConsole()))
    assert "scratch: remembered" in words, "trained again once, not for ever"


def test_what_it_learnt_from_is_left_out_with_all_that_belongs_to_it() -> None:
    rows = [
        ("a", None, "a"),
        ("b", "one", "b"),
        ("c", "two", "c"),
        ("d", None, "d"),
        ("e", None, "b"),
        ("f", None, "a"),
    ]
    test = pa.Table.from_pylist(
        [dict(zip(("id", "group", "unit"), row, strict=True)) for row in rows]
    )
    learnt = [
        ("a", None, "train", "x"),
        ("z", "one", "val", "x"),
        ("y", "two", "test", "x"),
    ]
    known = pa.Table.from_pylist(
        [dict(zip(members.SCHEMA.names, row, strict=True)) for row in learnt],
        members.SCHEMA,
    )
    assert members.unseen_rows(test, known).tolist() == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


# --- kills ----------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("point", ["before-baseline", "after-baseline"])
def test_a_kill_before_it_is_remembered_does_not_train_it_twice(
    tmp_path: Path, point: str
) -> None:
    code, _ = elsewhere(run_in_another_process, tmp_path, env={"THAW_CRASH_AT": point})
    assert code == -9, "the kill never happened"
    words = RecordingConsole()
    record = run(tmp_path, console=words)
    assert "for comparison, at most" not in words
    assert record.baseline is not None
    assert len(yaml.safe_load((tmp_path / "baseline.lock").read_text())) == 1


# --- pinned ---------------------------------------------------------------------------
@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    """A workspace under DVC in which it was trained and pushed."""
    root = tmp_path / "ws"
    root.mkdir()
    initialise(root, "remote")
    (root / "params.yaml").write_text(to_yaml(Config()))
    upgrade(Workspace(root))
    data(root)
    Versioning(root).add_data()
    run(root)
    return root


def test_it_is_pinned_and_brought_back_by_dvc(pinned: Path) -> None:
    assert "baseline" in (pinned / "baseline.dvc").read_text()
    (entry,) = yaml.safe_load((pinned / "baseline.lock").read_text()).values()
    assert entry["data"] == Versioning(pinned).data_version().md5
    sha = manifest.sha256(pinned / "baseline" / "candidate" / "model.safetensors")
    forget_candidates(pinned)
    shutil.rmtree(pinned / "baseline")
    record = run(pinned, console=(words := RecordingConsole()))
    assert scratch_sha(record) == sha == entry["model_sha256"]
    assert "for comparison, at most" not in words


@pytest.mark.slow
def test_what_is_pinned_now_replaces_what_was_pinned_before(pinned: Path) -> None:
    pin, sha = (pinned / "baseline.dvc").read_bytes(), scratch_sha(run(pinned))
    (pinned / "baseline.dvc").unlink()
    other = ONCE.model_copy(update={"baseline_steps": 1, "seed": 5})
    assert scratch_sha(run(pinned, other)) != sha
    (pinned / "baseline.dvc").write_bytes(pin)
    forget_candidates(pinned)
    assert scratch_sha(run(pinned)) == sha


@pytest.mark.slow
def test_a_kill_before_a_new_one_is_pinned_has_the_next_run_pin_it(
    pinned: Path,
) -> None:
    before = (pinned / "baseline.dvc").read_bytes()
    code, _ = elsewhere(
        train_another_in_another_process,
        pinned,
        env={"THAW_CRASH_AT": "before-pinning"},
    )
    assert code == -9, "the kill never happened"
    assert (pinned / "baseline.dvc").read_bytes() == before
    forget_candidates(pinned)
    record = run(pinned, ANOTHER, console=(words := RecordingConsole()))
    assert "for comparison, at most" not in words
    shutil.rmtree(pinned / "baseline")
    assert scratch_sha(run(pinned, ANOTHER)) == scratch_sha(record)


def test_one_that_cannot_be_restored_stops_by_name(pinned: Path) -> None:
    shutil.rmtree(pinned / "baseline")
    shutil.rmtree(pinned / ".dvc" / "cache")
    with pytest.raises(TrainingError, match="or remove baseline") as fault:
        run(pinned)
    assert "baseline.dvc tracks it" in fault.value.found
    (pinned / "baseline.dvc").unlink()
    assert run(pinned).baseline is not None


def test_a_damaged_one_stops_by_name(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "baseline" / "candidate" / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match="damaged"):
        run(tmp_path)
