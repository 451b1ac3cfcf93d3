"""What a colleague, or this machine after an accident, could not get back yet: asked of
Git and of the DVC remote.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.versioning import checkout, dvc_session
from pipeline.versioning.checkout import TrackedPath

if TYPE_CHECKING:
    from dvc.repo import Repo


class UnsharedFiles(NamedTuple):
    """What others could not get back.

    Args:
        not_added: why data.dvc does not lead back to the data; empty where it does.
        uncommitted: files that Git does not hold as they are.
        unpushed: the data or the ledger, where the DVC remote lacks them.
    """

    not_added: str
    uncommitted: tuple[str, ...]
    unpushed: tuple[str, ...]


def list_uncommitted(root: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Those of these files that Git does not hold as they are; none where there is no
    Git, or it ignores them.
    """
    wanted = list(names)
    status = ["git", "status", "--porcelain", "-z", "--untracked-files=all"]
    try:
        answer = subprocess.run(
            [*status, "--", *wanted],
            cwd=root,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ()
    # From the top of the Git repository.
    paths = [f"/{entry[3:]}" for entry in answer.stdout.split("\0")]
    uncommitted = []
    for name in wanted:
        if any(path.endswith(f"/{name}") for path in paths):
            uncommitted.append(name)
    return tuple(uncommitted)


def list_unpushed(repo: Repo, tracked: Iterable[TrackedPath]) -> tuple[str, ...]:
    """Those whose tracked version the DVC remote lacks. Only a folder outside the
    workspace is asked: another kind of remote takes seconds to answer, and what lies in
    the workspace is lost with it.
    """
    name, address = dvc_session.default_remote(repo)
    if address is None or "://" in address:
        return ()
    folder = Path(repo.dvc_dir or repo.root_dir, address).resolve()
    if folder.is_relative_to(Path(repo.root_dir).resolve()):
        return ()
    remote = repo.cloud.get_remote_odb(name)
    unpushed = []
    for item in tracked:
        version = checkout.tracked_output(repo, item).hash_info.value
        if not remote.exists(version):
            unpushed.append(item.path.name)
    return tuple(unpushed)
