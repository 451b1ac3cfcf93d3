"""New data and a newer ledger arrive, and nothing that was edited here is lost: case by
case, with real DVC and Git.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands import run_dvc
from pipeline.data.ledger import Ledger, LedgerEntry, load
from pipeline.errors import LedgerError, VersioningError, WorkspaceError
from pipeline.versioning import Versioning, checkout, initialise
from pipeline.versioning.checkout import bases_file, plan_checkout

DVC_YAML = (
    "stages:\n  validate: {cmd: 'true', deps: [data], outs: [artifacts/validate]}\n"
)
ONE = {"a.txt": "a", "b.txt": "b", "deep/c.txt": "c"}
TWO = {"a.txt": "a", "b.txt": "B", "new/d.txt": "d"}  # b changed, c removed, d added


def make(root: Path, files: dict[str, str] = ONE, *, remote: str = "remote") -> Path:
    """A workspace with pinned data, as a stage reads them."""
    root.mkdir(parents=True, exist_ok=True)
    initialise(root, remote)
    (root / "params.yaml").write_text("data: {path: data}\n")
    (root / "dvc.yaml").write_text(DVC_YAML)
    put(root, files)
    Versioning(root).add_data()
    return root


def put(root: Path, files: dict[str, str]) -> None:
    """These files as data, and no others."""
    shutil.rmtree(root / "data", ignore_errors=True)
    for name, text in files.items():
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def there(root: Path) -> dict[str, str]:
    data = root / "data"
    return {
        str(path.relative_to(data)): path.read_text()
        for path in sorted(data.rglob("*"))
        if path.is_file()
    }


def edit(root: Path, name: str, text: str) -> None:
    path = root / "data" / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def _pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make(tmp_path_factory.mktemp("pulled") / "ws", TWO)
    newer = (root / "data.dvc").read_text()
    run_dvc("push", cwd=root)
    put(root, ONE)
    Versioning(root).add_data()
    run_dvc("push", cwd=root)
    (root / "newer.txt").write_text(newer)
    (root / "older.txt").write_text((root / "data.dvc").read_text())
    return root


@pytest.fixture
def ws(_pulled: Path, tmp_path: Path) -> Path:
    """A workspace with version one of the data in place and pinned, and data.dvc of
    versions one and two.
    """
    return Path(shutil.copytree(_pulled, tmp_path / "ws", symlinks=True))


def pull(root: Path, name: str = "newer.txt") -> None:
    """What `git pull` does to data.dvc."""
    (root / "data.dvc").write_text((root / name).read_text())


# --- the table ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "pinned", "now", "becomes"),
    [
        ("1", "1", "1", "stays"),
        ("1", "2", "2", "stays"),
        (None, "2", "2", "stays"),
        ("1", None, None, "stays"),
        ("1", "2", "1", "2"),
        (None, "2", None, "2"),
        ("1", None, "1", "removed"),
        ("1", "1", "x", "edited"),
        ("1", "2", "x", "edited"),
        ("1", None, "x", "edited"),
        ("1", "1", None, "edited"),
        ("1", "2", None, "edited"),
        (None, "2", "x", "edited"),
        (None, None, "x", "added"),
    ],
)
def test_what_becomes_of_a_file(
    base: str | None, pinned: str | None, now: str | None, becomes: str
) -> None:
    def files(content: str | None) -> dict[str, str]:
        return {"f": content} if content else {}

    plan = plan_checkout([files(base)], files(pinned), files(now))
    found = {
        "removed": bool(plan.remove),
        "edited": bool(plan.edited),
        "added": bool(plan.added),
        "2": plan.write == {"f": "2"},
    }
    assert [each for each, so in found.items() if so] == (
        [] if becomes == "stays" else [becomes]
    )


@pytest.mark.parametrize(("pinned", "now"), [("1", None), ("1", "x"), ("2", "x")])
def test_without_a_base_whatever_differs_counts_as_edited(
    pinned: str, now: str | None
) -> None:
    assert plan_checkout([], {"f": pinned}, {"f": now} if now else {}).edited


# --- data -----------------------------------------------------------------------------


@pytest.mark.slow
def test_newer_data_replace_unedited_ones(ws: Path) -> None:
    versioning = Versioning(ws)
    assert versioning.tracked_files_are_current()
    pull(ws)
    assert not versioning.tracked_files_are_current()
    assert versioning.update_data() == [
        "data: 1 added, 1 changed, 1 removed files, as data.dvc tracks"
    ]
    assert there(ws) == TWO
    assert not (ws / "data" / "deep").exists()
    assert versioning.tracked_files_are_current()
    assert not versioning.data_version().dirty
    pull(ws, "older.txt")
    versioning.update_data()
    assert there(ws) == ONE


def test_newer_data_come_from_the_remote(ws: Path) -> None:
    shutil.rmtree(ws / ".dvc" / "cache")
    pull(ws)
    Versioning(ws).update_data()
    assert there(ws) == TWO


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "mine"),
        ("b.txt", "mine"),
        ("deep/c.txt", "mine"),
        ("a.txt", None),
        ("b.txt", None),
    ],
)
def test_files_edited_or_deleted_here_stop_the_run_by_name_and_stay(
    ws: Path, name: str, text: str | None
) -> None:
    (ws / "data" / name).unlink()
    if text is not None:
        edit(ws, name, text)
    pull(ws)
    for _ in range(2):
        with pytest.raises(VersioningError) as caught:
            Versioning(ws).update_data()
        assert [line.partition(" ")[0] for line in caught.value.details] == [
            f"data/{name}"
        ]
        found = there(ws)
        assert found.pop(name, None) == text
        assert found == {path: content for path, content in TWO.items() if path != name}
    Versioning(ws).add_data()  # what the error says keeps it
    assert Versioning(ws).update_data() == []
    assert there(ws).get(name) == text


def test_the_other_way_out_of_edits_is_what_is_pinned(ws: Path) -> None:
    edit(ws, "b.txt", "mine")
    pull(ws)
    with pytest.raises(VersioningError) as caught:
        Versioning(ws).update_data()
    command = caught.value.hint.rpartition("dvc checkout")[2].split()
    run_dvc("checkout", *command, cwd=ws)
    assert Versioning(ws).update_data() == []
    assert there(ws) == TWO


def test_files_added_here_stay_and_are_told(ws: Path) -> None:
    edit(ws, "mine.txt", "mine")
    pull(ws)
    said = Versioning(ws).update_data()
    assert "1 files that were added here stay" in said[-1]
    assert there(ws) == {**TWO, "mine.txt": "mine"}
    assert (
        Versioning(ws).data_version().dirty_reason
        == "data differs from what data.dvc tracks"
    )
    assert Versioning(ws).update_data() == []


def test_a_file_added_here_and_upstream_is_not_overwritten(ws: Path) -> None:
    edit(ws, "new/d.txt", "mine")
    pull(ws)
    with pytest.raises(VersioningError, match=r"new/d\.txt"):
        Versioning(ws).update_data()
    assert there(ws)["new/d.txt"] == "mine"


def test_data_edited_here_while_data_dvc_is_unchanged_stay(ws: Path) -> None:
    edit(ws, "a.txt", "mine")
    edit(ws, "more.txt", "more")
    (ws / "data" / "b.txt").unlink()
    before = there(ws)
    assert Versioning(ws).tracked_files_are_current()
    assert Versioning(ws).update_data() == []
    assert there(ws) == before
    assert Versioning(ws).data_version().dirty
    assert (
        Versioning(ws).unshared().not_added == "data differs from what data.dvc tracks"
    )


def test_without_a_base_data_that_were_pinned_once_are_unedited(ws: Path) -> None:
    shutil.rmtree(ws / ".thaw")
    pull(ws)
    Versioning(ws).update_data()
    assert there(ws) == TWO


def test_without_a_base_other_data_stop_the_run_by_name(ws: Path) -> None:
    shutil.rmtree(ws / ".thaw")
    edit(ws, "a.txt", "mine")
    pull(ws)
    before = there(ws)
    with pytest.raises(VersioningError, match=r"a\.txt"):
        Versioning(ws).update_data()
    assert there(ws) == before


def test_a_version_that_is_nowhere_stops_the_run_and_changes_nothing(ws: Path) -> None:
    shutil.rmtree(ws / ".dvc" / "cache")
    shutil.rmtree(ws / "remote")
    pull(ws)
    with pytest.raises(VersioningError, match="neither the cache nor the remote"):
        Versioning(ws).update_data()
    assert there(ws) == ONE


def test_what_no_cache_holds_is_put_there_before_it_goes(ws: Path) -> None:
    for file in (ws / "data").rglob("*.txt"):
        text = file.read_text()
        file.unlink()
        file.write_text(text)
    cache = ws / ".dvc" / "cache" / "files" / "md5"
    for text in ("b", "c"):  # as `dvc gc` leaves it
        next(
            path
            for path in cache.rglob("*")
            if path.is_file() and path.read_bytes() == text.encode()
        ).unlink()
    pull(ws)
    Versioning(ws).update_data()
    assert {"b", "c"} <= {
        path.read_text() for path in cache.rglob("*") if path.is_file()
    }
    pull(ws, "older.txt")
    Versioning(ws).update_data()
    assert there(ws) == ONE


def kill_after(root: Path, files: int) -> None:
    """A checkout, killed when it has put that many files in place: in a fork of this
    process, which need not import DVC.
    """
    put, left = checkout._put_file, [files]

    def killed(*given: Any) -> None:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        put(*given)

    child = os.fork()
    if not child:
        try:
            checkout._put_file = killed
            Versioning(root).update_data()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.parametrize("files", [0, 1])
def test_a_checkout_that_was_killed_is_completed(ws: Path, files: int) -> None:
    pull(ws)
    kill_after(ws, files)
    assert there(ws) not in (ONE, TWO)
    Versioning(ws).update_data()
    assert there(ws) == TWO


def test_a_checkout_that_was_killed_can_go_back(ws: Path) -> None:
    pull(ws)
    kill_after(ws, 1)
    pull(ws, "older.txt")
    assert not Versioning(ws).tracked_files_are_current()
    Versioning(ws).update_data()
    assert there(ws) == ONE


def test_bringing_missing_data_that_was_killed_is_completed_and_keeps_what_was_put_there_since(
    ws: Path,
) -> None:
    shutil.rmtree(ws / "data")
    kill_after(ws, 1)
    assert len(there(ws)) == 1
    edit(ws, "mine.txt", "mine")
    Versioning(ws).update_data()
    assert there(ws) == {**ONE, "mine.txt": "mine"}


@pytest.mark.slow
def test_data_that_were_pinned_or_checked_out_by_dvc_itself_are_the_new_base(
    ws: Path,
) -> None:
    put(ws, {**ONE, "e.txt": "e"})
    run_dvc("add", "data", cwd=ws)
    pinned = (ws / "data.dvc").read_text()
    Versioning(ws).update_data()
    pull(ws)
    run_dvc("checkout", "data.dvc", cwd=ws)
    Versioning(ws).update_data()
    (ws / "data.dvc").write_text(pinned)
    Versioning(ws).update_data()
    assert there(ws) == {**ONE, "e.txt": "e"}


def test_a_file_comes_where_a_folder_of_the_users_is_only_by_name(ws: Path) -> None:
    edit(ws, "e", "pinned")
    Versioning(ws).add_data()
    newer = (ws / "data.dvc").read_text()
    pull(ws, "older.txt")
    Versioning(ws).update_data()
    edit(ws, "e/mine.txt", "mine")
    (ws / "data.dvc").write_text(newer)
    with pytest.raises(VersioningError, match="data/e"):
        Versioning(ws).update_data()
    assert there(ws) == {**ONE, "e/mine.txt": "mine"}


# --- ledger ---------------------------------------------------------------------------


def entries(splits: dict[str, str]) -> Ledger:
    return Ledger(
        {i: LedgerEntry(i, None, split, "x", None, 0) for i, split in splits.items()}
    )  # type: ignore[arg-type]


def splits(root: Path) -> dict[str, str]:
    return {
        i: entry.split for i, entry in load(root / "ledger.parquet").entries.items()
    }


def pin_ledger(root: Path, known: dict[str, str]) -> str:
    (root / "ledger.parquet").unlink(missing_ok=True)
    entries(known).save(root / "ledger.parquet")
    Versioning(root).add_ledger()
    return (root / "ledger.dvc").read_text()


def test_a_missing_ledger_is_brought_back_and_dvc_finds_it_unchanged(ws: Path) -> None:
    pinned = pin_ledger(ws, {"1": "train"})
    (ws / "ledger.parquet").unlink()
    assert not Versioning(ws).tracked_files_are_current()
    assert Versioning(ws).update_ledger() == []
    assert splits(ws) == {"1": "train"}
    assert (ws / "ledger.dvc").read_text() == pinned
    assert Versioning(ws).tracked_files_are_current()


def test_a_newer_ledger_is_joined_and_nothing_known_here_is_lost(ws: Path) -> None:
    theirs = pin_ledger(ws, {"1": "train", "2": "test"})
    pin_ledger(ws, {"1": "train", "3": "val"})
    (ws / "ledger.dvc").write_text(theirs)
    assert Versioning(ws).update_ledger() == [
        "ledger.parquet: 1 examples joined that ledger.dvc tracks"
    ]
    assert splits(ws) == {"1": "train", "2": "test", "3": "val"}
    assert (ws / "ledger.dvc").read_text() != theirs
    assert Versioning(ws).update_ledger() == []


def test_a_ledger_that_only_lags_behind_becomes_the_pinned_one(ws: Path) -> None:
    pin_ledger(ws, {"1": "train"})
    old = (ws / "ledger.parquet").read_bytes()
    theirs = pin_ledger(ws, {"1": "train", "2": "test"})
    (ws / "ledger.parquet").unlink()
    (ws / "ledger.parquet").write_bytes(old)
    Versioning(ws).update_ledger()
    assert splits(ws) == {"1": "train", "2": "test"}
    assert (ws / "ledger.dvc").read_text() == theirs


def test_two_ledgers_that_contradict_each_other_stop_the_run_by_name(ws: Path) -> None:
    theirs = pin_ledger(ws, {"1": "test"})
    pin_ledger(ws, {"1": "train"})
    (ws / "ledger.dvc").write_text(theirs)
    with pytest.raises(LedgerError, match="1: test and train"):
        Versioning(ws).update_ledger()
    assert splits(ws) == {"1": "train"}


def test_a_pinned_ledger_that_is_nowhere_stops_the_run(ws: Path) -> None:
    pin_ledger(ws, {"1": "train"})
    (ws / "ledger.parquet").unlink()
    shutil.rmtree(ws / ".dvc" / "cache")
    with pytest.raises(LedgerError, match="leak test examples"):
        Versioning(ws).update_ledger()
    assert not (ws / "ledger.parquet").exists()


def test_a_ledger_that_is_gone_with_its_pin_is_not_begun_anew(ws: Path) -> None:
    assert Versioning(ws).update_ledger() == []
    pin_ledger(ws, {"1": "train"})
    (ws / "ledger.parquet").unlink()
    (ws / "ledger.dvc").unlink()
    assert not Versioning(ws).tracked_files_are_current()
    with pytest.raises(LedgerError, match=r"git checkout ledger\.dvc") as caught:
        Versioning(ws).update_ledger()
    (ws / caught.value.hint.split()[-1]).unlink()
    assert Versioning(ws).update_ledger() == []


# --- Git ------------------------------------------------------------------------------


def git(root: Path, *arguments: str, check: bool = True) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=check
    )
    return done.stdout


def clone(origin: Path, root: Path) -> Path:
    git(origin.parent, "clone", "-q", str(origin), str(root))
    Versioning(root).update_data()
    Versioning(root).update_ledger()
    return root


def publish(root: Path) -> None:
    """Commits and pushes what the team shares."""
    run_dvc("push", cwd=root)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "data")
    git(root, "push", "-q", "origin", "HEAD:main")


@pytest.fixture(scope="module")
def _team(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("team")
    git(base, "init", "-q", "-b", "main", "--bare", "origin")
    git(base, "clone", "-q", "origin", "first")
    root = base / "first"
    git(root, "checkout", "-q", "-b", "main")
    make(root, remote=str(base / "shared"))
    (root / ".gitignore").write_text("/.thaw/\n/artifacts/\n/data\n/ledger.parquet\n")
    pin_ledger(root, {"1": "train"})
    publish(root)
    return base


@pytest.fixture
def clones(_team: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two clones of one repository that share a DVC remote, with the data and the
    ledger in place.
    """
    origin = Path(shutil.copytree(_team / "origin", tmp_path / "origin"))
    return clone(origin, tmp_path / "ours"), clone(origin, tmp_path / "theirs")


