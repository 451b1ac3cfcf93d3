"""New data reach a run by `git pull`, seen from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from commands import Thaw
from consoles import RecordingConsole
from flows.status import bring_up_to_date
from pipeline import setup
from pipeline.config import parse
from pipeline.data.sample import generate
from pipeline.versioning import Versioning
from pipeline.workspace import Workspace

SETTINGS = {"split": {"near_duplicates": -1}, "backbone": {"weights": "shipped"}}


def newer_version(place: Path, removed: str) -> str:
    """data.dvc of a version without that file; the workspace itself stays as it is."""
    pin = place / "data.dvc"
    older = pin.read_text()
    (place / "data" / removed).unlink()
    Versioning(place).add_data()
    newer = pin.read_text()
    pin.write_text(older)
    Versioning(place).update_data()
    return newer


@pytest.mark.slow
def test_newer_data_stop_at_a_file_that_was_edited_here_and_name_it(
    finished: Path, thaw: Thaw
) -> None:
    gone, edited = sorted(
        path.relative_to(finished / "data")
        for path in (finished / "data").rglob("*.png")
    )[:2]
    (finished / "data.dvc").write_text(newer_version(finished, str(gone)))
    mine = finished / "data" / edited
    content = mine.read_bytes()
    mine.unlink()
    mine.write_bytes(content + b"mine")
    assert "will first follow data.dvc" in thaw("status", cwd=finished).stdout
    done = thaw("run", cwd=finished, check=False)
    assert done.returncode == 2
    assert f"data/{edited} (edited here)" in done.stderr
    assert "dvc add data" in done.stderr
    assert "Traceback" not in done.stderr
    assert mine.read_bytes() == content + b"mine"
    assert not (finished / "data" / gone).exists()


@pytest.mark.slow
def test_a_run_ends_by_saying_what_is_not_committed(finished: Path, thaw: Thaw) -> None:
    git(finished, "init", "-q")
    said = next(
        line
        for line in thaw("run", cwd=finished).stdout.splitlines()
        if "not committed to Git: " in line
    )
    files = said.partition(": ")[2].split(", ")
    assert {
        "params.yaml",
        "dvc.yaml",
        "data.dvc",
        "ledger.dvc",
        "dvc.lock",
        "backbone.lock",
    } <= set(files)
    git(finished, "add", *files)
    git(finished, "commit", "-qm", "first")
    assert "not committed" not in thaw("run", cwd=finished).stdout


# --- two clones -----------------------------------------------------------------------


def git(root: Path, *arguments: str, check: bool = True) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=check
    )
    return done.stdout


def publish(root: Path, message: str) -> None:
    dvc(root, "push", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)
    git(root, "push", "-q", "origin", "HEAD:main")


def splits(root: Path) -> dict[str, str]:
    table = pq.read_table(root / "ledger.parquet", columns=["id", "split"])
    return dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))


def dvc(root: Path, *arguments: str) -> None:
    command = Path(sys.executable).with_name("dvc")
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [command, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def add_photographs(root: Path, source: Path, first: int, last: int) -> None:
    """New photographs of every class, pinned and split as a user does it."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        for photograph in sorted(folder.iterdir())[first:last]:
            (root / "data" / folder.name / photograph.name).write_bytes(
                photograph.read_bytes()
            )
    dvc(root, "add", "-q", "data")
    dvc(root, "repro", "-q", "split")


def follow(root: Path) -> list[str]:
    """What every `thaw run` does before its steps."""
    console = RecordingConsole()
    bring_up_to_date(Workspace(root), console)
    return console.lines


@pytest.mark.full
def test_two_clones_that_both_grow_and_split_agree_after_the_merge(
    tmp_path: Path, thaw: Thaw
) -> None:
    generate(tmp_path / "all", parts=90)
    source, start = tmp_path / "all", tmp_path / "start"
    for folder in (path for path in source.iterdir() if path.is_dir()):
        (start / folder.name).mkdir(parents=True)
        for photograph in sorted(folder.iterdir())[:20]:
            os.link(photograph, start / folder.name / photograph.name)
    git(tmp_path, "init", "-q", "-b", "main", "--bare", "origin")
    git(tmp_path, "clone", "-q", "origin", "ours")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    git(ours, "checkout", "-q", "-b", "main")
    setup.init(
        ours,
        source=start,
        config=parse(dict(SETTINGS), "test"),
        remote=str(tmp_path / "shared"),
    )
    dvc(ours, "repro", "-q", "split")
    publish(ours, "first")
    git(tmp_path, "clone", "-q", "origin", "theirs")
    follow(theirs)
    first = splits(ours)
    assert splits(theirs) == first

    add_photographs(theirs, source, 20, 23)
    publish(theirs, "theirs")
    add_photographs(ours, source, 23, 26)
    git(ours, "commit", "-qam", "ours")
    both = {**splits(ours), **splits(theirs)}
    assert (
        len(both) == len(splits(ours)) + len(splits(theirs)) - len(first) > len(first)
    )

    git(ours, "pull", "-q", "--no-rebase", "origin", "main", check=False)
    refused = thaw("run", cwd=ours, check=False)
    assert refused.returncode == 2
    assert "git checkout --ours dvc.lock" in refused.stderr
    git(ours, "checkout", "--ours", "dvc.lock")
    said = follow(ours)
    assert "data.dvc: both sides of the Git merge joined" in said
    assert any(
        line.startswith("ledger.dvc: both sides of the Git merge joined")
        for line in said
    )
    dvc(ours, "repro", "-q", "split")
    assert splits(ours) == both
    publish(ours, "merged")
    git(theirs, "pull", "-q", "origin", "main")
    follow(theirs)
    dvc(theirs, "repro", "-q", "split")
    assert splits(theirs) == both
    assert git(theirs, "status", "--porcelain") == ""
