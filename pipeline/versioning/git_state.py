"""The revision of a workspace's Git repository, and which tracked files differ from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipeline.records import GitState

CODE_AND_BLANK = 3  # characters before the path in an entry of `git status --porcelain`


def read_git_state(root: Path, revision: str) -> GitState:
    """What Git holds of a workspace.

    Args:
        revision: the commit that is checked out.
    """
    command = [
        "git",
        "status",
        "--porcelain",
        "-z",
        "--untracked-files=no",
        "--no-renames",
    ]
    try:
        status = subprocess.run(
            command,
            cwd=root,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return GitState(revision=revision)
    entries = [entry for entry in status.stdout.split("\0") if entry]
    changed = sorted(entry[CODE_AND_BLANK:] for entry in entries)
    return GitState(revision=revision, changed=tuple(changed))
