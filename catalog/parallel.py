"""How many processors there are to be shared: everything that works in parallel asks `cores`."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """Processors that this process may use, at least 1: those of its affinity, or its CPU quota,
    rounded up, if that is less. `root` is where the machine's /proc and /sys are."""
    bound = hasattr(os, "sched_getaffinity")
    affinity = len(os.sched_getaffinity(0)) if bound else os.cpu_count() or 1
    return math.ceil(max(1, min(affinity, quota(root))))


def quota(root: Path = Path("/")) -> float:
    """What a container or a batch system grants this process, in processors; infinite if nothing
    limits it.

    The least of its control group and those above it, in version 1 or 2. `joblib.cpu_count` and
    dask's see neither a quota above the process's own group nor, outside a container, its own.
    """
    return min(_quotas(root), default=math.inf)


def _quotas(root: Path) -> Iterator[float]:
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for membership in memberships:
        _, controllers, group = membership.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 1 names its controllers, version 2 does not.
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        level = mount / group.strip("/")
        yield _own_quota(level)
        while level != mount:  # at most as often as the path has parts
            level = level.parent
            yield _own_quota(level)


def _own_quota(group: Path) -> float:
    """One control group's. Infinite also for one of the host's that a container does not see."""
    try:
        if (group / "cpu.max").exists():  # version 2: "QUOTA PERIOD" in microseconds
            granted, period = (group / "cpu.max").read_text().split()
        else:
            granted = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
    except OSError:
        return math.inf
    return math.inf if granted in ("max", "-1") else int(granted) / int(period)