def grow(root: Path, name: str, split: str) -> None:
    """New data, and their split in the ledger, pinned."""
    edit(root, f"{name}.txt", name)
    Versioning(root).add_data()
    pin_ledger(root, {**splits(root), name: split})


@pytest.mark.slow
def test_what_a_colleague_pushed_arrives_with_git_pull(
    clones: tuple[Path, Path],
) -> None:
    ours, theirs = clones
    grow(theirs, "t", "test")
    publish(theirs)
    git(ours, "pull", "-q", "origin", "main")
    Versioning(ours).update_data()
    Versioning(ours).update_ledger()
    assert there(ours) == {**ONE, "t.txt": "t"}
    assert splits(ours) == {"1": "train", "t": "test"}
    assert git(ours, "status", "--porcelain") == ""


def test_what_wants_committing_and_pushing_is_told(clones: tuple[Path, Path]) -> None:
    ours, _ = clones
    versioning = Versioning(ours)
    assert versioning.unshared() == ("", (), ())
    grow(ours, "o", "val")
    (ours / "dvc.lock").write_text("schema: '2.0'\n")
    (ours / "notes.txt").write_text("mine")
    assert versioning.unshared() == (
        "",
        ("data.dvc", "ledger.dvc", "dvc.lock"),
        ("data", "ledger.parquet"),
    )
    run_dvc("push", cwd=ours)
    git(ours, "add", "ledger.dvc", "dvc.lock")
    git(ours, "commit", "-qm", "ours")
    assert versioning.unshared() == ("", ("data.dvc",), ())


