"""Versioning by DVC: freshness with reasons, restoring, committing, data and ledger,
locks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import run_dvc
from pipeline import step_table
from pipeline.config import parse, to_yaml
from pipeline.errors import DataError, VersioningError, WorkspaceError
from pipeline.upgrade import upgrade
from pipeline.versioning import Versioning, initialise
from pipeline.workspace import Workspace, lock

STEPS = {
    "validate": ("data",),
    "backbone": (),
    "finetune": ("artifacts/validate", "artifacts/backbone"),
}
SETTINGS = {"validate": "task", "backbone": "backbone", "finetune": "finetune"}
PARAMS = """\
engine: 1
task: {name: image-classification}
data: {path: data}
backbone: {name: torchvision/resnet18}
finetune: {epochs: 15, lr: 0.001}
"""


def make(root: Path) -> Path:
    """A workspace of three tiny stages that copy what they read, initialised and pinned
    but never run.
    """
    root.mkdir(parents=True, exist_ok=True)
    initialise(root, "remote")
    (root / "params.yaml").write_text(PARAMS)
    lines = ["stages:"]
    for name, deps in STEPS.items():
        lines += [
            f"  {name}:",
            f"    cmd: mkdir -p artifacts/{name} && cat {' '.join(f'{d}/*' for d in deps)} params.yaml > artifacts/{name}/record.json",
        ]
        lines += [f"    deps: [{', '.join(deps)}]"] if deps else []
        lines += [
            f"    params: [engine, {SETTINGS[name]}]",
            f"    outs: [artifacts/{name}]",
        ]
    (root / "dvc.yaml").write_text("\n".join(lines) + "\n")
    (root / "data").mkdir()
    for number in range(3):
        (root / "data" / f"{number}.txt").write_text(f"{number}\n")
    Versioning(root).add_data()
    return root


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace with every stage run once through Versioning."""
    root = make(tmp_path_factory.mktemp("pristine") / "ws")
    for name in STEPS:
        run(root, name)
    return root


@pytest.fixture
def ws(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "ws", symlinks=True))


def run(root: Path, name: str) -> None:
    versioning = Versioning(root)
    before = versioning.snapshot(name)
    versioning.clear(name)
    produce(root, name)
    versioning.commit(name, before)


def produce(root: Path, name: str) -> None:
    text = "".join(
        file.read_text()
        for dep in STEPS[name]
        for file in sorted((root / dep).glob("*"))
    )
    out = root / "artifacts" / name
    out.mkdir(parents=True, exist_ok=True)
    (out / "record.json").write_text(text + (root / "params.yaml").read_text())


def edit(root: Path, old: str, new: str) -> None:
    text = (root / "params.yaml").read_text()
    assert old in text
    (root / "params.yaml").write_text(text.replace(old, new))


def stale(root: Path) -> dict[str, tuple[str, ...]]:
    return {
        name: state.reasons
        for name, state in Versioning(root).states().items()
        if not state.fresh
    }


