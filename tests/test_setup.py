"""Making a workspace: what is there at the end, what is refused, and that the source is
left alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import yaml

from pipeline import dvc_yaml, setup
from pipeline.config import Config, load, parse
from pipeline.errors import ConfigError, DataError, ThawError, WorkspaceError
from pipeline.step_table import DVC_STAGES, LOCK_FILES
from pipeline.tasks.text_classification import TASK
from pipeline.versioning import Versioning
from pipeline.workspace import Workspace

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("cat/1.jpg", "cat/2 with space.jpg", "dog/ü.jpg", "-dash.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(p.relative_to(folder)): (p.read_text(), p.stat().st_ino)
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_a_workspace_is_made(source: Path, tmp_path: Path) -> None:
    before = contents(source)
    config = parse({"backbone": {"weights": "shipped"}}, "test")
    words = setup.init(tmp_path / "ws", source=source, config=config)
    place = Workspace.find(tmp_path / "ws" / "data")
    assert place.config() == config
    assert contents(source) == before
    copied = contents(place.root / "data")
    assert {name: text for name, (text, _) in copied.items()} == {
        name: text for name, (text, _) in before.items()
    }
    assert not {inode for _, inode in copied.values()} & {
        inode for _, inode in before.values()
    }
    states = Versioning(place.root).states()
    assert tuple(states) == DVC_STAGES
    assert {state.reasons for state in states.values()} == {("never run",)}
    version = Versioning(place.root).data_version()
    assert (version.files, version.dirty) == (4, False)
    assert "copied 4 files" in words
    assert words.endswith(f"cd {place.root}\n  thaw run")


def test_a_moved_workspace_still_works(source: Path, tmp_path: Path) -> None:
    setup.init(tmp_path / "ws", source=source, config=Config())
    shutil.move(tmp_path / "ws", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere" / "data")
    Versioning(tmp_path / "elsewhere").update_data()
    assert str(tmp_path) not in (tmp_path / "elsewhere" / ".dvc" / "config").read_text()


def test_without_a_source_the_data_comes_later(tmp_path: Path) -> None:
    words = setup.init(tmp_path / "ws", source=None, config=Config())
    assert "dvc add data" in words
    assert not (tmp_path / "ws" / "data").exists()


def test_a_remote_that_was_asked_for(tmp_path: Path) -> None:
    setup.init(
        tmp_path / "ws", source=None, config=Config(), remote="s3://team/flowers"
    )
    assert (
        "url = s3://team/flowers" in (tmp_path / "ws" / ".dvc" / "config").read_text()
    )


@pytest.mark.parametrize(
    "remote", ["~nobody-of-that-name/store", "nosuch://team/flowers"]
)
def test_a_remote_that_cannot_be_used_leaves_nothing_behind(
    remote: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ThawError, match=r"no such user|nosuch://"):
        setup.init(tmp_path / "ws", source=source, config=Config(), remote=remote)
    assert "made" in setup.init(tmp_path / "ws", source=source, config=Config())


def test_links_are_not_followed_out_of_the_source(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (source / "out.jpg").symlink_to(tmp_path / "secret")
    (source / "nowhere.jpg").symlink_to(source / "missing")
    (source / "loop").symlink_to(source)
    (source / "cat" / "same.jpg").symlink_to(source / "cat" / "1.jpg")
    os.mkfifo(source / "pipe")
    words = setup.init(tmp_path / "ws", source=source, config=Config())
    names = set(contents(tmp_path / "ws" / "data"))
    assert names == {
        "cat/1.jpg",
        "cat/2 with space.jpg",
        "dog/ü.jpg",
        "-dash.csv",
        "cat/same.jpg",
    }
    assert (
        "loop (link to a folder), nowhere.jpg (dangling link), out.jpg (link out of the folder), pipe (not a file)"
        in words
    )


@pytest.mark.parametrize("taken", ["params.yaml", "data", ".dvc", "ledger.dvc"])
def test_nothing_is_overwritten(taken: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / taken).write_text("mine")
    with pytest.raises(WorkspaceError, match=taken):
        setup.init(tmp_path / "ws", source=source, config=Config())
    assert [p.name for p in (tmp_path / "ws").iterdir()] == [taken]


def test_what_else_is_in_the_folder_stays(source: Path, tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / ".gitignore").write_text("mine")
    (tmp_path / "ws" / "README").write_text("mine")
    setup.init(tmp_path / "ws", source=source, config=Config())
    assert (tmp_path / "ws" / "README").read_text() == "mine"
    assert (tmp_path / "ws" / ".gitignore").read_text().splitlines()[0] == "mine"


@pytest.mark.parametrize("where", ["photos/ws", "."])
def test_source_and_workspace_lie_apart(
    where: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(WorkspaceError, match="one in the other"):
        setup.init(tmp_path / where, source=source, config=Config())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


@pytest.mark.parametrize(
    ("name", "said"), [("nowhere", "no such file or folder"), ("empty", "no files")]
)
def test_a_source_that_cannot_be_used(
    name: str, said: str, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorkspaceError, match=said):
        setup.init(tmp_path / "ws", source=tmp_path / name, config=Config())
    assert not (tmp_path / "ws").exists()


def test_a_full_disk_is_seen_before_anything_is_made(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    with pytest.raises(WorkspaceError, match="twice the data"):
        setup.init(tmp_path / "ws", source=source, config=Config())
    assert not (tmp_path / "ws").exists()


@pytest.mark.slow
def test_an_init_that_was_killed_says_what_to_do(source: Path, tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from pipeline import dvc_yaml, setup
from pipeline.config import Config
setup.shutil.copyfile = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
setup.init(Path({str(tmp_path / "ws")!r}), source=Path({str(source)!r}), config=Config())"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with pytest.raises(WorkspaceError, match="cut short") as caught:
        setup.init(tmp_path / "ws", source=source, config=Config())
    command = caught.value.hint.partition(": ")[2]
    subprocess.run(command, shell=True, check=True)
    assert "made" in setup.init(tmp_path / "ws", source=source, config=Config())


def test_commands_that_are_to_be_typed_are_quoted(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my $HOME"
    (folder / ".thaw").mkdir(parents=True)
    (folder / ".thaw" / "init-unfinished").touch()
    with pytest.raises(WorkspaceError) as fault:
        setup.init(folder, source=source, config=Config())
    assert fault.value.hint.endswith(f"rm -r '{folder}/.thaw'")
    shutil.rmtree(folder)
    assert f"cd '{folder}'" in setup.init(folder, source=source, config=Config())


def test_inside_git_what_runs_make_is_ignored_and_the_pins_are_not(
    source: Path, tmp_path: Path
) -> None:
    root = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    setup.init(root / "ws", source=source, config=Config())
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    files = {
        line[3:]
        for line in subprocess.run(
            status, cwd=root, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    }
    below = {
        ".dvc/.gitignore",
        ".dvc/config",
        ".dvcignore",
        ".gitignore",
        "data.dvc",
        "dvc.yaml",
        "params.yaml",
    }
    below |= {entry.file for entry in LOCK_FILES}
    assert files == {f"ws/{name}" for name in below}


def test_the_repositorys_own_stages_are_the_generated_ones() -> None:
    settings = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    stages = dvc_yaml.stages_of(settings)
    assert (REPOSITORY / "dvc.yaml").read_text() == dvc_yaml.generate(stages)
    assert (REPOSITORY / ".dvcignore").read_text() == setup.DVCIGNORE
    assert list(stages) == list(DVC_STAGES)
    assert load(REPOSITORY / "params.yaml").data.table == "metadata.csv"


@pytest.mark.slow
def test_the_repositorys_data_is_the_sample(tmp_path: Path) -> None:
    from pipeline.data.sample import generate

    generate(tmp_path / "sample")
    setup.init(tmp_path / "ws", source=tmp_path / "sample", config=Config())
    assert (tmp_path / "ws" / "data.dvc").read_text() == (
        REPOSITORY / "data.dvc"
    ).read_text()


def test_a_name_that_dvc_cannot_keep_is_refused_before_anything_is_made(
    source: Path, tmp_path: Path
) -> None:
    (source / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(WorkspaceError, match="UTF-8"):
        setup.init(tmp_path / "place", source=source, config=parse({}, "test"))
    assert not (tmp_path / "place").exists()


def test_folders_that_cannot_be_read_are_named_before_anything_is_made(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = source / "closed"
    closed.mkdir()
    usual = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: str(closed) != str(path) and usual(path, mode)
    )
    with pytest.raises(WorkspaceError) as caught:
        setup.init(tmp_path / "place", source=source, config=parse({}, "test"))
    assert "closed" in str(caught.value)
    assert not (tmp_path / "place").exists()


def test_an_image_is_no_folder_of_images(tmp_path: Path) -> None:
    image = tmp_path / "cat.jpg"
    image.write_bytes(b"")
    with pytest.raises(DataError, match="a folder of images"):
        setup.settings_for(image, setup.InitOptions())


def test_a_task_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="image-classification"):
        setup.settings_for(tmp_path, setup.InitOptions(task="image-clasification"))


def test_options_become_settings(tmp_path: Path) -> None:
    options = setup.InitOptions(
        backbone="torchvision/resnet18", weights="shipped", recipes=("head",)
    )
    made, notes = setup.settings_for(tmp_path, options)
    assert made.backbone.name == "torchvision/resnet18"
    assert made.backbone.weights == "shipped"
    assert made.finetune.recipes == ("head",)
    assert notes == ()


def test_the_sample_of_a_task_brings_its_own_settings(tmp_path: Path) -> None:
    TASK.sample().generate(tmp_path / "sample")
    options = setup.InitOptions(task=TASK.name, sample=True, recipes=("head",))
    config, notes = setup.settings_for(tmp_path / "sample", options)
    assert config.backbone.weights == "shipped"
    assert config.finetune.epochs == 6
    assert config.finetune.recipes == ("head",)
    assert "text: column text" in notes


def test_an_address_is_no_source_and_its_password_is_not_repeated(
    tmp_path: Path,
) -> None:
    address = Path("https://user:secret@host/reviews.csv")
    with pytest.raises(WorkspaceError) as caught:
        setup.init(tmp_path / "ws", source=address, config=Config())
    assert "secret" not in str(caught.value)
    assert "fetch it first" in caught.value.hint


@pytest.mark.parametrize(
    ("task", "name"),
    [("image-classification", "a.png"), ("text-classification", "a.txt")],
)
def test_columns_where_no_table_could_have_them_are_refused(
    task: str, name: str, tmp_path: Path
) -> None:
    for label in ("good", "bad"):
        (tmp_path / label).mkdir()
        (tmp_path / label / name).write_text("so it goes")
    options = setup.InitOptions(task=task, columns={"label": "stars"})
    with pytest.raises(ConfigError, match=r"label=stars, and no table in .* have it"):
        setup.settings_for(tmp_path, options)
    (tmp_path / "metadata.csv").write_text("path,stars\n")
    if task == "image-classification":
        made, _ = setup.settings_for(tmp_path, options)
        assert made.data.columns["label"] == "stars"


def test_columns_may_be_named_by_their_roles(tmp_path: Path) -> None:
    lines = ["Antwort,Filiale,Urteil"]
    lines += [f"so it goes {number},{number % 3},{number % 2}" for number in range(40)]
    table = tmp_path / "a.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = setup.parse_columns(["label=Urteil", "group=Filiale"])
    options = setup.InitOptions(task=TASK.name, columns=columns)
    made, _ = setup.settings_for(table, options)
    named = {role: made.data.columns[role] for role in ("text", "label", "group")}
    assert named == {"text": "Antwort", "label": "Urteil", "group": "Filiale"}
    for word in ("lable=Urteil", "label", "label="):
        with pytest.raises(ConfigError, match="ROLE=COLUMN"):
            setup.parse_columns([word])
    for words in (["text=a", "label=a"], ["text=a", "text=b"]):
        with pytest.raises(ConfigError, match="once"):
            setup.parse_columns(words)
