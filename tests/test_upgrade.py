"""A workspace made by an earlier version: what is rewritten, what stays, and what
refuses until then.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from commands import Thaw, change
from pipeline import dvc_yaml, step_table
from pipeline.config import ENGINE, Config, load, to_yaml
from pipeline.context import SilentConsole
from pipeline.errors import ConfigError, WorkspaceError
from pipeline.step_table import DVC_STAGES, LockFile
from pipeline.steps.run import run_alone
from pipeline.upgrade import list_changes, upgrade
from pipeline.workspace import Workspace, lock

# What an earlier version might have written, and a user added to.
EARLIER = """\
# mine
vars:
  - extra.yaml   # of my own

stages:
  # what is there
  validate:
    cmd: uv run thaw step validate
    desc: |
      looks at the data

      twice
    deps: [ "${data.path}" ]   # one line
    params: [task.input.size, task, data, engine]
    outs:
      - artifacts/validate

  mine:
    cmd: echo "mine" > mine.txt
    outs:
    - mine.txt:
        cache: false
  # after mine
  backbone:
    cmd: thaw step backbone
    deps:
      - weights.old
    params:
      - engine
    # about outs
    outs:
      - artifacts/backbone
    frozen: false
  split:
    params:
      - engine
      - split
    cmd: thaw step divide
    outs:
      - artifacts/split