def test_without_git_and_with_the_remote_in_the_workspace_nothing_can_be_shared(
    ws: Path,
) -> None:
    assert Versioning(ws).unshared() == ("", (), ())


def test_a_remote_that_is_not_configured_is_none_to_push_to_and_is_named_where_it_is_needed(
    ws: Path,
) -> None:
    config = ws / ".dvc" / "config"
    lines = config.read_text().replace("remote = storage", "remote = elsewhere")
    assert "remote = elsewhere" in lines
    config.write_text(lines)
    assert Versioning(ws).unshared() == ("", (), ())
    shutil.rmtree(ws / ".dvc" / "cache")
    pull(ws)
    with pytest.raises(VersioningError, match="elsewhere"):
        Versioning(ws).update_data()


@pytest.mark.slow
def test_where_both_added_data_and_dealt_them_the_merge_keeps_both_and_moves_nothing(
    clones: tuple[Path, Path],
) -> None:
    ours, theirs = clones
    grow(theirs, "t", "test")
    (theirs / "data" / "a.txt").unlink()
    edit(theirs, "b.txt", "B")
    Versioning(theirs).add_data()
    publish(theirs)
    grow(ours, "o", "val")
    git(ours, "commit", "-qam", "ours")
    git(ours, "pull", "-q", "--no-rebase", "origin", "main", check=False)
    assert "<<<<<<<" in (ours / "data.dvc").read_text()
    versioning = Versioning(ours)
    assert not versioning.tracked_files_are_current()
    said = [*versioning.update_data(), *versioning.update_ledger()]
    assert [line.partition(":")[0] for line in said] == [
        "data.dvc",
        "data",
        "ledger.dvc",
    ]
    assert there(ours) == {"b.txt": "B", "deep/c.txt": "c", "o.txt": "o", "t.txt": "t"}
    assert splits(ours) == {"1": "train", "o": "val", "t": "test"}
    assert versioning.tracked_files_are_current()
    publish(ours)
    git(theirs, "pull", "-q", "origin", "main")
    Versioning(theirs).update_data()
    Versioning(theirs).update_ledger()
    assert there(theirs) == there(ours)
    assert splits(theirs) == splits(ours)


