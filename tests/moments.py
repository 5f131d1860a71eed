"""Moments of a process's progress, at which a test stops, kills or interrupts it; the clock has no
say in them.

Progress is counted in calls of the project's own functions by the main thread: of all of them, or
of those of one name. A process that is to be killed stops itself at its moment (SIGSTOP), and its
parent, which waits for that, does the rest.

    python -m tests.moments MOMENT COUNT MODULE [argument ...]

runs a module, such as `pipeline`, with a moment (as JSON), and writes into the file COUNT how many
calls there were in the end.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]
PACKAGES = tuple(
    f"{ROOT / name}{os.sep}"
    for name in ("catalog", "stage1_cnn", "features", "stage2_xgb", "pipeline")
)


def stop() -> None:
    """Stops this process, for its parent to see."""
    os.kill(os.getpid(), signal.SIGSTOP)


@dataclass
class Moment:
    """The `number`-th call of a function called `name`, or of any function if that is empty; never
    if `number` is 0. With a `delay` in seconds it comes so much later, which may be inside code
    that makes no call of ours, such as a write of HDF5."""

    number: int = 0
    name: str = ""
    delay: float = 0
    calls: int = 0
    """So far."""

    @contextmanager
    def watched(self, action: Callable[[], object] = stop) -> Iterator[None]:
        """Calls are counted inside, and the `action` is taken at the moment."""

        def count(frame: FrameType, event: str, _: object) -> None:
            code = frame.f_code
            if (
                event != "call"
                or not code.co_filename.startswith(PACKAGES)
                or self.name not in ("", code.co_name)
            ):
                return
            self.calls += 1
            if self.calls == self.number:
                threading.Timer(self.delay, action).start() if self.delay else action()

        sys.setprofile(count)
        try:
            yield
        finally:
            sys.setprofile(None)

    def command(self, count: Path, module: str, *arguments: str) -> list[str]:
        """The command that runs a module with this moment."""
        return [
            sys.executable,
            "-m",
            "tests.moments",
            json.dumps(asdict(self)),
            str(count),
            module,
            *arguments,
        ]


def stopped(pid: int) -> bool:
    """Waits until a child has stopped itself, or else (False) ended. It can be waited for as
    before."""
    return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT).si_code == os.CLD_STOPPED


def processor_seconds(pid: int) -> float:
    """What a child has used so far, also one that has ended and was not waited for."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def kill_at_moment(process: subprocess.Popen) -> bool:
    """Waits for a child's moment and kills it, with its whole group if it leads one; False if it
    ended before."""
    if at_moment := stopped(process.pid):
        leads = os.getpgid(process.pid) == process.pid
        (os.killpg if leads else os.kill)(process.pid, signal.SIGKILL)
    process.communicate()
    return at_moment


if __name__ == "__main__":
    moment, count_path, module = Moment(**json.loads(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
    sys.argv = sys.argv[3:]
    # A shell's background jobs ignore SIGINT, and so would their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with moment.watched():
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        count_path.write_text(str(moment.calls))
