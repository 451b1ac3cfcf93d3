"""Running one step by name, in a workspace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline import dvc_yaml
from pipeline.config import Config, SplitConfig, to_yaml
from pipeline.context import Context, NoTracker, SilentConsole
from pipeline.errors import ConfigError, VersioningError
from pipeline.records import Record, SplitRecord, ValidateRecord
from pipeline.step_table import STEPS, StepEntry, steps_before
from pipeline.steps import run as steps
from pipeline.steps.summary import summarize
from pipeline.task_catalog import load_object
from pipeline.upgrade import upgrade
from pipeline.workspace import Workspace, lock

VALIDATED = ValidateRecord(
    manifest_sha256="",
    labels=("a", "b"),
    examples=0,
    files=0,
    aliases=0,
    quarantined=0,
    per_class={},
    converted={},
    findings=(),
    checks=1,
)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").write_text(to_yaml(Config()))
    made = Workspace(tmp_path)
    upgrade(made)  # dvc.yaml, and the lock files that stages depend on
    return made


def run(place: Workspace, name: str) -> object:
    return steps.run_step(
        place,
        name,
        console=SilentConsole(),
        tracker=NoTracker(),
        run_dir=place.scratch / "side",
    )


def fake(seen: list[object]) -> Callable[..., SplitRecord]:
    def split(
        config: SplitConfig, validated: ValidateRecord, out: Path, context: Context
    ) -> SplitRecord:
        seen.extend(
            [
                config,
                validated.labels,
                list(out.iterdir()),
                context.data,
                context.run_dir.is_dir(),
            ]
        )
        return SplitRecord(
            manifest_sha256="",
            labels=validated.labels,
            counts={},
            new=0,
            left_out=(),
            warnings=(),
            near_duplicate_groups=0,
        ).save(out)

    return split


def test_a_step_gets_its_settings_earlier_records_and_an_empty_folder(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    VALIDATED.save(place.output("validate"))
    old = place.output("split") / "deep" / "old"
    old.parent.mkdir(parents=True)
    cached = place.root / "cached"
    cached.write_text("remembered")
    cached.chmod(0o444)
    old.hardlink_to(cached)
    seen: list[object] = []
    monkeypatch.setattr("pipeline.steps.split.split", fake(seen))
    record = run(place, "split")
    assert seen == [SplitConfig(), ("a", "b"), [], place.root / "data", True]
    assert record == steps.load_record(place, "split")
    assert cached.read_text() == "remembered"


def test_a_step_before_its_time_says_what_is_missing_and_removes_nothing(
    place: Workspace,
) -> None:
    kept = place.output("split") / "kept"
    kept.parent.mkdir(parents=True)
    kept.write_text("")
    with pytest.raises(VersioningError, match="validate"):
        run(place, "split")
    assert kept.exists()


def test_there_is_no_such_step(place: Workspace) -> None:
    with pytest.raises(ConfigError, match="one of validate, split"):
        run(place, "deploy")


def test_every_step_comes_after_those_it_reads_and_its_code_is_there() -> None:
    earlier: list[str] = []
    for name, entry in STEPS.items():
        assert set(entry.reads) <= set(earlier)
        assert {setting.split(".")[0] for setting in entry.params} <= set(
            Config.model_fields
        )
        for reference in filter(None, (entry.function, entry.summary, entry.refresh)):
            assert callable(load_object(reference)), reference
        earlier.append(name)


def test_a_step_added_to_the_table_is_a_stage_and_runs(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = StepEntry(
        function="test_run:count_examples",
        record=CountRecord,
        settings=("split",),
        summary="test_run:summarize_count",
        reads=("validate",),
        params=("split",),
    )
    monkeypatch.setitem(STEPS, "count", added)
    monkeypatch.setattr(dvc_yaml, "DVC_STAGES", (*dvc_yaml.DVC_STAGES, "count"))
    monkeypatch.setitem(sys.modules, "test_run", sys.modules[__name__])
    VALIDATED.save(place.output("validate"))
    assert upgrade(place) == [
        "dvc.yaml: stages count rewritten as this version of Thaw needs them"
    ]
    stages = yaml.safe_load((place.root / "dvc.yaml").read_text())["stages"]
    assert stages["count"] == {
        "cmd": "thaw step count",
        "deps": ["artifacts/validate"],
        "params": ["split"],
        "outs": ["artifacts/count"],
    }
    assert steps_before("count") == ["validate"]
    record = run(place, "count")
    assert record == steps.load_record(place, "count")
    assert summarize(steps.load_record(place, "count")) == "2 labels"


class CountRecord(Record):
    labels: int


def count_examples(
    config: SplitConfig, validated: ValidateRecord, out: Path, context: Context
) -> CountRecord:
    return CountRecord(labels=len(validated.labels)).save(out)


def summarize_count(record: CountRecord) -> str:
    return f"{record.labels} labels"


def python(place: Workspace, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "pipeline", *arguments]
    return subprocess.run(
        command,
        cwd=place.root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_from_the_shell_an_error_is_its_text_and_exit_code_2(place: Workspace) -> None:
    (place.root / "queue.py").write_text(
        "raise RuntimeError('the workspace was imported')"
    )
    (place.root / "pipeline").mkdir()
    (place.root / "pipeline" / "__init__.py").write_text(
        "raise RuntimeError('the workspace was imported')"
    )
    done = python(place, "split")
    assert done.returncode == 2
    assert done.stderr.startswith("versioning: ")
    assert "Traceback" not in done.stderr
    assert python(place, "nothing").returncode == 2


def test_from_the_shell_a_workspace_in_use_is_left_alone(place: Workspace) -> None:
    with lock(place):
        done = python(place, "split")
    assert done.returncode == 2
    assert "in use by process" in done.stderr


def test_the_disk_that_decoded_examples_may_take_is_a_setting_and_no_input_of_evaluate(
    place: Workspace,
) -> None:
    config = Config.model_validate({"finetune": {"plan": {"pixel_cache_gb": 3.5}}})
    surroundings = steps.make_context(
        place, config, SilentConsole(), NoTracker(), place.scratch / "side"
    )
    assert surroundings.pixel_cache_gb == 3.5
    assert not any(
        setting.startswith("finetune") for setting in STEPS["evaluate"].params
    )
