"""A run has one writer at a time."""

import errno
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from catalog.errors import LockedError, ShelfsortError
from catalog.lock import run_lock
from tests.catalog.nolocks import run_without_locks
from tests.catalog.processes import python, result


def test_what_killed_writers_left_goes_with_the_next_command(tmp_path: Path) -> None:
    gone = python("pass")
    result(gone)
    for name in (
        f".a.txt.{gone.pid}.tmp",
        f"stage2/boosters/.b.ubj.{gone.pid}.tmp",
        f".c.{os.getppid()}.tmp",
        ".d.tmp",
        "e.tmp",
    ):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    with run_lock(tmp_path / "run"):
        left = {path.name for path in (tmp_path / "run").rglob("*.tmp")}
    assert left == {
        f".c.{os.getppid()}.tmp",
        ".d.tmp",
        "e.tmp",
    }  # of a process that lives, and what is not ours


HOLDER = """
    import ctypes, os, sys, time
    from catalog.lock import run_lock
    with run_lock(sys.argv[1]):
        child = "locked"
        if sys.argv[2:] == ["fork"]:
            child = os.fork()
        if sys.argv[2:] == ["clone"]:  # forked, and none of Python's hooks has run in it
            child = ctypes.PyDLL(None).fork()
        if sys.argv[2:] == ["spawn"]:
            import subprocess
            sleep = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, close_fds=False)
            child = sleep.pid
        if child:
            print(child, flush=True)
        time.sleep(60)
"""


@contextmanager
def holder(run: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A process that holds the lock, and what it says: "locked", or the pid of its child."""
    process = python(HOLDER, run, *arguments)
    said = process.stdout.readline().strip()
    try:
        yield process, said
    finally:
        process.kill()
        if said.isdigit():
            os.kill(int(said), signal.SIGKILL)
        process.communicate()


def test_the_second_writer_is_refused_with_the_first_ones_pid_and_host(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as (process, said):
        assert said == "locked"
        with pytest.raises(
            LockedError, match=f"pid {process.pid} on {socket.gethostname()} is writing this run"
        ):
            with run_lock(tmp_path / "run"):
                pytest.fail("two writers")
        process.kill()  # dies without a word
        process.wait()
        with run_lock(tmp_path / "run"):
            assert (
                tmp_path / "run" / "lock"
            ).read_text() == f"pid {os.getpid()} on {socket.gethostname()}"
    with (
        run_lock(tmp_path / "run"),
        pytest.raises(LockedError, match=f"pid {os.getpid()} "),
        run_lock(tmp_path / "run"),
    ):
        pytest.fail("two writers in one process")


@pytest.mark.parametrize("kind", ["fork", "clone", "spawn"])
def test_children_that_outlive_their_parent_do_not_hold_the_lock(tmp_path: Path, kind: str) -> None:
    with holder(tmp_path, kind) as (process, child):
        with pytest.raises(LockedError), run_lock(tmp_path):
            pass
        process.kill()
        process.wait()
        os.kill(int(child), 0)  # still there
        with run_lock(tmp_path):
            pass


def refused(run: Path) -> bool:
    """Whether another process is refused, with this one's pid."""
    second = python(
        "import sys; from catalog.lock import run_lock\nwith run_lock(sys.argv[1]): pass", run
    )
    _, error = second.communicate(timeout=120)
    return second.returncode != 0 and f"LockedError: {run}: pid {os.getpid()} on " in error


@pytest.mark.parametrize(
    "leave", [lambda lock: os._exit(0), lambda lock: lock.__exit__(None, None, None)]
)
def test_a_forked_child_neither_holds_nor_ends_its_parents_lock(
    tmp_path: Path, leave: Callable[[object], object]
) -> None:
    with (lock := run_lock(tmp_path)):
        child = os.fork()
        if child == 0:
            try:
                with run_lock(tmp_path):
                    os._exit(3)
            except LockedError as error:
                if f"pid {os.getppid()} on " in str(error):
                    leave(lock)
                    os._exit(0)
            finally:
                os._exit(4)
        assert os.waitpid(child, 0)[1] == 0
        assert refused(tmp_path)


def test_one_folder_by_two_names_has_one_lock(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with run_lock(tmp_path / "run"):
        with (
            pytest.raises(LockedError, match=f"link: pid {os.getpid()} on "),
            run_lock(tmp_path / "link"),
        ):
            pytest.fail("two writers in one process")
        assert refused(tmp_path / "run"), "the attempt let go of the lock"


def test_a_run_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ShelfsortError, match="file/run: can't be written"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pass
    (tmp_path / "lock").mkdir()
    with pytest.raises(ShelfsortError, match="can't be written"), run_lock(tmp_path):
        pass


WITHOUT_LOCKS = """
import logging, os, subprocess, sys
from catalog.errors import LockedError
from catalog.lock import run_lock
logging.basicConfig(stream=sys.stdout)
if "again" in sys.argv:
    try:
        with run_lock("run"): print("held")
    except LockedError as error: print(error)
    sys.exit()
again = [sys.executable, "-c", open("code.py").read(), "again"]
with run_lock("run"):
    subprocess.run(again, check=True)
    print(open("run/lock.pid").read(), flush=True)
subprocess.run(again, check=True)
os.environ["PYTHONUNBUFFERED"] = "1"
host = os.uname().nodename
for holder in (f"pid {2**22 + 1} on {host}", f"pid {os.getpid()} on {host}", "pid 1 on elsewhere"):
    print(holder, file=open("run/lock.pid", "w"))
    subprocess.run(again, check=True)
"""


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks(tmp_path: Path, error: int) -> None:
    """A file with pid and host stands in: it is respected, removed with its command, and a dead
    process's is ignored."""
    (tmp_path / "code.py").write_text(WITHOUT_LOCKS)
    done = run_without_locks(WITHOUT_LOCKS, tmp_path, error)
    assert done.returncode == 0, done.stderr
    warning = "WARNING:catalog.lock:run: its file system has no locks; "
    said = [line for line in done.stdout.splitlines() if not line.startswith(warning)]
    mine = said.pop(1)
    assert mine.startswith("pid ") and said == [
        f"run: {mine} ({tmp_path.resolve()}/run/lock.pid) is "
        "writing this run; wait for it, or stop it",
        "held",
        "held",
        f"run: {mine} ({tmp_path.resolve()}/run/lock.pid) is "
        "writing this run; wait for it, or stop it",
        f"run: pid 1 on elsewhere ({tmp_path.resolve()}/run/lock.pid) is writing this run; "
        "wait for it, or stop it",
    ]
    assert warning in done.stdout
