"""Parallel work: the number of usable processors, and results in the order of their tasks."""

import math
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


def cores(root: Path = Path("/")) -> int:
    """Processors that this process may use, at least 1: those of its affinity, or its CPU quota,
    rounded up, if that is less. `root` is where the machine's /proc and /sys are."""
    bound = hasattr(os, "sched_getaffinity")
    affinity = len(os.sched_getaffinity(0)) if bound else os.cpu_count() or 1
    return math.ceil(max(1, min(affinity, quota(root))))


def processes_fault() -> str | None:
    """Why this machine can't start processes that work together; None if it can. They share
    semaphores, for which Linux needs a /dev/shm that can be written, and not every container has
    one."""
    try:
        multiprocessing.get_context("spawn").Semaphore()
    except OSError as error:
        return (
            f"no worker processes can be started: /dev/shm can't be written ({error.strerror}); "
            "make it writable (in docker: --shm-size=1g), or work in one process, "
            "with --set jobs=1 and without --workers"
        )
    return None


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


class Pending(Protocol[R_co]):
    """A result to come, such as a Future of `concurrent.futures` or of dask."""

    def result(self) -> R_co:
        """Waits for it. Raises what the task raised."""

    def cancel(self) -> Any:
        """Drops it if it has not begun."""


def in_order(submit: Callable[[T], Pending[R]], items: Iterable[T], under_way: int) -> Iterator[R]:
    """The results of `submit`'s tasks in the order of `items`.

    Items are taken by the caller's thread, while fewer than `under_way` tasks are submitted and not
    yet yielded: neither slow workers nor a slow consumer make memory grow. When a task fails, or
    the iterator is closed, the tasks that have not begun are cancelled.

        with ThreadPoolExecutor(4) as pool:
            for size in in_order(lambda path: pool.submit(os.path.getsize, path), paths, 8):
                ...
    """
    pending: deque[Pending[R]] = deque()
    try:
        for item in items:
            pending.append(submit(item))
            if len(pending) >= under_way:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for task in pending:
            task.cancel()


def in_threads(function: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[R]:
    """The results of `function` in the order of `items`, computed by `jobs` threads. The caller's
    own takes the items, one more than there are threads."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from in_order(lambda item: pool.submit(function, item), items, jobs + 1)