# the end
plots: []
"""


def stages_now() -> dvc_yaml.Stages:
    """What this version writes of a workspace with the default settings."""
    return dvc_yaml.stages_of(yaml.safe_load(to_yaml(Config())))


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").write_text(to_yaml(Config()))
    workspace = Workspace(tmp_path)
    upgrade(workspace)
    return workspace


@pytest.fixture
def some_lock(monkeypatch: pytest.MonkeyPatch) -> LockFile:
    """A lock file that a later version brings."""
    entry = LockFile("some.lock", "backbone")
    monkeypatch.setattr(step_table, "LOCK_FILES", (*step_table.LOCK_FILES, entry))
    return entry


def test_a_new_workspace_has_nothing_to_upgrade(place: Workspace) -> None:
    assert list_changes(place) == []


def test_stages_of_an_earlier_version_are_rewritten_and_everything_else_stays(
    some_lock: LockFile,
) -> None:
    text = dvc_yaml.update(EARLIER, stages_now())
    stages = yaml.safe_load(text)["stages"]
    assert dvc_yaml.outdated_stages(text, stages_now()) == []
    assert some_lock.file in stages["backbone"]["deps"]
    assert "weights.old" not in text
    kept = [
        line
        for line in EARLIER.splitlines()
        if line not in ("      - weights.old", "    cmd: thaw step divide")
    ]
    left = iter(text.splitlines())
    assert all(line in left for line in kept), "a line of the user's is gone or moved"
    before, after = (yaml.safe_load(each) for each in (EARLIER, text))
    assert stages["mine"] == before["stages"]["mine"]
    assert stages["validate"] == before["stages"]["validate"]
    assert {key: value for key, value in after.items() if key != "stages"} == {
        "vars": ["extra.yaml"],
        "plots": [],
    }
    assert set(stages) == {*DVC_STAGES, "mine"}
    assert dvc_yaml.update(text, stages_now()) == text


@pytest.mark.parametrize("name", list(DVC_STAGES))
def test_a_stage_that_is_missing_comes_back_in_its_place(name: str) -> None:
    whole = yaml.safe_load(dvc_yaml.generate(stages_now()))
    without = {
        "stages": {key: value for key, value in whole["stages"].items() if key != name}
    }
    text = dvc_yaml.update(yaml.safe_dump(without, sort_keys=False), stages_now())
    assert yaml.safe_load(text) == whole
    assert list(yaml.safe_load(text)["stages"]) == list(whole["stages"])


@pytest.mark.parametrize(
    "text", ["stages: {backbone: {cmd: x}}\n", "stages: [", "a: 1\n", "", "stages:\n"]
)
def test_a_dvc_yaml_that_cannot_be_edited_is_refused_by_name(text: str) -> None:
    with pytest.raises(WorkspaceError, match=r"dvc\.yaml"):
        dvc_yaml.update(text, stages_now())


def test_line_endings_of_another_system_stay(some_lock: LockFile) -> None:
    text = dvc_yaml.update(EARLIER.replace("\n", "\r\n"), stages_now())
    assert "  mine:\r\n" in text
    assert some_lock.file in yaml.safe_load(text)["stages"]["backbone"]["deps"]


def test_lock_files_that_stages_depend_on_are_made_where_they_are_missing(
    place: Workspace, some_lock: LockFile
) -> None:
    said = "\n".join(upgrade(place))
    assert (place.root / some_lock.file).read_text() == some_lock.content
    assert some_lock.file in said
    assert "stages backbone" in said
    (place.root / some_lock.file).write_text('{"a": 1}')
    assert upgrade(place) == []
    assert (place.root / some_lock.file).read_text() == '{"a": 1}'


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ("{}\n", '{"a": 1}', True),
        ("# nothing yet\n", "a: {b: 2}", True),
        ('{"a": 1}', '{"b": 2, "a": 1}', True),
        ('{"a": 1}', '{"a": 2}', False),
        ('{"a": 1}', "{}", False),
        ('{"a": 1}', "", False),
        ("{}", "[1]", False),
        ("{}", "{", False),
    ],
)
def test_a_lock_file_may_only_grow(before: str, after: str, allowed: bool) -> None:
    assert dvc_yaml.only_grew(before.encode(), after.encode()) is allowed


# --- engine ---------------------------------------------------------------------------


def test_an_older_engine_is_raised_and_every_other_byte_stays(place: Workspace) -> None:
    params = place.root / "params.yaml"
    earlier = "# mine\r\n" + params.read_text().replace(
        f"engine: {ENGINE}  #", "engine:   1   # mine, and"
    )
    params.write_bytes(earlier.encode())
    said = upgrade(place)
    assert params.read_bytes().decode() == earlier.replace(
        "engine:   1   #", f"engine:   {ENGINE}   #"
    )
    assert said == [f"params.yaml: engine 1 → {ENGINE}, so every step runs anew"]
    assert load(params) == Config()
    assert upgrade(place) == []


def test_a_byte_order_mark_before_the_engine_stays(place: Workspace) -> None:
    params = place.root / "params.yaml"
    settings = params.read_text()
    rest = settings[settings.index(f"engine: {ENGINE}") + len(f"engine: {ENGINE}") :]
    params.write_text(f"\ufeffengine: 1{rest}")
    upgrade(place)
    assert params.read_text() == f"\ufeffengine: {ENGINE}{rest}"
    assert load(params) == Config()


def test_a_step_alone_refuses_a_workspace_that_is_outdated(place: Workspace) -> None:
    change(place.root, f"engine: {ENGINE}", "engine: 1")
    (place.root / "dvc.yaml").write_text(
        dvc_yaml.generate(stages_now()).replace("      - split\n", "")
    )
    with pytest.raises(WorkspaceError, match="thaw run") as caught:
        run_alone(place, "backbone", console=SilentConsole())
    assert [line.partition(":")[0] for line in caught.value.details] == [
        "params.yaml",
        "dvc.yaml",
    ]
    assert not place.output("backbone").exists()


def test_a_newer_engine_is_refused(place: Workspace) -> None:
    change(place.root, f"engine: {ENGINE}", f"engine: {ENGINE + 1}\nnew_section: {{}}")
    with pytest.raises(ConfigError, match="newer version"):
        list_changes(place)
    with pytest.raises(ConfigError, match="newer version"):
        run_alone(place, "backbone", console=SilentConsole())


@pytest.mark.slow
def test_thaw_run_upgrades_and_says_so(finished: Path, thaw: Thaw) -> None:
    change(finished, f"engine: {ENGINE}", "engine: 1")
    (finished / "dvc.yaml").write_text(
        dvc_yaml.generate(stages_now()).replace("      - evaluate\n", "")
    )
    assert "engine 1 → " in thaw("status", cwd=finished).stdout
    refused = thaw("step", "evaluate", cwd=finished, check=False)
    assert refused.returncode == 2
    assert "thaw run" in refused.stderr
    with lock(Workspace(finished)):
        assert "in use by" in thaw("run", cwd=finished, check=False).stderr
    done = thaw("run", cwd=finished)
    assert f"params.yaml: engine 1 → {ENGINE}" in done.stdout
    assert "dvc.yaml: stages evaluate" in done.stdout
    assert "nothing changed" in done.stdout  # the outputs are those of this engine
