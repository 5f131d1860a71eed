"""What may befall a step as a process: killed, interrupted, kept from writing, started twice. The
same command repairs it.

All slow, because each try loads PyTorch again; scoring/test_score_faults.py has the scoring's own,
quicker ones.
"""

import ctypes
import os
import random
import re
import resource
import shutil
import signal
from pathlib import Path

import pytest

from pipeline.config import load_config
from tests.moments import Moment, kill_at_moment, processor_seconds, stopped
from tests.pipeline.commands import MADE_BY, arguments, command, leftovers, outcome, run, start
from tests.pipeline.score_helpers import padded_dump
from tests.pipeline.tiny import Tiny, snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = ("ingest", "stage1", "features", "stage2", "score")
KILLS = 5
"""Of each step: 25 in all."""
TOO_LARGE = {
    "ingest": 100_000,
    "stage1": 500_000,
    "features": 200_000,
    "stage2": 30_000,
    "evaluate": 8_000,
    "score": 5_000,
}
"""Bytes that no file of the step may exceed, each less than its largest one has."""


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Tiny:
    """A run of one's own, in a folder with an awkward name; its test dump has several parts."""
    folder, data = tmp_path / "a run, ümlaut\nand all", tmp_path / "data"
    shutil.copytree(tiny.folder, folder)
    shutil.copytree(tiny.data, data)
    padded_dump(tiny, data / "test.bson")
    return Tiny(data, folder)


def without(copy: Tiny, step: str) -> Tiny:
    """The run as it is before a step."""
    for name in MADE_BY[step]:
        path = copy.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return copy


def undisturbed(copy: Tiny, folder: Path, step: str) -> tuple[dict, int]:
    """What the step gives when it is left alone, and how many calls it makes for that."""
    shutil.copytree(copy.folder, folder)
    alone, count = without(Tiny(copy.data, folder), step), folder.with_name("count")
    done = run(Moment().command(count, "pipeline", *arguments(alone, step)))
    assert done.returncode == 0, done.stderr
    return outcome(folder, step), int(count.read_text())


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_random_moments_it_ends_the_same(copy: Tiny, tmp_path: Path, step: str) -> None:
    expected, calls = undisturbed(copy, tmp_path / "alone", step)
    rng, kills = random.Random(step), 0
    without(copy, step)
    for _ in range(
        2 * KILLS
    ):  # one that goes on after a kill may end before its moment; the next then starts over
        if kills == KILLS:
            break
        moment = Moment(rng.randint(1, calls * 9 // 10), delay=rng.choice([0, 0.002, 0.02]))
        if kill_at_moment(
            start(moment.command(tmp_path / "count", "pipeline", *arguments(copy, step)))
        ):
            kills += 1
        else:
            assert outcome(copy.folder, step) == expected
            without(copy, step)
    assert kills == KILLS
    done = run(command(copy, step))
    assert done.returncode == 0, done.stderr
    assert outcome(copy.folder, step) == expected
    assert leftovers(copy.folder) == []


@pytest.mark.parametrize("step", STEPS)
def test_control_c_stops_tidily_and_says_how_to_go_on(
    copy: Tiny, tmp_path: Path, step: str
) -> None:
    expected, calls = undisturbed(copy, tmp_path / "alone", step)
    without(copy, step)
    for share in (0.5, 0.3):  # of a run from the beginning, and of one that may go on
        moment = Moment(int(calls * share))
        process = start(moment.command(tmp_path / "count", "pipeline", *arguments(copy, step)))
        assert stopped(process.pid), process.communicate()
        before = processor_seconds(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
        os.killpg(process.pid, signal.SIGCONT)
        assert not stopped(process.pid)
        took = processor_seconds(process.pid) - before
        _, error = process.communicate(timeout=120)
        assert process.returncode == 130, error
        assert f"stopped; go on with: shelfsort {step}" in error and "Traceback" not in error, error
        assert leftovers(copy.folder) == []
        print(f"{step}: stopped within {took:.2f} s of processor time")
        assert took < 5  # a training step of this size takes none of it
    assert run(command(copy, step)).returncode == 0
    assert outcome(copy.folder, step) == expected


@pytest.mark.parametrize("step", TOO_LARGE)
def test_a_full_disk_is_one_line_and_nothing_is_torn(copy: Tiny, tmp_path: Path, step: str) -> None:
    expected, _ = undisturbed(copy, tmp_path / "alone", step)
    without(copy, step)

    def nearly_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (TOO_LARGE[step], resource.RLIM_INFINITY))

    failed = run(command(copy, step), preexec_fn=nearly_full)
    assert failed.returncode == 2, (failed.returncode, failed.stderr)
    assert "can't be written: " in failed.stderr and "Traceback" not in failed.stderr, failed.stderr
    assert str(copy.folder) in failed.stderr and leftovers(copy.folder) == []
    done = run(command(copy, step))
    assert done.returncode == 0, done.stderr
    assert outcome(copy.folder, step) == expected


def powerless() -> None:
    """Root may write anywhere: without these capabilities it may not."""
    library = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        library.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP, which holds from the next exec on


def test_a_read_only_run_is_refused_by_what_writes_and_serves_what_reads(
    copy: Tiny, tmp_path: Path
) -> None:
    before = snapshot(copy.folder)
    for path in (copy.folder, *copy.folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        probe = run(["touch", str(copy.folder / "probe")], preexec_fn=powerless)
        if probe.returncode == 0:
            pytest.skip("this user may write everywhere")
        for step in ("ingest", "stage1", "features", "stage2", "evaluate"):
            failed = run(command(copy, step, "--rebuild"), preexec_fn=powerless)
            assert failed.returncode == 2 and "Traceback" not in failed.stderr, failed.stderr
            assert str(copy.folder) in failed.stderr and "can't be written: " in failed.stderr
        score = command(copy, "score")
        score[score.index(str(copy.folder / "out"))] = str(tmp_path / "out")
        done = run(score, preexec_fn=powerless)
        assert done.returncode == 0 and (tmp_path / "out" / "_SUCCESS").exists(), done.stderr
    finally:
        for path in (copy.folder, *copy.folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert snapshot(copy.folder) == before


def test_of_two_commands_one_is_refused_with_the_others_pid(copy: Tiny) -> None:
    without(copy, "stage1")
    first = start(
        Moment(1, "step").command(copy.folder / "count", "pipeline", *arguments(copy, "stage1"))
    )
    assert stopped(first.pid), first.communicate()
    second = run(command(copy, "stage2"))
    assert second.returncode == 2 and re.search(
        rf"pid {first.pid} on \S+ is writing this run", second.stderr
    ), second.stderr
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    third = run(
        command(copy, "stage2")
    )  # the lock of the dead is none: now it is the missing checkpoint
    assert third.returncode == 2 and "is writing this run" not in third.stderr


def every(copy: Tiny, workers: int) -> dict:
    """Ingest, features, stage 2 and scoring with so many workers."""
    options = ["--set", f"jobs={workers}", "--set", f"stage1.workers={workers}"]
    found = {}
    for step in ("ingest", "features", "stage2", "score"):
        without(copy, step)
        done = run(command(copy, step, *options))
        assert done.returncode == 0, done.stderr
        found[step] = outcome(copy.folder, step)
    return found


def test_one_two_and_four_workers_give_the_same(copy: Tiny) -> None:
    assert load_config(copy.folder / "config.yaml").jobs == 1
    one = every(copy, 1)
    assert every(copy, 2) == one and every(copy, 4) == one
