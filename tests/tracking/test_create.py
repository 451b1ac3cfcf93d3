"""The embedded store's database is made whole or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from disks import small_files
from pipeline.tracking.embedded_store import create

pytestmark = pytest.mark.slow


def test_a_full_disk_leaves_no_half_made_database(tmp_path: Path) -> None:
    with (
        small_files(100_000),
        pytest.raises(Exception, match=r"disk I/O error|disk is full"),
    ):
        create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["artifacts"]
    create(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"artifacts", "mlflow.db"}
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM experiments").fetchone() == (1,)
