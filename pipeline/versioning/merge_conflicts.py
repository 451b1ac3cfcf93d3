"""Git merge conflicts in the small files that a workspace is made of."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import WorkspaceError

# ours, then (where Git is set to show it) the common ancestor, then theirs
_CONFLICT = re.compile(
    r"^<{7}[^\n]*\n(?P<ours>.*?)(?:^\|{7}[^\n]*\n.*?)?^={7}\r?\n(?P<theirs>.*?)^>{7}[^\n]*(?:\n|\Z)",
    re.M | re.S,
)


def split_sides(path: Path) -> tuple[str, str] | None:
    """Our and their text of a file that holds conflict markers; None where it holds
    none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if not _CONFLICT.search(text):
        return None
    ours = _CONFLICT.sub(r"\g<ours>", text)
    theirs = _CONFLICT.sub(r"\g<theirs>", text)
    return ours, theirs


def read_common_ancestor(path: Path) -> str:
    """The text of a conflicting file as both sides had it before.

    Raises:
        WorkspaceError: Git does not know it: the merge is over, or both sides made the
            file.
    """
    command = ["git", "show", f":1:./{path.name}"]
    try:
        shown = subprocess.run(
            command, cwd=path.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as fault:
        raise WorkspaceError(
            str(path),
            found="a Git merge conflict, and no common ancestor of both sides in Git",
            expected="one side, tracked by DVC",
            hint=f"git checkout --ours {path.name} or git checkout --theirs {path.name}, then: thaw run",
        ) from fault
    return shown.stdout


def refuse(files: Iterable[Path], hints: Mapping[str, str]) -> None:
    """Refuses files that hold conflict markers.

    Args:
        hints: file name → what to do about it.

    Raises:
        WorkspaceError: it names them.
    """
    conflicting = [path for path in files if split_sides(path)]
    if not conflicting:
        return
    names = [path.name for path in conflicting]
    raise WorkspaceError(
        str(conflicting[0].parent),
        found=f"Git merge conflicts in {', '.join(names)}",
        expected="files without conflict markers",
        hint="resolve them, then: thaw run",
        details=[f"{name}: {hints.get(name, 'edit it')}" for name in names],
    )
