"""Versions of the data that were accepted: what drift is measured against."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import files

_KEPT = 20


class ManifestHistory:
    """Manifests of the latest accepted versions, by the sha256 of their file, oldest
    first in `order.json`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, sha256: str) -> pa.Table | None:
        """The latest accepted manifest that is another one; None where there is none
        that can be read.
        """
        for other in reversed(self._order()):
            path = self._folder / f"{other}.parquet"
            if other == sha256 or not path.is_file() or files.sha256(path) != other:
                continue
            try:
                table = pq.read_table(path)
            except (OSError, pa.ArrowInvalid):
                continue
            # A manifest of an earlier version of Thaw may lack columns; what drift is
            # measured on it has.
            if "target" in table.column_names:
                return table
        return None

    def add(self, path: Path, sha256: str) -> None:
        """Keeps a manifest as the latest accepted one."""
        with files.replacing(self._folder / f"{sha256}.parquet") as part:
            shutil.copyfile(path, part)
        others = [other for other in self._order() if other != sha256]
        order = [*others, sha256]
        for forgotten in order[:-_KEPT]:
            (self._folder / f"{forgotten}.parquet").unlink(missing_ok=True)
        text = json.dumps(order[-_KEPT:])
        files.replace_text(self._folder / "order.json", text)

    def _order(self) -> list[str]:
        try:
            values = json.loads(
                (self._folder / "order.json").read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            return []
        if isinstance(values, list):
            return [value for value in values if isinstance(value, str)]
        return []
