"""How many CPU cores this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


def cores(system: Path = Path("/")) -> int:
    """CPU cores this process may use: its affinity, and the smallest quota of its
    control groups; at least 1.

    A quota of one and a half cores counts as two. Where there are no control groups
    (macOS), the affinity counts alone, and where there is no affinity either, all cores
    of the machine.

    Args:
        system: root of the file system in which `proc` and the control groups lie.
    """
    allowed = float(_allowed())
    for quota in _quotas(system):
        allowed = min(allowed, quota)
    return max(1, math.ceil(allowed))


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Hierarchy(NamedTuple):
    """A mounted hierarchy of control groups."""

    mounted: Path
    root: PurePosixPath  # the group that is seen at the mount point
    controllers: frozenset[str]  # empty: version 2


def _quotas(system: Path) -> Iterator[float]:
    """The quotas, in cores, of this process's groups and all groups that enclose them."""
    try:
        mounts = (
            (system / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        )
        memberships = (
            (system / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        )
    except OSError:
        return
    hierarchies = list(_hierarchies(mounts, system))
    for line in memberships:
        _, controllers, group = line.split(":", 2)
        controllers_asked = frozenset(controllers.split(",")) - {""}
        for hierarchy in hierarchies:
            if hierarchy.controllers == controllers_asked:
                yield from _enclosing_quotas(hierarchy, PurePosixPath(group))


def _hierarchies(mounts: list[str], system: Path) -> Iterator[_Hierarchy]:
    """The hierarchies that can limit the processor; the format of the lines is in
    proc_pid_mountinfo(5).
    """
    for line in mounts:
        place, _, kind = line.partition(" - ")
        root, mounted = place.split(" ")[3:5]
        file_system, _, options = kind.split(" ", 2)
        below = system / mounted.lstrip("/")
        if file_system == "cgroup2":
            yield _Hierarchy(below, PurePosixPath(root), frozenset())
        elif file_system == "cgroup":
            controllers = frozenset(options.split(",")) - {"rw", "ro"}
            if "cpu" in controllers:
                yield _Hierarchy(below, PurePosixPath(root), controllers)


def _enclosing_quotas(hierarchy: _Hierarchy, group: PurePosixPath) -> Iterator[float]:
    """Of a group and all above it, as far as they can be seen: in a container that may
    be the mount point alone.
    """
    if group.is_relative_to(hierarchy.root):
        inside = group.relative_to(hierarchy.root)
    else:
        inside = PurePosixPath()
    for part in (inside, *inside.parents):
        folder = hierarchy.mounted / part
        quota = _quota_v1(folder) if hierarchy.controllers else _quota_v2(folder)
        if quota is not None:
            yield quota


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such group, or no quota ("max")
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None  # −1: no quota