def dvc(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dvc")), *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_stages_never_run_say_so(tmp_path: Path) -> None:
    states = Versioning(make(tmp_path / "ws")).states()
    assert list(states) == list(STEPS)
    assert {state.reasons for state in states.values()} == {("never run",)}
    assert states["finetune"].stale_before == ("validate", "backbone")


@pytest.mark.slow
def test_after_a_run_all_is_fresh_and_dvc_repro_does_nothing(ws: Path) -> None:
    assert stale(ws) == {}
    before = (ws / "dvc.lock").read_bytes()
    assert "Running stage" not in dvc(ws, "repro")
    assert (ws / "dvc.lock").read_bytes() == before


def test_why_a_stage_is_stale(ws: Path) -> None:
    edit(ws, "epochs: 15", "epochs: 20")
    assert stale(ws) == {"finetune": ("params.yaml: finetune.epochs 15 → 20",)}
    edit(ws, "engine: 1", "engine: 2")
    assert stale(ws)["backbone"] == ("engine changed",)
    (ws / "data" / "new.txt").write_text("new")
    (ws / "data" / "0.txt").unlink()
    assert stale(ws)["validate"] == (
        "data changed: 1 added, 1 removed",
        "engine changed",
    )
    shutil.rmtree(ws / "artifacts" / "backbone")
    assert "output artifacts/backbone is missing" in stale(ws)["backbone"]


def test_a_setting_changed_back_restores_without_running(ws: Path) -> None:
    versioning = Versioning(ws)
    edit(ws, "epochs: 15", "epochs: 20")
    assert not versioning.restore("finetune")
    run(ws, "finetune")
    assert "20" in (ws / "artifacts/finetune/record.json").read_text()
    edit(ws, "epochs: 20", "epochs: 15")
    assert versioning.restore("finetune")
    assert "epochs: 15" in (ws / "artifacts/finetune/record.json").read_text()
    assert stale(ws) == {}


@pytest.mark.parametrize(
    ("stage", "setting", "old", "new"),
    [
        ("backbone", "backbone.size", "null", "96"),
        ("validate", "task.input.size", '"auto"', "96"),
        ("validate", "task.annotations.first_pixel", "1", "0"),
    ],
)
def test_a_result_of_another_setting_is_never_restored(
    tmp_path: Path, stage: str, setting: str, old: str, new: str
) -> None:
    """The name `size` among them, which DVC's run-cache does not look at by itself."""
    initialise(tmp_path, "remote")
    config = parse({"task": {"name": "object-detection"}}, "a test")
    (tmp_path / "params.yaml").write_text(to_yaml(config))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.txt").write_text("1")
    upgrade(Workspace(tmp_path))
    versioning = Versioning(tmp_path)
    before = versioning.snapshot(stage)
    out = tmp_path / "artifacts" / stage
    out.mkdir(parents=True)
    (out / "record.json").write_text(old)
    versioning.commit(stage, before)
    assert versioning.state(stage).fresh
    name = setting.rpartition(".")[2]
    edit(tmp_path, f"  {name}: {old}\n", f"  {name}: {new}\n")
    versioning = Versioning(tmp_path)
    assert versioning.state(stage).reasons == (f"params.yaml: {setting} {old} → {new}",)
    assert not versioning.restore(stage)


def test_deleted_outputs_come_back_from_the_cache(ws: Path) -> None:
    before = (ws / "artifacts/validate/record.json").read_text()
    shutil.rmtree(ws / "artifacts")
    assert all(Versioning(ws).restore(name) for name in STEPS)
    assert (ws / "artifacts/validate/record.json").read_text() == before
    assert stale(ws) == {}


def test_an_output_edited_by_hand_is_put_right(ws: Path) -> None:
    path = ws / "artifacts/validate/record.json"
    path.unlink()
    path.write_text("tampered")
    assert stale(ws)["validate"] == ("output artifacts/validate changed",)
    assert Versioning(ws).restore("validate")
    assert path.read_text() != "tampered"


def test_a_lost_cache_is_stale_and_no_error(ws: Path) -> None:
    shutil.rmtree(ws / "artifacts" / "finetune")
    shutil.rmtree(ws / ".dvc" / "cache" / "files")
    assert not Versioning(ws).restore("finetune")
    run(ws, "validate")  # and running still works


def test_a_lost_cache_is_refilled_from_outputs_that_are_whole(ws: Path) -> None:
    shutil.rmtree(ws / ".dvc" / "cache" / "files")
    assert stale(ws)["backbone"] == ("output artifacts/backbone is not in DVC's cache",)
    assert Versioning(ws).restore("backbone")
    assert "backbone" not in stale(ws)


def test_outputs_damaged_in_the_cache_are_stale_and_do_not_come_back(ws: Path) -> None:
    shutil.rmtree(ws / "artifacts" / "finetune")
    damage(ws, "lr: 0.001")
    assert not Versioning(ws).restore("finetune")
    run(ws, "finetune")
    assert "finetune" not in stale(ws)
    shutil.rmtree(ws / "artifacts" / "finetune")
    assert Versioning(ws).restore("finetune")
    assert "lr: 0.001" in (ws / "artifacts/finetune/record.json").read_text()


def damage(root: Path, containing: str) -> None:
    """Another content, as long, for every cached file that contains the text; DVC is
    not to notice by size or time.
    """
    hit = 0
    for file in [
        file for file in (root / ".dvc/cache/files").rglob("*") if file.is_file()
    ]:
        text = file.read_text()
        if containing in text:
            facts = file.stat()
            file.unlink()
            file.write_text(text.replace(containing, "#" * len(containing)))
            file.chmod(facts.st_mode)
            os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            hit += 1
    assert hit


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs: 15", "epochs: 16", "finetune.epochs 15 → 16"),
        ("engine: 1", "engine: 2", "engine"),
    ],
)
def test_settings_edited_during_a_step_commit_nothing(
    ws: Path, old: str, new: str, said: str
) -> None:
    versioning, before = Versioning(ws), (ws / "dvc.lock").read_bytes()
    snapshot = versioning.snapshot("finetune")
    versioning.clear("finetune")
    edit(ws, old, new)
    produce(ws, "finetune")
    with pytest.raises(VersioningError, match=said):
        versioning.commit("finetune", snapshot)
    assert (ws / "dvc.lock").read_bytes() == before


def test_data_edited_during_a_step_commits_nothing(ws: Path) -> None:
    versioning = Versioning(ws)
    snapshot = versioning.snapshot("validate")
    versioning.clear("validate")
    (ws / "data" / "late.txt").write_text("late")
    produce(ws, "validate")
    with pytest.raises(VersioningError, match="data changed"):
        versioning.commit("validate", snapshot)