def conflict(ours: Path, theirs: Path) -> None:
    """Both add data, and Git is left with a conflict in data.dvc of ours, whose data
    are as they were before it.
    """
    grow(theirs, "t", "test")
    edit(theirs, "b.txt", "B")
    Versioning(theirs).add_data()
    publish(theirs)
    before = there(ours)
    base = bases_file(ours).read_text()
    grow(ours, "o", "val")
    run_dvc("push", cwd=ours)
    git(ours, "commit", "-qam", "ours")
    put(ours, before)
    bases_file(ours).write_text(base)
    git(ours, "pull", "-q", "--no-rebase", "origin", "main", check=False)
    assert "<<<<<<<" in (ours / "data.dvc").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("lying", ["nothing", "older data"])
def test_a_merge_where_our_own_side_was_not_brought_yet_keeps_it_too(
    clones: tuple[Path, Path], lying: str
) -> None:
    ours, theirs = clones
    conflict(ours, theirs)
    if lying == "nothing":
        shutil.rmtree(ours / "data")
        shutil.rmtree(ours / ".thaw")
        shutil.rmtree(ours / ".dvc" / "cache")
    Versioning(ours).update_data()
    Versioning(ours).update_ledger()
    assert there(ours) == {**ONE, "b.txt": "B", "o.txt": "o", "t.txt": "t"}
    assert splits(ours) == {"1": "train", "o": "val", "t": "test"}
    assert Versioning(ours).unshared().not_added == ""


