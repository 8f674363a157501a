"""What the control groups (Linux) of a container, a batch job or a service allow this process: cores and memory.

A bound holds for all groups below it, so every folder from the process's own group up to the root is read.  Version 2
has one tree (`cpu.max`, `memory.max`); version 1 one for each resource.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
_NONE = 1 << 60
"""Bytes from which on a bound of version 1 is none."""


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float | None:
    """Cores' worth of time that the process may have; None: without a bound."""
    found = []
    for folder in _folders(root, own, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not period:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):  # not `max`, nor -1
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory_bound(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Bytes that the process and its neighbours may have; None: without a bound."""
    texts = [
        _read(folder / name)
        for folder in _folders(root, own, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    return min((int(text) for text in texts if text.isdecimal() and int(text) < _NONE), default=None)


def _folders(root: Path, own: Path, resource: str) -> Iterator[Path]:
    """Of the groups that the process is in, for one resource."""
    for line in _read(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and resource not in controllers.split(","):
            continue
        tree = root / resource if controllers else root
        inside = Path(path.lstrip("/"))
        yield from (tree / part for part in (inside, *inside.parents))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
