"""Two machines with names and network addresses of their own and nothing but a cable between them:
two network namespaces, of which the second doesn't see the run folder. Skipped where this user may
make none."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bson
import pytest

from tests.pipeline.score_helpers import contents, padded_dump
from tests.pipeline.tiny import Tiny, documents

pytestmark = pytest.mark.slow

OURS, THEIRS, PORT = "10.213.7.1", "10.213.7.2", 8786
LIMIT = 300
"""Seconds that anything here may take."""
WORKS = """
import sys, time
from distributed import Client
with Client(sys.argv[1]) as client:
    while not any(sys.argv[2] in worker and any(key[0] == "score" for key in keys)
                  for worker, keys in client.processing().items()):
        time.sleep(0.02)
"""
"""A program that ends when a machine has a part to score."""


@dataclass(frozen=True)
class Machines:
    """The two namespaces; `cut` takes the cable away."""

    here: str
    there: str

    def command(self, name: str, *command: str, hides: Path | None = None) -> list[str]:
        """A command on one of them, which has a host name of its own and sees nothing in a
        folder."""
        hide = f"mount -t tmpfs none {hides} && " if hides else ""
        script = f'hostname {name} && {hide}exec "$@"'
        alone = ["unshare", "--uts", "--mount", "sh", "-c", script, "sh", *command]
        return ["ip", "netns", "exec", name, *alone]

    def cut(self) -> None:
        """Takes the cable away."""
        ip("-n", self.here, "link", "set", "cable", "down")


def ip(*arguments: str) -> None:
    """Runs the command that configures networks."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=LIMIT)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """Two machines and a cable."""
    pair = Machines(f"shelfsort-{os.getpid()}-a", f"shelfsort-{os.getpid()}-b")
    with contextlib.ExitStack() as stack:
        try:
            for name in (pair.here, pair.there):
                ip("netns", "add", name)
                stack.callback(ip, "netns", "del", name)
                ip("-n", name, "link", "set", "lo", "up")
            cable = ("link", "add", "cable", "netns", pair.here, "type", "veth")
            ip(*cable, "peer", "name", "cable", "netns", pair.there)
            for name, address in ((pair.here, OURS), (pair.there, THEIRS)):
                ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
                ip("-n", name, "link", "set", "cable", "up")
            trial = pair.command(pair.there, "true", hides=tmp_path)
            subprocess.run(trial, check=True, timeout=LIMIT)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no two machines can be made here: {error}")
        yield pair


@contextlib.contextmanager
def cluster(machines: Machines, run: Path) -> Iterator[str]:
    """The address of a scheduler here with a worker on each machine, of which the other one doesn't
    see the run."""
    scheduler, python = f"tcp://{OURS}:{PORT}", (sys.executable, "-m")
    serve = (*python, "distributed.cli.dask_scheduler", "--host", OURS, "--port", str(PORT))
    work = (*python, "distributed.cli.dask_worker", scheduler, "--nthreads", "1", "--host")
    commands = [
        machines.command(machines.here, *serve),
        machines.command(machines.here, *work, OURS),
        machines.command(machines.there, *work, THEIRS, hides=run),
    ]
    environment = os.environ | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s"}
    with contextlib.ExitStack() as stack:
        for command in commands:
            process = stack.enter_context(subprocess.Popen(command, env=environment))
            stack.callback(process.kill)
        yield scheduler


def long_dump(tiny: Tiny, path: Path) -> Path:
    """The tiny test dump in parts, eight times, each with ids of its own."""
    once = list(documents(padded_dump(tiny, path)))
    with open(path, "wb") as file:
        for number in range(8):
            file.writelines(bson.encode(d | {"_id": d["_id"] + 10**6 * number}) for d in once)
    return path


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut off"])
def test_two_machines_write_the_same_files(
    tiny: Tiny, machines: Machines, tmp_path: Path, cut: bool
) -> None:
    copy = tiny.copy(tmp_path / "run")
    dump = long_dump(tiny, tmp_path / "test.bson")
    shelfsort = [sys.executable, "-m", "pipeline"]
    alone = copy.scoring(tmp_path / "alone", "--workers", "1", dump=dump)
    subprocess.run([*shelfsort, *alone], check=True, timeout=LIMIT)
    out = tmp_path / "out"
    with cluster(machines, copy.folder) as scheduler:
        command = [*shelfsort, *copy.scoring(out, "--scheduler", scheduler, dump=dump)]
        command = machines.command(machines.here, *command)
        with contextlib.ExitStack() as stack:
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
            probe = machines.command(machines.here, sys.executable, "-c", WORKS, scheduler, THEIRS)
            subprocess.run(probe, check=True, timeout=LIMIT)
            assert process.poll() is None
            if cut:
                machines.cut()
            process.wait(timeout=LIMIT)
    assert process.returncode == 0
    assert contents(out) == contents(tmp_path / "alone") and len(list(out.glob("part-*.json"))) > 9
