"""`thaw clean`: removes what can be made again; never data, the ledger, outputs,
records or registered models.
"""

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


def list_removable(
    workspace: Workspace, *, trainings: bool, history: bool
) -> list[RemovableFolder]:
    """What there is to remove, with sizes in bytes."""
    kinds = dict(CACHES)
    if trainings:
        kinds |= TRAININGS
    if history:
        kinds |= HISTORY
    folders = []
    for name, meaning in kinds.items():
        path = workspace.scratch / name
        if path.is_dir():
            folders.append(RemovableFolder(path, meaning, _measure_size(path)))
    return folders


def remove(items: list[RemovableFolder]) -> None:
    """Removes them."""
    for item in items:
        shutil.rmtree(item.path)


def _measure_size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        if path.is_file():
            total += path.stat().st_size
    return total
