"""The versions that drift is measured against."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import manifest
from pipeline.data.manifest_history import ManifestHistory


def version(folder: Path, name: str) -> tuple[Path, str]:
    """A manifest of one example, and its hash."""
    values = {"id": [name], "path": [f"{name}.png"], "aliases": [[]], "target": [name]}
    columns = {
        field.name: pa.array(values.get(field.name, [None]), field.type)
        for field in manifest.COLUMNS
    }
    path = folder / f"{name}.parquet"
    return path, manifest.write(pa.table(columns), path)


def before(accepted: ManifestHistory, sha256: str) -> str | None:
    table = accepted.before(sha256)
    return None if table is None else table["target"][0].as_py()


@pytest.fixture
def accepted(tmp_path: Path) -> ManifestHistory:
    return ManifestHistory(tmp_path / "accepted")


def test_the_latest_other_version_is_the_reference(
    accepted: ManifestHistory, tmp_path: Path
) -> None:
    (one, first), (two, second) = version(tmp_path, "one"), version(tmp_path, "two")
    assert before(accepted, first) is None
    accepted.add(one, first)
    assert (before(accepted, first), before(accepted, second)) == (None, "one")
    accepted.add(two, second)
    assert (before(accepted, second), before(accepted, "new")) == ("one", "two")
    accepted.add(one, first)
    assert before(accepted, "new") == "one"


def test_a_version_of_an_earlier_layout_is_still_the_reference(
    accepted: ManifestHistory, tmp_path: Path
) -> None:
    path = tmp_path / "old.parquet"
    sha256 = manifest.write_table(pa.table({"id": ["x"], "target": ["old"]}), path)
    accepted.add(path, sha256)
    assert before(accepted, "new") == "old"


def test_damaged_version_is_passed_over(
    accepted: ManifestHistory, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        accepted.add(*version(tmp_path, name))
    (
        tmp_path / "accepted" / f"{manifest.sha256(tmp_path / 'two.parquet')}.parquet"
    ).write_bytes(b"damaged")
    assert before(accepted, "new") == "one"


@pytest.mark.parametrize("damage", [b"", b"{", b"7", b"[7, null]"])
def test_damaged_order_is_as_good_as_none(
    accepted: ManifestHistory, tmp_path: Path, damage: bytes
) -> None:
    accepted.add(*version(tmp_path, "one"))
    (tmp_path / "accepted" / "order.json").write_bytes(damage)
    assert before(accepted, "new") is None
    accepted.add(*version(tmp_path, "two"))
    assert before(accepted, "new") == "two"


def test_old_versions_are_let_go(accepted: ManifestHistory, tmp_path: Path) -> None:
    for at in range(25):
        accepted.add(*version(tmp_path, f"v{at}"))
    assert len(list((tmp_path / "accepted").glob("*.parquet"))) == 20