KILLED_BEFORE_PINNING = """
import os, signal, sys
from pathlib import Path
from pipeline.versioning import Versioning, tracked_files
tracked_files.add = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
Versioning(Path(sys.argv[1])).update_data()
"""


@pytest.mark.slow
def test_a_merge_that_was_killed_before_it_was_pinned_loses_nothing_of_either_side(
    clones: tuple[Path, Path],
) -> None:
    ours, theirs = clones
    conflict(ours, theirs)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_PINNING, str(ours)],
        check=False,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    Versioning(ours).update_data()
    assert there(ours) == {**ONE, "b.txt": "B", "o.txt": "o", "t.txt": "t"}


@pytest.mark.slow
def test_a_merge_that_was_settled_by_hand_goes_on_from_there(
    clones: tuple[Path, Path],
) -> None:
    ours, theirs = clones
    for root, text in ((ours, "ours"), (theirs, "theirs")):
        edit(root, "a.txt", text)
        grow(root, text, "train")
    publish(theirs)
    git(ours, "commit", "-qam", "ours")
    git(ours, "pull", "-q", "--no-rebase", "origin", "main", check=False)
    with pytest.raises(VersioningError, match=r"data/a\.txt"):
        Versioning(ours).update_data()
    edit(ours, "a.txt", "theirs")
    Versioning(ours).update_data()
    assert there(ours) == {
        **ONE,
        "a.txt": "theirs",
        "ours.txt": "ours",
        "theirs.txt": "theirs",
    }


