"""What a colleague, or this machine after an accident, could not get back yet: asked of Git and of the DVC remote."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.versioning import checkout, dvc_session
from pipeline.versioning.checkout import PinnedFiles

if TYPE_CHECKING:
    from dvc.repo import Repo


class UnsharedFiles(NamedTuple):
    """What others could not get back.

    Args:
        unpinned: why data.dvc does not lead back to the data; empty where it does.
        uncommitted: files that Git does not hold as they are.
        unpushed: the data or the ledger, where the DVC remote lacks them.
    """

    unpinned: str
    uncommitted: tuple[str, ...]
    unpushed: tuple[str, ...]


def uncommitted(root: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Those of these files that Git does not hold as they are; none where there is no Git, or it ignores them."""
    wanted = list(names)
    command = ["git", "status", "--porcelain", "-z", "--untracked-files=all", "--", *wanted]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, errors="surrogateescape", check=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    paths = [entry[3:] for entry in done.stdout.split("\0")]  # from the top of the Git repository
    return tuple(name for name in wanted if any(f"/{path}".endswith(f"/{name}") for path in paths))


def unpushed(repo: Repo, pinned: Iterable[PinnedFiles]) -> tuple[str, ...]:
    """Those whose pinned version the DVC remote lacks. Only a folder outside the workspace is asked: another kind of
    remote takes seconds to answer, and what lies in the workspace is lost with it."""
    name, address = dvc_session.remote(repo)
    if address is None or "://" in address:
        return ()
    folder = Path(repo.dvc_dir or repo.root_dir, address).resolve()
    if folder.is_relative_to(Path(repo.root_dir).resolve()):
        return ()
    remote = repo.cloud.get_remote_odb(name)
    versions = {what.path.name: checkout.load_pin(repo, what).hash_info.value for what in pinned}
    return tuple(name for name, version in versions.items() if not remote.exists(version))
