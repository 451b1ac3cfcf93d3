"""A workspace made by an earlier version of Thaw: what this version would have written
otherwise, and writing it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from pipeline import dvc_yaml, step_table
from pipeline.config import ENGINE, read_yaml
from pipeline.errors import WorkspaceError
from pipeline.files import replace_text
from pipeline.workspace import Workspace


class WorkspaceChange(NamedTuple):
    """One file of a workspace to be written anew, and what that changes, in a user's
    words.
    """

    path: Path
    text: str
    meaning: str


def list_changes(workspace: Workspace) -> list[WorkspaceChange]:
    """What `upgrade` would write; empty where the workspace is as this version makes
    it. Nothing is written.

    Raises:
        ConfigError: params.yaml cannot be used, or was written by a newer version.
        WorkspaceError: dvc.yaml cannot be used.
    """
    return list(_changes(workspace))


def upgrade(workspace: Workspace) -> list[str]:
    """Writes what this version would have written otherwise, and says what that was;
    see `list_changes` for the errors.

    Settings, comments, stages of the user's own and everything else in these files stay
    as they are.
    """
    changes = list_changes(workspace)
    for change in changes:
        replace_text(change.path.resolve(), change.text)
    return [change.meaning for change in changes]


def refuse_outdated(workspace: Workspace) -> None:
    """Refuses to run a single step in a workspace that is to be upgraded first:
    dvc.yaml cannot be changed under DVC.

    Raises:
        WorkspaceError: it names what is outdated.
    """
    changes = list_changes(workspace)
    if changes:
        raise WorkspaceError(
            str(workspace.root),
            found="a workspace made by an earlier version of Thaw",
            expected="one that this version has brought up to date",
            hint="thaw run (once; then `dvc repro` and `thaw step` work as well)",
            details=[change.meaning for change in changes],
        )


def _changes(workspace: Workspace) -> Iterator[WorkspaceChange]:
    older = workspace.config().engine
    if older < ENGINE:
        path = workspace.root / "params.yaml"
        text = _raise_engine(_read_raw(path))
        yield WorkspaceChange(
            path,
            text,
            f"params.yaml: engine {older} → {ENGINE}, so every step runs anew",
        )
    yield from _dvc_yaml_changes(workspace.root)
    for entry in step_table.LOCK_FILES:
        path = workspace.root / entry.file
        if not path.exists():
            yield WorkspaceChange(
                path,
                entry.content,
                f"{entry.file}: made, for the {entry.step} step to fill in",
            )


def _dvc_yaml_changes(root: Path) -> Iterator[WorkspaceChange]:
    path = root / "dvc.yaml"
    stages = dvc_yaml.stages_of(read_yaml(_read_raw(root / "params.yaml")))
    if not path.exists():
        yield WorkspaceChange(path, dvc_yaml.generate(stages), "dvc.yaml: made")
        return
    text = _read_raw(path)
    outdated = dvc_yaml.outdated_stages(text, stages)
    if outdated:
        meaning = f"dvc.yaml: stages {', '.join(outdated)} rewritten as this version of Thaw needs them"
        yield WorkspaceChange(path, dvc_yaml.update(text, stages), meaning)


def _read_raw(path: Path) -> str:
    """The file's text, with its own ends of lines."""
    return path.read_bytes().decode("utf-8")


def _raise_engine(text: str) -> str:
    """params.yaml with the number of its `engine` raised, and nothing else changed."""
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)  # it was understood as settings
    for key, value in root.value:
        if key.value == "engine":
            before = text[: value.start_mark.index]
            after = text[value.end_mark.index :]
            return f"{before}{ENGINE}{after}"
    raise AssertionError("settings without an engine")