@pytest.mark.slow
def test_a_merge_in_which_both_edited_a_file_stops_by_name_and_can_be_settled(
    clones: tuple[Path, Path],
) -> None:
    ours, theirs = clones
    for root, text in ((ours, "ours"), (theirs, "theirs")):
        edit(root, "a.txt", text)
        grow(root, text, "train")
    publish(theirs)
    git(ours, "commit", "-qam", "ours")
    git(ours, "pull", "-q", "--no-rebase", "origin", "main", check=False)
    with pytest.raises(VersioningError, match=r"data/a\.txt") as caught:
        Versioning(ours).update_data()
    assert there(ours) == {
        **ONE,
        "a.txt": "ours",
        "ours.txt": "ours",
        "theirs.txt": "theirs",
    }
    assert "<<<<<<<" in (ours / "data.dvc").read_text()
    assert "git checkout --ours data.dvc" in caught.value.hint
    git(ours, "checkout", "--ours", "data.dvc")
    Versioning(ours).add_data()
    assert there(ours) == {
        **ONE,
        "a.txt": "ours",
        "ours.txt": "ours",
        "theirs.txt": "theirs",
    }


def test_a_conflict_of_which_git_knows_no_ancestor_is_named(ws: Path) -> None:
    newer, older = (ws / "newer.txt").read_text(), (ws / "older.txt").read_text()
    (ws / "data.dvc").write_text(
        f"<<<<<<< HEAD\n{older}=======\n{newer}>>>>>>> other\n"
    )
    with pytest.raises(WorkspaceError, match=r"data\.dvc"):
        Versioning(ws).update_data()
    assert there(ws) == ONE


def test_conflicts_in_other_files_are_named_with_what_to_do(ws: Path) -> None:
    text = "<<<<<<< HEAD\na: 1\n||||||| base\na: 0\n=======\na: 2\n>>>>>>> other\n"
    (ws / "dvc.lock").write_text(text)
    with pytest.raises(WorkspaceError, match=r"git checkout --ours dvc\.lock"):
        Versioning(ws).refuse_conflicts()
    (ws / "dvc.lock").write_text("a: 1\n")
    Versioning(ws).refuse_conflicts()
