"""DVC in process: opened, locked, quiet, its errors translated."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline import redaction
from pipeline.errors import VersioningError

if TYPE_CHECKING:
    from dvc.repo import Repo

T = TypeVar("T")
REMOTE = "storage"  # what the default remote is called
SECONDS_BETWEEN_TRIES = 0.2


@dataclass(frozen=True)
class DvcSession:
    """Opens the repository at `root` for one piece of work at a time; `patience` in
    seconds.
    """

    root: Path
    patience: float

    def run(self, work: Callable[[Repo], T]) -> T:
        """The result of `work` on the repository, locked.

        Raises:
            VersioningError: another DVC process keeps the lock (it is named), or DVC
                refuses.
        """
        from dvc.exceptions import DvcException
        from dvc.lock import LockError

        silence_dvc()
        deadline = time.monotonic() + self.patience
        # DVC names things by their path from the current folder, and makes stages
        # there.
        with contextlib.chdir(self.root):
            while True:
                try:
                    return self._run_locked(work)
                except LockError as fault:
                    if time.monotonic() > deadline:
                        raise self._locked_error(fault) from fault
                    time.sleep(SECONDS_BETWEEN_TRIES)
                except DvcException as fault:
                    cause = f" ({fault.__cause__})" if fault.__cause__ else ""
                    found = f"{on_one_line(fault)}{cause}"
                    raise VersioningError(
                        str(self.root), found=found, hint="thaw doctor"
                    ) from fault
                except (OSError, UnicodeError) as fault:
                    raise VersioningError(
                        str(self.root), found=f"DVC: {fault}", hint="thaw doctor"
                    ) from fault

    def _run_locked(self, work: Callable[[Repo], T]) -> T:
        from dvc.repo import Repo, lock_repo

        with Repo(str(self.root)) as repo, lock_repo(repo):
            redaction.learn(repo.config["remote"])
            return work(repo)

    def _locked_error(self, fault: Exception) -> VersioningError:
        lines = str(fault).splitlines()
        holders = [line.strip() for line in lines if "(PID" in line]
        if not holders:
            holders = _find_lock_holder(self.root)
        return VersioningError(
            str(self.root / ".dvc"),
            found=" ".join(["locked by another DVC process", *holders]),
            expected=f"the lock within {self.patience:g} s",
            hint="wait for that process to end, or stop it",
        )


def initialise(root: Path, remote: str) -> bool:
    """Makes `root` a DVC repository of its own and returns whether Git is used: where
    `root` lies in a Git repository that does not ignore it.

    Args:
        remote: URL or path of the default remote; a relative path is below `root`, and
            moves with it.

    Raises:
        VersioningError: DVC refuses.
    """
    from dvc.exceptions import DvcException

    silence_dvc()
    with contextlib.chdir(root):
        try:
            with _new_repository() as repo, repo.config.edit() as settings:
                settings["core"] |= {
                    "analytics": False,
                    "check_update": False,
                    "remote": REMOTE,
                }
                settings["cache"] |= {"type": "reflink,hardlink,copy"}
                settings["remote"][REMOTE] = {"url": remote}
                return not settings["core"].get("no_scm", False)
        except DvcException as fault:
            raise VersioningError(
                str(root), found=on_one_line(fault), expected="a new DVC repository"
            ) from fault


def _new_repository() -> Repo:
    """A new repository in the current folder: below a Git repository where there is
    one, else without Git.
    """
    from dvc.exceptions import InitError
    from dvc.repo import Repo

    try:
        return Repo.init(".", subdir=True)
    except InitError:
        return Repo.init(".", no_scm=True)


def default_remote(repo: Repo) -> tuple[str | None, str | None]:
    """Name and address of the default remote; either is None where DVC's configuration
    lacks it.
    """
    name = repo.config["core"].get("remote")
    settings = repo.config["remote"].get(name, {})
    return name, settings.get("url")


def silence_dvc() -> None:
    """Keeps DVC's log lines from the user, and its progress bars, which go by the log
    level.
    """
    for name in ("dvc", "dvc_data", "dvc_objects", "scmrepo"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def on_one_line(fault: Exception) -> str:
    """An error's text on one line."""
    return " ".join(str(fault).split())


def _find_lock_holder(root: Path) -> list[str]:
    """The process that DVC's lock file names, in words; nothing where it names none
    that runs.
    """
    import psutil

    try:
        number = (root / ".dvc" / "tmp" / "lock").read_text().split()[0]
        process = psutil.Process(int(number))
        return [f"(PID {process.pid}): {' '.join(process.cmdline())}"]
    except (OSError, ValueError, IndexError, psutil.Error):
        return []