@pytest.fixture
def lock_file(ws: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file that the backbone stage depends on and may fill in."""
    entry = step_table.LockFile("some.lock", "backbone")
    monkeypatch.setattr(step_table, "LOCK_FILES", (entry,))
    path = ws / entry.file
    path.write_text(entry.content)
    stages = (ws / "dvc.yaml").read_text()
    (ws / "dvc.yaml").write_text(
        stages.replace("  backbone:\n", "  backbone:\n    deps: [some.lock]\n")
    )
    return path


@pytest.mark.slow
def test_a_lock_file_that_the_step_filled_in_is_committed_as_it_is_now(
    ws: Path, lock_file: Path
) -> None:
    versioning = Versioning(ws)
    assert set(stale(ws)) == {"backbone"}
    for content in ('{"a": 1}', '{"a": 1, "b": 2}'):
        snapshot = versioning.snapshot("backbone")
        versioning.clear("backbone")
        produce(ws, "backbone")
        lock_file.write_text(content)
        versioning.commit("backbone", snapshot)
        assert stale(ws) == {}
        assert "Running stage" not in dvc(ws, "repro")


@pytest.mark.parametrize("content", ['{"a": 2}', "{}", "neither JSON nor: YAML: this"])
def test_a_lock_file_that_lost_what_it_held_during_a_step_commits_nothing(
    ws: Path, lock_file: Path, content: str
) -> None:
    versioning = Versioning(ws)
    lock_file.write_text('{"a": 1}')
    snapshot = versioning.snapshot("backbone")
    versioning.clear("backbone")
    produce(ws, "backbone")
    lock_file.write_text(content)
    with pytest.raises(VersioningError, match=r"some\.lock changed"):
        versioning.commit("backbone", snapshot)


def test_outputs_this_run_did_not_make_commit_nothing(ws: Path) -> None:
    versioning = Versioning(ws)
    with pytest.raises(VersioningError, match="there before the run"):
        versioning.commit("validate", versioning.snapshot("validate"))
    versioning.clear("validate")
    snapshot = versioning.snapshot("validate")
    with pytest.raises(VersioningError, match="missing or empty"):
        versioning.commit("validate", snapshot)
    (ws / "artifacts/validate").mkdir()
    with pytest.raises(VersioningError, match="missing or empty"):
        versioning.commit("validate", snapshot)


def test_clearing_leaves_the_cache_alone(ws: Path) -> None:
    versioning = Versioning(ws)
    versioning.clear("finetune")
    assert not (ws / "artifacts/finetune").exists()
    assert versioning.restore("finetune")


def test_a_missing_section_is_a_fault_that_names_it(ws: Path) -> None:
    edit(ws, "backbone: {name: torchvision/resnet18}\n", "")
    with pytest.raises(VersioningError, match="backbone"):
        Versioning(ws).snapshot("backbone")


# --- data -----------------------------------------------------------------------------


def test_the_version_of_the_data(ws: Path) -> None:
    versioning = Versioning(ws)
    clean = versioning.data_version()
    assert (clean.files, clean.size, clean.dirty, clean.git_revision) == (
        3,
        6,
        False,
        None,
    )
    assert clean.md5.endswith(".dir")
    (ws / "data" / "new.txt").write_text("new")
    dirty = versioning.data_version()
    assert (dirty.files, dirty.dirty) == (4, True)
    assert "data.dvc" in dirty.dirty_reason
    versioning.add_data()
    assert versioning.data_version() == dirty.model_copy(
        update={"dirty": False, "dirty_reason": ""}
    )


def test_missing_data_comes_from_the_cache_then_from_the_remote(ws: Path) -> None:
    run_dvc("push", "data.dvc", cwd=ws)
    for cached in (True, False):
        shutil.rmtree(ws / "data")
        if not cached:
            shutil.rmtree(ws / ".dvc" / "cache")
        Versioning(ws).update_data()
        assert sorted(path.name for path in (ws / "data").iterdir()) == [
            "0.txt",
            "1.txt",
            "2.txt",
        ]


def test_data_that_nowhere_is_names_path_hash_and_remote(ws: Path) -> None:
    md5 = Versioning(ws).data_version().md5
    shutil.rmtree(ws / "data")
    shutil.rmtree(ws / ".dvc" / "cache")
    with pytest.raises(VersioningError) as caught:
        Versioning(ws).update_data()
    assert all(part in str(caught.value) for part in (str(ws / "data"), md5, "remote"))


def test_damaged_data_is_mended_from_the_remote_or_refused(ws: Path) -> None:
    run_dvc("push", "data.dvc", cwd=ws)
    shutil.rmtree(ws / "data")
    damage(ws, "2\n")
    Versioning(ws).update_data()
    assert (ws / "data" / "2.txt").read_text() == "2\n"
    shutil.rmtree(ws / "data")
    shutil.rmtree(ws / "remote")
    damage(ws, "2\n")
    with pytest.raises(VersioningError) as caught:
        Versioning(ws).update_data()
    assert caught.value.details == ("data/2.txt",)


def test_data_put_back_by_hand_after_a_failure_stay(ws: Path) -> None:
    shutil.copytree(ws / "data", ws / "mine")
    (ws / "mine" / "new.txt").write_text("new")
    shutil.rmtree(ws / "data")
    shutil.rmtree(ws / ".dvc" / "cache")
    with pytest.raises(VersioningError, match="bring data back"):
        Versioning(ws).update_data()
    shutil.copytree(ws / "mine", ws / "data")
    assert Versioning(ws).update_data() == []
    assert sorted(path.name for path in (ws / "data").iterdir()) == [
        "0.txt",
        "1.txt",
        "2.txt",
        "new.txt",
    ]


def test_what_dvc_cannot_hash_is_named_before_it_is_asked(ws: Path) -> None:
    data = ws / "data"
    os.mkfifo(data / "pipe")
    (data / "gone").symlink_to("nowhere")
    (data / "loop").symlink_to("loop")
    (data / "up").symlink_to("..")
    (data / os.fsdecode(b"caf\xe9.png")).write_text("x")
    for ask in (
        lambda: Versioning(ws).states(),
        lambda: Versioning(ws).data_version(),
        lambda: Versioning(ws).add_data(),
    ):
        with pytest.raises(DataError) as caught:
            ask()
        assert [line.partition(":")[0] for line in caught.value.details] == [
            "caf\\udce9.png",
            "gone",
            "loop",
            "pipe",
            "up",
        ]


def test_data_that_nothing_pins_says_how_to_bring_it(ws: Path) -> None:
    shutil.rmtree(ws / "data")
    (ws / "data.dvc").unlink()
    with pytest.raises(VersioningError, match="dvc add data"):
        Versioning(ws).update_data()


# --- Git ------------------------------------------------------------------------------


def test_inside_another_git_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    root = make(tmp_path / "below" / "ws")
    versioning = Versioning(root)
    assert versioning.data_version().git_revision is None
    assert versioning.git_state(versioning.data_version()) is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "data")
    version = versioning.data_version()
    assert (version.git_revision, version.dirty) == (
        git(tmp_path, "rev-parse", "HEAD").strip(),
        False,
    )
    (root / "data" / "new.txt").write_text("new")
    versioning.add_data()
    assert versioning.data_version().dirty_reason == "data.dvc is not committed to Git"
    run(root, "validate")
    assert "validate" not in stale(root)
    status = git(tmp_path, "status", "--porcelain", "--untracked-files=all")
    assert "artifacts/validate" not in status
    state = versioning.git_state(version)
    assert (state.revision, state.dirty) == (version.git_revision, True)
    assert "below/ws/data.dvc" in state.changed
    git(tmp_path, "commit", "-qam", "more data")
    clean = versioning.git_state(versioning.data_version())
    assert (clean.dirty, clean.changed) == (False, ())


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=True
    ).stdout


# --- locks ----------------------------------------------------------------------------


@contextlib.contextmanager
def process(code: str) -> Iterator[subprocess.Popen[str]]:
    """Another Python that runs `code`, prints when it is ready and then waits to be
    ended.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", code + "\nprint('ready', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.slow
def test_a_dvc_that_stays_locked_is_named(ws: Path) -> None:
    code = f"import zc.lockfile; held = zc.lockfile.LockFile({str(ws / '.dvc/tmp/lock')!r})"
    with (
        process(code) as child,
        pytest.raises(VersioningError, match=f"PID {child.pid}"),
    ):
        Versioning(ws, patience=0.1).states()
    assert stale(ws) == {}


def test_a_second_run_names_the_first(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    code = f"""
from pathlib import Path
from pipeline.workspace import Workspace, lock
held = lock(Workspace(Path({str(tmp_path)!r}))); held.__enter__()"""
    with process(code) as child:
        with pytest.raises(WorkspaceError) as caught, lock(place):
            pass
        assert f"process {child.pid} since" in caught.value.found
        assert "-c" in caught.value.found
        child.send_signal(signal.SIGKILL)
        child.wait()
        # Left behind.
        assert (
            json.loads((tmp_path / ".thaw" / "run.json").read_text())["pid"]
            == child.pid
        )
        with lock(place):  # and harmless
            assert (
                json.loads((tmp_path / ".thaw" / "run.json").read_text())["pid"]
                == os.getpid()
            )
    assert not (tmp_path / ".thaw" / "run.json").exists()
