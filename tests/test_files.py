"""Who may read what Thaw writes: whom the umask says, and of a secret its owner alone."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import up
from flows.servers import Server
from pipeline import files
from pipeline.report.page import write_page


@pytest.fixture(params=[0o077, 0o027, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    wanted: int = request.param
    before = os.umask(wanted)
    yield wanted
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_report_has_the_mode_that_the_umask_says(tmp_path: Path, umask: int) -> None:
    report = tmp_path / "report.html"
    write_page("<p>", report)
    assert mode(report) == 0o666 & ~umask


def test_a_replaced_report_gets_the_umasks_mode_too(tmp_path: Path, umask: int) -> None:
    report = tmp_path / "report.html"
    report.write_text("old")
    report.chmod(0o604)
    write_page("<p>new", report)
    assert mode(report) == 0o666 & ~umask
    assert report.read_text() == "<p>new"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_library_that_writes_for_its_owner_alone_is_corrected(tmp_path: Path, umask: int) -> None:
    import torch
    from safetensors.torch import save_file

    weights = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, weights)
    files.apply_umask(weights)
    assert mode(weights) == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_the_secret_of_the_servers_is_its_owners_alone_also_where_the_file_was_open_to_all(
    tmp_path: Path, umask: int
) -> None:
    note = tmp_path / "servers.json"
    note.write_text("{}")
    note.chmod(0o644)
    opened_before = note.open()
    servers = [Server(name, 1, "/", [sys.executable], {}, tmp_path / "log", tmp_path) for name in ("Prefect", "MLflow")]
    up._write_note(note, servers, "thaw:canary")
    assert mode(note) == 0o600
    with opened_before:
        assert opened_before.read() == "{}", "who had the old file open reads the secret"
