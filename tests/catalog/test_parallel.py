"""Threads and processes follow the processors that this process may use, also where a container's
quota says how many; results of parallel work come in order, a bounded number under way."""

import math
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from catalog.parallel import cores, in_order, in_threads, quota

DOCKER = "8:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n0::/system.slice/docker.service\n"
"""/proc/self/cgroup with version 1, as on hosts that have both."""
SLURM = "0::/system.slice/job_7/step_0\n"
"""With version 2."""


def machine(root: Path, cgroup: str, quotas: dict[str, str]) -> Path:
    """Writes /proc/self/cgroup, and the quota of each control group (below /sys/fs/cgroup) as the
    kernel shows it."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for group, granted in quotas.items():
        folder = root / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        if group.startswith("cpu"):
            (folder / "cpu.cfs_quota_us").write_text(f"{granted}\n")
            (folder / "cpu.cfs_period_us").write_text("100000\n")
        else:
            (folder / "cpu.max").write_text(f"{granted} 100000\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "quotas", "expected"),
    [
        ("0::/\n", {".": "50000"}, 0.5),  # a container with a name space of its own
        ("0::/\n", {".": "max"}, math.inf),
        (
            SLURM,
            {
                "system.slice/job_7/step_0": "max",
                "system.slice/job_7": "300000",
                "system.slice": "max",
            },
            3,
        ),
        (SLURM, {"system.slice/job_7/step_0": "150000", "system.slice/job_7": "300000"}, 1.5),
        (SLURM, {"user.slice": "100000", "system.slice/job_8": "100000"}, math.inf),  # of others
        (DOCKER, {"cpu/docker/ab": "250000", "cpu": "-1"}, 2.5),  # on the host
        (DOCKER, {"cpu": "250000"}, 2.5),  # in the container, which does not see /docker/ab
        (DOCKER, {"cpu/docker/ab": "-1", "cpu/docker": "-1", "cpu": "-1"}, math.inf),
        ("1:cpuset:/\n", {"cpu": "50000"}, math.inf),
    ],
)
def test_a_quota_is_found_on_every_level(
    tmp_path: Path, cgroup: str, quotas: dict[str, str], expected: float
) -> None:
    assert quota(machine(tmp_path, cgroup, quotas)) == expected


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert quota(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("granted", "expected"), [("20000", 1), ("100000", 1), ("150000", 2), ("max", 10**6)]
)
def test_cores_are_the_affinity_or_the_quota_rounded_up(
    tmp_path: Path, granted: str, expected: int
) -> None:
    unlimited = cores(tmp_path)
    assert unlimited >= 1
    assert cores(machine(tmp_path, "0::/\n", {".": granted})) == min(unlimited, expected)


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="no processor affinity on this system"
)
def test_cores_follow_the_affinity_of_this_process() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_results_come_in_order_whatever_takes_longest() -> None:
    def slow_if_even(number: int) -> int:
        time.sleep(0.01 * (number % 2 == 0))
        return number * number

    squares = list(in_threads(slow_if_even, range(20), 3))
    assert squares == [n * n for n in range(20)]


def test_no_more_than_the_bound_is_taken_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    def submit(number: int) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(number)
        return future

    for done, result in enumerate(in_order(submit, items(), 4), 1):
        assert result == done - 1
        assert len(taken) <= done + 3
    assert len(taken) == 10


@pytest.mark.parametrize("fails", [True, False])
def test_a_failure_or_a_close_cancels_what_has_not_begun(fails: bool) -> None:
    begun: list[int] = []
    go_on = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number == 1 and fails:
            raise ValueError("no")
        if number:
            go_on.wait(10)

    with ThreadPoolExecutor(1) as pool:
        results = in_order(lambda n: pool.submit(work, n), range(100), 10)
        next(results)
        if fails:
            with pytest.raises(ValueError, match="no"):
                next(results)
        else:
            results.close()
        go_on.set()
    assert set(begun) <= {0, 1, 2}
