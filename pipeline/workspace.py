"""A workspace: the folder with params.yaml, data.dvc and dvc.yaml, and where everything in it lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline import config
from pipeline.errors import WorkspaceError

STEPS = ("validate", "split", "backbone", "finetune", "evaluate")  # the DVC stages; register is a step besides


@dataclass(frozen=True)
class Workspace:
    """Paths of a workspace; making one touches nothing."""

    root: Path

    @classmethod
    def find(cls, start: Path) -> Workspace:
        """The workspace that `start` lies in.

        Raises:
            WorkspaceError: neither `start` nor a folder above it has a params.yaml beside a dvc.yaml.
        """
        for folder in (start.resolve(), *start.resolve().parents):
            if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
                return cls(folder)
        raise WorkspaceError(
            str(start), found="no params.yaml beside a dvc.yaml, here or above", expected="a workspace",
            mend="cd into one, or make one: thaw init DIR --data FOLDER",
        )  # fmt: skip

    def config(self) -> config.Config:
        """params.yaml, checked."""
        return config.load(self.root / "params.yaml")

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
    def backbone_lock(self) -> Path:
        return self.root / "backbone.lock"

    @property
    def mlflow(self) -> Path:
        """Folder of the embedded tracking store."""
        return self.root / "mlflow"

    @property
    def report(self) -> Path:
        return self.root / "report.html"
