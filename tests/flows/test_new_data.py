"""New data reach a run by `git pull`, seen from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from commands import Thaw
from pipeline import setup
from pipeline.config import parse
from pipeline.data.sample import generate
from pipeline.memory import Memory

SMALL = {
    "split": {"near_duplicates": -1},
    "backbone": {"weights": "shipped"},
    "finetune": {
        "recipes": ["head"], "epochs": 1, "views": 1, "patience": 0, "baseline": False,
        "plan": {"precision": "fp32", "memory_format": "contiguous", "threads": 2},
    },
    "evaluate": {"bootstrap": 50, "worst": 2},
    "tracking": {"system_metrics": False},
}  # fmt: skip


def newer_version(place: Path, removed: str) -> str:
    """data.dvc of a version without that file; the workspace itself stays as it is."""
    pin = place / "data.dvc"
    older = pin.read_text()
    (place / "data" / removed).unlink()
    Memory(place).add_data()
    newer = pin.read_text()
    pin.write_text(older)
    Memory(place).update_data()
    return newer


@pytest.mark.slow
def test_newer_data_stop_at_a_file_that_was_edited_here_and_name_it(finished: Path, thaw: Thaw) -> None:
    gone, edited = sorted(path.relative_to(finished / "data") for path in (finished / "data").rglob("*.png"))[:2]
    (finished / "data.dvc").write_text(newer_version(finished, str(gone)))
    mine = finished / "data" / edited
    content = mine.read_bytes()
    mine.unlink()
    mine.write_bytes(content + b"mine")
    assert "will bring the data" in thaw("status", cwd=finished).stdout
    done = thaw("run", cwd=finished, check=False)
    assert done.returncode == 2
    assert f"data/{edited} (edited here)" in done.stderr
    assert "dvc add data" in done.stderr
    assert "Traceback" not in done.stderr
    assert mine.read_bytes() == content + b"mine"
    assert not (finished / "data" / gone).exists()


# --- two clones -------------------------------------------------------------------------------------------


def git(root: Path, *arguments: str, check: bool = True) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=check)
    return done.stdout


def publish(root: Path, message: str) -> None:
    dvc = Path(sys.executable).with_name("dvc")
    subprocess.run([dvc, "push", "-q"], cwd=root, check=True)
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)
    git(root, "push", "-q", "origin", "HEAD:main")


def splits(root: Path) -> dict[str, str]:
    table = pq.read_table(root / "ledger.parquet", columns=["id", "split"])
    return dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))


def add_photographs(root: Path, source: Path, first: int, last: int) -> None:
    """New photographs of every class, pinned as a user pins them."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        for photograph in sorted(folder.iterdir())[first:last]:
            os.link(photograph, root / "data" / folder.name / photograph.name)
    dvc = Path(sys.executable).with_name("dvc")
    subprocess.run([dvc, "add", "-q", "data"], cwd=root, check=True)


@pytest.mark.full
def test_two_clones_that_both_grow_and_split_agree_after_the_merge(tmp_path: Path, thaw: Thaw) -> None:
    generate(tmp_path / "all", parts=90)
    source, rest = tmp_path / "all", tmp_path / "start"
    for folder in (path for path in source.iterdir() if path.is_dir()):
        for photograph in sorted(folder.iterdir())[:20]:
            (rest / folder.name).mkdir(parents=True, exist_ok=True)
            os.link(photograph, rest / folder.name / photograph.name)
    git(tmp_path, "init", "-q", "-b", "main", "--bare", "origin")
    git(tmp_path, "clone", "-q", "origin", "ours")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    git(ours, "checkout", "-q", "-b", "main")
    setup.init(ours, source=rest, config=parse(dict(SMALL), "test"), remote=str(tmp_path / "shared"))
    first = thaw("run", cwd=ours).stdout
    assert "not committed to Git: params.yaml, dvc.yaml, data.dvc, ledger.dvc, dvc.lock" in first
    assert "not in the DVC remote: data, ledger.parquet" in first
    publish(ours, "first")
    git(tmp_path, "clone", "-q", "origin", "theirs")
    start = splits(ours)

    add_photographs(theirs_with_data(theirs, thaw), source, 20, 23)
    thaw("run", cwd=theirs)
    publish(theirs, "theirs")
    add_photographs(ours, source, 23, 26)
    thaw("run", cwd=ours)
    git(ours, "commit", "-qam", "ours")
    before = {**splits(ours), **splits(theirs)}
    assert len(before) > max(len(splits(ours)), len(splits(theirs))) > len(start)

    git(ours, "pull", "-q", "--no-rebase", "origin", "main", check=False)
    refused = thaw("run", cwd=ours, check=False)
    assert "git checkout --ours dvc.lock" in refused.stderr
    git(ours, "checkout", "--ours", "dvc.lock")
    merged = thaw("run", cwd=ours).stdout
    assert "data.dvc: both sides of the Git merge joined" in merged
    assert "ledger.dvc: both sides of the Git merge joined" in merged
    assert splits(ours) == before
    publish(ours, "merged")
    git(theirs, "pull", "-q", "origin", "main")
    thaw("run", cwd=theirs)
    assert splits(theirs) == before


def theirs_with_data(root: Path, thaw: Thaw) -> Path:
    """The clone, once a run has brought the data and the ledger."""
    thaw("run", cwd=root)
    return root
