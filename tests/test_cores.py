"""How many cores there are to use: affinity, and quotas of control groups of both
versions, nested or not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import cores as module
from pipeline.cores import cores

SOURCES = [Path(module.__file__).parent, Path(module.__file__).parents[1] / "flows"]


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def lay(root: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    """A file system as a process in a control group sees it."""
    own = root / "proc/self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(cgroup)
    (own / "mountinfo").write_text(mountinfo)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,cpu,cpuacct\n"
CONTAINER_V1 = "33 24 0:29 /docker/ab /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert cores(lay(tmp_path, "0::/a\n", V2, {"a/cpu.max": "max 100000\n"})) == 8


def test_a_quota_of_version_2(tmp_path: Path) -> None:
    assert (
        cores(lay(tmp_path, "0::/a/b\n", V2, {"a/b/cpu.max": "300000 100000\n"})) == 3
    )


def test_a_part_of_a_core_counts_as_one_more(tmp_path: Path) -> None:
    assert cores(lay(tmp_path, "0::/a\n", V2, {"a/cpu.max": "150000 100000\n"})) == 2


def test_the_smallest_quota_of_nested_groups(tmp_path: Path) -> None:
    files = {
        "a/b/c/cpu.max": "max 100000\n",
        "a/b/cpu.max": "600000 100000\n",
        "a/cpu.max": "200000 100000\n",
    }
    assert cores(lay(tmp_path, "0::/a/b/c\n", V2, files)) == 2


def test_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    assert cores(lay(tmp_path, "0::/\n", V2, {"cpu.max": "400000 100000\n"})) == 4


def test_a_quota_of_version_1(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
        "cpu,cpuacct/a/cpu.cfs_period_us": "50000\n",
    }
    assert cores(lay(tmp_path, "4:cpu,cpuacct:/a\n2:memory:/x\n", V1, files)) == 5


def test_nested_groups_of_version_1(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n",
        "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
    }
    assert cores(lay(tmp_path, "4:cpu,cpuacct:/a/b\n", V1, files)) == 1


def test_a_container_of_version_1_whose_group_has_another_name_outside(
    tmp_path: Path,
) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    assert cores(lay(tmp_path, "4:cpu,cpuacct:/docker/ab\n", CONTAINER_V1, files)) == 3


def test_both_versions_at_once(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/a/cpu.cfs_quota_us": "200000\n",
        "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        "unified/x/memory.max": "max\n",
    }
    unified = "41 24 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    assert cores(lay(tmp_path, "4:cpu,cpuacct:/a\n0::/x\n", V1 + unified, files)) == 2


def test_where_there_is_neither_affinity_nor_a_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores(tmp_path) == os.cpu_count()


def test_nothing_else_asks_for_the_affinity() -> None:
    """Where it is missing, that is known in one place alone."""
    asking = []
    for folder in SOURCES:
        for path in folder.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "sched_getaffinity" in text or "cpu_count()" in text:
                asking.append(path.name)
    assert asking == ["cores.py"]


ASKS = "from pipeline.cores import cores; print(cores())"


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A real control group, with another inside it, that may use half a core."""
    bases = [
        Path("/sys/fs/cgroup/cpu"),
        Path("/sys/fs/cgroup/cpu,cpuacct"),
        Path("/sys/fs/cgroup"),
    ]
    base = next(
        (folder for folder in bases if (folder / "cgroup.procs").is_file()), None
    )
    outer = base / f"thaw-test-{os.getpid()}" if base else None
    try:
        if outer is None:
            pytest.skip("no control groups here")
        (outer / "inner").mkdir(parents=True)
        if (outer / "cpu.max").exists():
            (outer / "cpu.max").write_text("50000 100000")
        else:
            (outer / "cpu.cfs_quota_us").write_text("50000")
    except OSError as fault:
        pytest.skip(f"control groups cannot be made here: {fault}")
    else:
        yield outer / "inner"
    finally:
        for folder in (outer / "inner", outer) if outer else ():
            if folder.is_dir():
                folder.rmdir()


def test_in_a_real_group_inside_one_with_half_a_core(half_a_core: Path) -> None:
    join = f"open({str(half_a_core / 'cgroup.procs')!r}, 'w').write('0'); "
    done = subprocess.run(
        [sys.executable, "-c", join + ASKS], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
