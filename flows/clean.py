"""`thaw clean`: removes what can be made again; never data, the ledger, outputs, records or registered models."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.workspace import Workspace

# Folders below .thaw, by what losing them costs.
CACHES = {
    "pixels": "decoded examples: decoded again",
    "features": "outputs of frozen layers: computed again",
    "scan": "what scans measured: measured again",
    "plans": "measured plans: measured again",
}
TRAININGS = {
    "checkpoints": "unfinished trainings: begun anew",
    "candidates": "finished candidates: trained again when asked for",
}
HISTORY = {"runs": "times and Data Docs of past runs", "logs": "servers' logs"}


@dataclass(frozen=True)
class RemovableFolder:
    """A folder that may go."""

    path: Path
    meaning: str
    bytes: int


def removable(workspace: Workspace, *, trainings: bool, history: bool) -> list[RemovableFolder]:
    """What there is to remove, with sizes in bytes."""
    kinds = CACHES | (TRAININGS if trainings else {}) | (HISTORY if history else {})
    found = ((workspace.scratch / name, meaning) for name, meaning in kinds.items())
    return [RemovableFolder(path, meaning, _size(path)) for path, meaning in found if path.is_dir()]


def remove(items: list[RemovableFolder]) -> None:
    """Removes them."""
    for item in items:
        shutil.rmtree(item.path)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
