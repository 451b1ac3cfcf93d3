"""Makes a workspace: a folder with settings, stages and a copy of the user's data, all
tracked by DVC.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pipeline import task_catalog
from pipeline.config import ColumnRole, Config, parse, to_yaml
from pipeline.errors import ConfigError, ThawError, WorkspaceError
from pipeline.files import expanded
from pipeline.step_table import LOCK_FILES
from pipeline.tasks import catalog
from pipeline.text import pluralize, printable
from pipeline.upgrade import upgrade
from pipeline.workspace import Workspace

GITIGNORE = """\
# what runs make; files named *.dvc and *.lock belong into Git
/artifacts/
/.thaw/
/mlflow/
/report.html
/ledger.parquet
/baseline/
"""

DVCIGNORE = """\
# folders in which DVC need not look for stages
/.thaw
/.venv
/mlflow
/.mypy_cache
/.pytest_cache
/.ruff_cache
"""

# What a workspace consists of: none of it may be there before.
OURS = (
    "params.yaml",
    "dvc.yaml",
    "dvc.lock",
    "data.dvc",
    "ledger.dvc",
    "ledger.parquet",
    "baseline",
    "baseline.dvc",
    ".dvc",
    ".dvcignore",
    "artifacts",
    "mlflow",
    ".thaw",
    *(entry.file for entry in LOCK_FILES),
)

UNFINISHED = Path(".thaw") / "init-unfinished"
LOCAL_REMOTE = Path(".dvc") / "storage"
MAX_NAMED = 5  # of what was left out, in the closing words


@dataclass(frozen=True)
class InitOptions:
    """What the user asked for; None where the defaults are to decide.

    Args:
        weights: as `backbone.weights`.
        columns: role → column of the data's tables, where it cannot be found out.
        sample: whether the data are the task's generated sample, which has settings of
            its own.
    """

    task: str = task_catalog.DEFAULT
    backbone: str | None = None
    weights: str | None = None
    given_val_as: str | None = None
    recipes: tuple[str, ...] = ()
    columns: Mapping[ColumnRole, str] = field(default_factory=dict)
    sample: bool = False


def parse_columns(words: Sequence[str]) -> dict[ColumnRole, str]:
    """Role → column, from words such as `label=stars`.

    Raises:
        ConfigError: one is written otherwise, names no role, or gives a role or a
            column twice.
    """
    roles: tuple[ColumnRole, ...] = get_args(ColumnRole)
    columns: dict[ColumnRole, str] = {}
    for word in words:
        name, _, column = word.partition("=")
        known = [role for role in roles if role == name]
        if not known or not column:
            raise ConfigError(
                "--column",
                found=word,
                expected=f"ROLE=COLUMN, where ROLE is {', '.join(roles)}",
            )
        if known[0] in columns or column in columns.values():
            raise ConfigError(
                "--column",
                found=", ".join(words),
                expected="each role and each column once",
            )
        columns[known[0]] = column
    return columns


def settings_for(source: Path, options: InitOptions) -> tuple[Config, tuple[str, ...]]:
    """The settings for someone's data, and what the user is told of how the data were
    taken.

    Raises:
        ConfigError: an option cannot be used, or a package that the task needs is not
            installed.
        DataError: it cannot be told how the data are laid out.
    """
    values: dict[str, Any] = {"task": {"name": options.task}}
    notes: tuple[str, ...] = ()
    task = catalog.find(options.task)
    given: list[dict[str, dict[str, Any]]] = []
    if source.exists():
        described = task.reader.describe_source(source, options.columns)
        if options.columns:
            _require_table(source, options.columns)
        notes = described.notes
        given.append(described.settings)
    if options.sample:
        given.append(task.sample().settings)
    for sections in given:
        for section, settings in sections.items():
            values.setdefault(section, {}).update(settings)
    chosen = {
        ("backbone", "name"): options.backbone,
        ("backbone", "weights"): options.weights,
        ("split", "given_val_as"): options.given_val_as,
        ("finetune", "recipes"): options.recipes or None,
    }
    for (section, key), value in chosen.items():
        if value is not None:
            values.setdefault(section, {})[key] = value
    if options.columns:
        values.setdefault("data", {}).setdefault("columns", {}).update(options.columns)
    return parse(values, "thaw init"), notes


def _require_table(source: Path, columns: Mapping[ColumnRole, str]) -> None:
    """Raises ConfigError where no table could have the columns."""
    from pipeline.data.layout import METADATA, walk
    from pipeline.data.tables import is_table

    if source.is_file() or (source / METADATA).is_file():
        return
    if not any(is_table(path) for path in walk(source).files):
        role, column = next(iter(columns.items()))
        raise ConfigError(
            "--column",
            found=f"{role}={column}, and no table in {printable(str(source))} that could have it",
            expected="no --column: without a table, the folder that a file lies in is its class",
        )


def init(
    folder: Path, *, source: Path | None, config: Config, remote: str | None = None
) -> str:
    """Makes a workspace in `folder` and returns, in words, what was made and what to
    type next.

    Args:
        folder: made if it does not exist; what lies in it already stays, and must not
            be part of a workspace.
        source: file or folder of examples, copied in; never moved, linked or changed.
            None: the data comes later.
        remote: where `dvc push` sends data to, a folder or URL; None: `.dvc/storage` in
            the workspace.

    Raises:
        WorkspaceError: something would be overwritten, an earlier init was cut short,
            the source cannot be used, lies in the folder or around it, or does not fit
            on the disk.
        VersioningError: DVC refuses.
    """
    from pipeline import versioning

    folder = folder.resolve()
    data = folder / config.data.path
    _refuse_taken(folder, data)
    planned = _plan_copy(source, folder) if source else None
    address = _remote_address(remote)
    marker = folder / UNFINISHED
    marker.parent.mkdir(parents=True)
    marker.touch()
    try:
        uses_git = versioning.initialise(folder, address)
    except ThawError:
        _remove_begun(folder)
        raise
    _write_files(folder, config)
    if planned:
        _copy_files(planned, data)
        versioning.Versioning(folder).add_data()
    marker.unlink()
    return _closing_words(folder, data, planned, uses_git)


@dataclass(frozen=True)
class CopyPlan:
    """What is copied into a workspace.

    Args:
        files: below the source.
        size: of all of them, in bytes.
        left_out: names, with why.
    """

    source: Path
    files: tuple[str, ...]
    size: int
    left_out: tuple[str, ...]


def _write_files(folder: Path, config: Config) -> None:
    """Settings, stages and what Git and DVC are to ignore."""
    with (folder / ".dvc" / ".gitignore").open("a", encoding="utf-8") as stream:
        stream.write(f"/{LOCAL_REMOTE.name}\n")
    dvcignore = folder / ".dvcignore"
    dvcignore.write_text(DVCIGNORE, encoding="utf-8")
    with (folder / ".gitignore").open("a", encoding="utf-8") as stream:
        if stream.tell() > 0:
            stream.write("\n")
        stream.write(GITIGNORE)
    params = folder / "params.yaml"
    params.write_text(to_yaml(config), encoding="utf-8")
    upgrade(Workspace(folder))  # dvc.yaml, and the lock files that its stages depend on


def _refuse_taken(folder: Path, data: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise WorkspaceError(
            str(folder), found="a file", expected="a folder, or nothing"
        )
    if (folder / UNFINISHED).exists():
        command = f"rm -r {_list_begun(folder)}"
        raise WorkspaceError(
            str(folder),
            found="an earlier `thaw init` was cut short here",
            expected="nothing of a workspace",
            hint=f"remove what it made (your own folder was only copied from), then again: {command}",
        )
    names = [*OURS, str(data.relative_to(folder))]
    taken = [name for name in names if (folder / name).exists()]
    if taken:
        raise WorkspaceError(
            str(folder),
            found=f"{', '.join(taken)} already there",
            expected="nothing that would be overwritten",
            hint="choose another folder; an existing workspace is used by `cd`ing into it",
        )


def _list_begun(folder: Path) -> str:
    """What an init that was cut short has made, as a shell takes it."""
    paths = [folder / name for name in (*OURS, "data", "data.part")]
    present = [str(path) for path in paths if path.exists()]
    return shlex.join(present)


def _remove_begun(folder: Path) -> None:
    """Removes what an init that was refused has made: nothing of the user's had any of
    these names.
    """
    for folder_made in (folder / ".thaw", folder / ".dvc"):
        shutil.rmtree(folder_made, ignore_errors=True)
    (folder / ".dvcignore").unlink(missing_ok=True)


def _plan_copy(source: Path, folder: Path) -> CopyPlan:
    """What would be copied; checks that it may and that it fits."""
    resolved = source.resolve()
    target = folder.resolve()
    if resolved.is_file():
        return _plan_file_copy(resolved, target)
    _refuse_source(source, resolved, target)
    unusable: list[str] = []
    files = []
    left_out = []
    size = 0
    for path, reason in _walk_source(resolved, unusable):
        name = path.relative_to(resolved).as_posix()
        fault = _copy_fault(path, name)
        if reason:
            left_out.append(printable(f"{name} ({reason})"))
        elif fault:
            unusable.append(f"{printable(name)}: {fault}")
        else:
            files.append(name)
            size += path.stat().st_size
    if unusable:
        raise WorkspaceError(
            str(source),
            found=f"{len(unusable)} that cannot be copied",
            expected="readable files with names in UTF-8",
            hint="change their permissions or names, or move them away",
            details=unusable,
        )
    if not files:
        raise WorkspaceError(
            str(source), found="no files", expected="a folder of examples"
        )
    _refuse_full_disk(size, target)
    return CopyPlan(resolved, tuple(files), size, tuple(left_out))


def _copy_fault(path: Path, name: str) -> str:
    """Why a file cannot be copied; empty if it can."""
    if not os.access(path, os.R_OK):
        return "cannot be read"
    if not _is_utf8(name):
        return "its name is not UTF-8, and DVC keeps no other"
    return ""


def _refuse_source(source: Path, resolved: Path, target: Path) -> None:
    """Refuses a source that is no folder, or lies in the workspace or around it."""
    if not resolved.is_dir():
        found = "no file or folder" if resolved.exists() else "no such file or folder"
        is_address = ":" in source.parts[0] if source.parts else False
        raise WorkspaceError(
            source.parts[0] if is_address else str(source),
            found="an address" if is_address else found,
            expected="a folder or a table of examples",
            hint="fetch it first, and name the copy" if is_address else "",
        )
    if resolved.is_relative_to(target) or target.is_relative_to(resolved):
        raise WorkspaceError(
            str(target),
            found=f"the data folder {resolved} and the workspace lie one in the other",
            expected="separate folders",
            hint="choose another folder for the workspace",
        )


def _plan_file_copy(file: Path, target: Path) -> CopyPlan:
    """One table, which becomes the only file of the data folder."""
    if not os.access(file, os.R_OK):
        raise WorkspaceError(
            str(file),
            found="a file that cannot be read",
            expected="a table of examples",
        )
    if not _is_utf8(file.name):
        raise WorkspaceError(
            printable(str(file)),
            found="a name that is not UTF-8, and DVC keeps no other",
            expected="a name in UTF-8",
            hint="rename it",
        )
    size = file.stat().st_size
    _refuse_full_disk(size, target)
    return CopyPlan(file.parent, (file.name,), size, ())


def _is_utf8(name: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def _walk_source(source: Path, unreadable: list[str]) -> Iterator[tuple[Path, str]]:
    """Every file below `source`, and why it cannot be copied, if so; folders that
    cannot be listed are `unreadable`.
    """

    def note_failure(fault: OSError) -> None:
        path = printable(str(fault.filename))
        unreadable.append(f"{path}: {fault.strerror}")

    for folder, folders, names in os.walk(source, onerror=note_failure):
        if not os.access(folder, os.X_OK):
            unreadable.append(f"{printable(folder)}: a folder that cannot be entered")
            continue
        folders.sort()
        for name in folders:
            path = Path(folder, name)
            if path.is_symlink():
                yield path, "link to a folder"
        for name in sorted(names):
            path = Path(folder, name)
            yield path, _why_not_copied(path, source)


def _why_not_copied(path: Path, source: Path) -> str:
    """Why a file cannot be copied; empty where it can."""
    if path.is_symlink() and not path.resolve().is_relative_to(source):
        return "link out of the folder"
    if path.is_file():
        return ""
    return "dangling link" if path.is_symlink() else "not a file"


def _refuse_full_disk(size: int, target: Path) -> None:
    existing = next(folder for folder in (target, *target.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    needed = 2 * size  # the copy, and DVC's until it links the two
    if needed > free:
        raise WorkspaceError(
            str(target),
            found=f"{free / 1e9:.1f} GB free",
            expected=f"{needed / 1e9:.1f} GB: twice the data",
            hint="make room, or choose a folder on another disk",
        )


def _copy_files(planned: CopyPlan, data: Path) -> None:
    """Copies beside `data`, then renames, so that `data` is never there in part."""
    part = data.with_name(f"{data.name}.part")
    for name in planned.files:
        target = part / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(planned.source / name, target)
    part.rename(data)


def _remote_address(remote: str | None) -> str:
    if remote is None:
        return str(LOCAL_REMOTE)
    if "://" in remote:
        return remote
    folder = expanded(remote)
    if str(folder).startswith("~"):
        raise WorkspaceError(
            "--remote",
            found=f"{folder.parts[0]}, and no such user",
            expected="a folder or a URL",
        )
    return str(folder.absolute())


def _closing_words(
    folder: Path, data: Path, copied: CopyPlan | None, uses_git: bool
) -> str:
    git = "Git keeps its settings" if uses_git else "without Git"
    lines = [f"made {folder} ({git})"]
    if copied:
        lines.append(
            f"copied {pluralize(len(copied.files), 'file')} ({copied.size / 1e6:.1f} MB) into {data.name}/"
        )
    else:
        lines.append(f"put your examples into {data}, then: dvc add {data.name}")
    if copied and copied.left_out:
        named = ", ".join(copied.left_out[:MAX_NAMED])
        unnamed = len(copied.left_out) - MAX_NAMED
        more = f" and {unnamed} more" if unnamed > 0 else ""
        lines.append(f"left out {named}{more}")
    lines += ["", "next:", f"  cd {shlex.quote(str(folder))}", "  thaw run"]
    return "\n".join(lines)
