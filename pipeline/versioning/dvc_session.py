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


@dataclass(frozen=True)
class Session:
    """Opens the repository at `root` for one piece of work at a time; `patience` in seconds."""

    root: Path
    patience: float

    def run(self, work: Callable[[Repo], T]) -> T:
        """The result of `work` on the repository, locked.

        Raises:
            VersioningError: another DVC process keeps the lock (it is named), or DVC refuses.
        """
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import Repo, lock_repo

        quieten()
        until = time.monotonic() + self.patience
        # DVC names things by their path from the current folder, and makes stages there.
        with contextlib.chdir(self.root):
            while True:
                try:
                    with Repo(str(self.root)) as repo, lock_repo(repo):
                        redaction.learn(repo.config["remote"])
                        return work(repo)
                except LockError as fault:
                    if time.monotonic() > until:
                        raise self._busy(fault) from fault
                    time.sleep(0.2)
                except DvcException as fault:
                    cause = f" ({fault.__cause__})" if fault.__cause__ else ""
                    raise VersioningError(str(self.root), found=f"{plain(fault)}{cause}", hint="thaw doctor") from fault
                except (OSError, UnicodeError) as fault:
                    raise VersioningError(str(self.root), found=f"DVC: {fault}", hint="thaw doctor") from fault

    def _busy(self, fault: Exception) -> VersioningError:
        holders = [line.strip() for line in str(fault).splitlines() if "(PID" in line] or _lock_holder(self.root)
        return VersioningError(
            str(self.root / ".dvc"), found="locked by another DVC process" + "".join(f" {who}" for who in holders),
            expected=f"the lock within {self.patience:g} s", hint="wait for that process to end, or stop it",
        )  # fmt: skip


def initialise(root: Path, remote: str) -> bool:
    """Makes `root` a DVC repository of its own and returns whether Git is used: where `root` lies in a Git
    repository that does not ignore it.

    Args:
        remote: URL or path of the default remote; a relative path is below `root`, and moves with it.

    Raises:
        VersioningError: DVC refuses.
    """
    from dvc.exceptions import DvcException, InitError
    from dvc.repo import Repo

    quieten()
    with contextlib.chdir(root):
        try:
            try:
                repo = Repo.init(".", subdir=True)
            except InitError:
                repo = Repo.init(".", no_scm=True)
            with repo, repo.config.edit() as settings:
                settings["core"] |= {"analytics": False, "check_update": False, "remote": REMOTE}
                settings["cache"] |= {"type": "reflink,hardlink,copy"}
                settings["remote"][REMOTE] = {"url": remote}
                return not settings["core"].get("no_scm", False)
        except DvcException as fault:
            raise VersioningError(str(root), found=plain(fault), expected="a new DVC repository") from fault


def remote(repo: Repo) -> tuple[str | None, str | None]:
    """Name and address of the default remote; either is None where DVC's configuration lacks it."""
    name = repo.config["core"].get("remote")
    return name, repo.config["remote"].get(name, {}).get("url")


def quieten() -> None:
    """Keeps DVC's log lines from the user, and its progress bars, which go by the log level."""
    for name in ("dvc", "dvc_data", "dvc_objects", "scmrepo"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def plain(fault: Exception) -> str:
    """An error's text on one line."""
    return " ".join(str(fault).split())


def _lock_holder(root: Path) -> list[str]:
    import psutil

    with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
        process = psutil.Process(int((root / ".dvc" / "tmp" / "lock").read_text().split()[0]))
        return [f"(PID {process.pid}): {' '.join(process.cmdline())}"]
    return []
