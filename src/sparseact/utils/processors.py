"""How many processors there are for this process: those that it may run on, and what its control group pays for."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def processors() -> int:
    """How many this process may use: those that it may run on, and no more than its group's quota pays for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *(max(1, math.ceil(quota)) for quota in _quotas(CGROUPS, Path("/proc/self/cgroup")))])


def _quotas(root: Path, own: Path) -> list[float]:
    """Processors that the quotas of this process's group, and of those above it, pay for (cgroup v2, v1)."""
    try:
        places = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):  # no Linux
        return []
    found = []
    for _, controllers, path in places:
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = root / controllers / path.lstrip("/")
        for folder in (group, *group.parents):
            found += _quota(folder)
            if folder in (root, root / controllers):  # in a container the path may lead nowhere; its root is its own
                break
    return found


def _quota(group: Path) -> list[float]:
    """The quota of one group, none where there is none."""
    try:
        if (group / "cpu.max").exists():
            limit, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            limit, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip() for name in ("quota", "period")
            )
        return [] if limit in ("max", "-1") else [int(limit) / int(period)]
    except (OSError, ValueError, ZeroDivisionError):
        return []
