"""A workspace: the folder with params.yaml, data.dvc and dvc.yaml, and where everything
in it lies.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Config, load
from pipeline.errors import WorkspaceError
from pipeline.redaction import redact


@dataclass(frozen=True)
class Workspace:
    """Paths of a workspace; making one touches nothing."""

    root: Path

    @classmethod
    def find(cls, start: Path) -> Workspace:
        """The workspace that `start` lies in.

        Raises:
            WorkspaceError: neither `start` nor a folder above it has a params.yaml
                beside a dvc.yaml.
        """
        for folder in (start.resolve(), *start.resolve().parents):
            if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
                return cls(folder)
        raise WorkspaceError(
            str(start),
            found="no params.yaml beside a dvc.yaml, here or above",
            expected="a workspace",
            hint="cd into one, or make one: thaw init DIR --data FOLDER",
        )

    def config(self) -> Config:
        """params.yaml, checked."""
        return load(self.root / "params.yaml")

    def output(self, step: str) -> Path:
        """The one output folder of a step."""
        return self.root / "artifacts" / step

    @property
    def scratch(self) -> Path:
        return self.root / ".thaw"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.parquet"

    @property
    def baseline(self) -> Path:
        """Folder of the model trained from scratch for comparison."""
        return self.root / "baseline"

    @property
    def baseline_dvc(self) -> Path:
        """The .dvc file that tracks it."""
        return self.root / "baseline.dvc"

    @property
    def baseline_lock(self) -> Path:
        """Which of them have been used: the dependency of the fine-tuning."""
        return self.root / "baseline.lock"

    @property
    def mlflow(self) -> Path:
        """Folder of the embedded tracking store."""
        return self.root / "mlflow"

    def model_name(self, settings: Config) -> str:
        """The name its models have in the registry."""
        return settings.register_.name or self.root.name

    @property
    def report(self) -> Path:
        return self.root / "report.html"


def empty_folder(folder: Path) -> Path:
    """Makes `folder` exist and be empty, removing what an earlier run left there.

    Old outputs may be read-only hard links into DVC's cache: they are unlinked, never
    written to.
    """
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def lock(workspace: Workspace, wait: float = 0.0) -> Iterator[None]:
    """Keeps the workspace to this process while the block runs; a killed process lets
    go of it by dying.

    Args:
        wait: seconds to wait for another run to end.

    Raises:
        WorkspaceError: another run has it; the error names its process, start and
            command.
    """
    from filelock import FileLock, Timeout

    workspace.scratch.mkdir(parents=True, exist_ok=True)
    run_lock = FileLock(workspace.scratch / "run.lock")
    holder = workspace.scratch / "run.json"
    try:
        run_lock.acquire(timeout=wait)
    except Timeout as fault:
        raise WorkspaceError(
            str(workspace.root),
            found=f"in use by {_describe_holder(holder)}",
            expected="one run at a time",
            hint="wait for it to end, or stop it",
        ) from fault
    try:
        identity = {
            "pid": os.getpid(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": redact(" ".join(sys.argv)),
        }
        holder.write_text(json.dumps(identity))
        yield
    finally:
        # Removed before letting go: afterwards it may be the next run's.
        holder.unlink(missing_ok=True)
        run_lock.release()


def _describe_holder(path: Path) -> str:
    """Who holds the lock, as far as it can be told: the file is written just after the
    lock is taken.
    """
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
        return f"process {who['pid']} since {who['started']}: {who['command']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process that has just started"
