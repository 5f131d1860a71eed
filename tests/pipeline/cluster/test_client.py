"""Before and while dask workers work: they run our code, and nobody waits for ever for workers that
die or are paused."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import joblib
import pytest
from distributed import Client, LocalCluster, Worker

from catalog.errors import ShelfsortError
from pipeline.cluster import client as cluster_client
from pipeline.cluster.client import ask, connect, wait
from pipeline.cluster.steps import checking, training
from pipeline.installation import PACKAGES, ROOT, code_fingerprint
from pipeline.run_folder import RunFolder
from tests.pipeline.tiny import Tiny


def copied_code(folder: Path) -> Path:
    """Our packages at another place."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc"))
    return folder


@contextlib.contextmanager
def scheduler_with_worker(code: Path, folder: Path) -> Iterator[str]:
    """The address of a scheduler whose only worker, a process of its own, imports the code from
    that folder."""
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-dashboard"]
        environment = os.environ | {"PYTHONPATH": str(code)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        worker = subprocess.Popen(
            [*command, "--nthreads", "1"], cwd=folder, env=environment, **quiet
        )
        try:
            yield address
        finally:
            worker.terminate()
            worker.wait(60)


def test_the_fingerprint_of_the_code_knows_no_place(tmp_path: Path) -> None:
    copy = copied_code(tmp_path)
    assert code_fingerprint(copy) == code_fingerprint()
    with open(copy / "features" / "schema.py", "a") as file:
        file.write("# changed\n")
    assert code_fingerprint(copy) != code_fingerprint()


def test_a_worker_with_other_code_is_refused_unless_that_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = copied_code(tmp_path / "code")
    with open(code / "stage2_xgb" / "gate.py", "a") as file:
        file.write("# changed\n")
    with scheduler_with_worker(code, tmp_path) as address:
        expected = (
            rf"worker tcp://.* runs other versions than this process: code {code_fingerprint(code)}, "
            rf"here {code_fingerprint()}; install .* or go on with --allow-version-mismatch"
        )
        with pytest.raises(ShelfsortError, match=expected), connect(None, address):
            pass
        with connect(None, address, allow_version_mismatch=True):
            assert "its answers may differ" in caplog.text


def test_the_same_code_elsewhere_is_welcome(tmp_path: Path) -> None:
    code = copied_code(tmp_path / "code")
    with scheduler_with_worker(code, tmp_path) as address, connect(None, address) as client:
        assert len(client.nthreads()) == 1


def die_once(mark: str) -> str:
    """In a worker: ends the process that is asked first, as the kernel does for want of memory."""
    if not os.path.exists(mark):
        Path(mark).touch()
        os.kill(os.getpid(), 9)
    return "alive"


def test_a_worker_that_dies_while_it_is_asked_is_asked_again(tmp_path: Path) -> None:
    with connect(1, None) as client:
        assert list(ask(client, die_once, str(tmp_path / "mark")).values()) == ["alive"]


def pause(fraction: float, dask_worker: Worker) -> None:
    """In a worker: from this share of its memory on it takes no tasks."""
    dask_worker.memory_manager.memory_pause_fraction = fraction


def test_paused_workers_are_named_and_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster_client, "PATIENCE", 1.0)
    with connect(1, None) as client:
        client.run(pause, 1e-6)
        wait_until_paused(client)
        future = client.submit(os.getpid, pure=False)
        with pytest.raises(ShelfsortError, match=r"all workers \(1\) are paused, as their memory"):
            wait(client, [future])
        assert "are paused" in caplog.text
        client.run(pause, 0.99)
        assert wait(client, [future]) == {future}


def ingest_check(client: Client, folder: Path) -> None:
    with checking(client) as (executor, _):
        pause_all(client)
        executor.submit(os.getpid).result()


def stage2_training(client: Client, folder: Path) -> None:
    (folder / "features.h5").touch()
    with training(client, RunFolder(folder)):
        pause_all(client)
        joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(2))


@pytest.mark.parametrize("work", [ingest_check, stage2_training])
def test_paused_workers_are_given_up_in_every_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Callable[[Client, Path], None]
) -> None:
    with connect(1, None) as client:
        monkeypatch.setattr(cluster_client, "PATIENCE", 1.0)
        with pytest.raises(ShelfsortError, match=r"all workers \(1\) are paused, .* is kept"):
            work(client, tmp_path)


def test_nobody_is_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(1, None) as client:
        monkeypatch.setattr(cluster_client, "PATIENCE", 1.0)
        client.retire_workers()
        with pytest.raises(ShelfsortError, match=r"no worker .*, for 1 s; .* run the same command"):
            ask(client, os.getpid)


def pause_all(client: Client) -> None:
    client.run(pause, 1e-6)
    wait_until_paused(client)


def wait_until_paused(client: Client) -> None:
    for _ in range(600):
        statuses = client.scheduler_info(n_workers=-1)["workers"].values()
        if all(worker["status"] == "paused" for worker in statuses):
            return
        subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError("no worker was paused")


@pytest.mark.parametrize(
    "words", [["score", "SOURCE", "--workers", "1"], ["ingest", "--dump", "SOURCE"]]
)
def test_without_shared_memory_processes_are_refused(
    tiny: Tiny, tmp_path: Path, words: list[str]
) -> None:
    """In a mount namespace of its own, where /dev/shm is read-only."""
    source = str(tiny.data / ("test.bson" if words[0] == "score" else "train.bson"))
    paths = ["--run", str(tiny.folder if words[0] == "score" else tmp_path / "run")]
    paths += ["--out", str(tmp_path / "out")] if words[0] == "score" else ["--set", "jobs=2"]
    command = [sys.executable, "-m", "pipeline", *words, *paths]
    command = [source if word == "SOURCE" else word for word in command]
    readonly = "mount -t tmpfs -o ro tmpfs /dev/shm"
    if subprocess.run(["unshare", "-rm", "sh", "-c", readonly], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    shell = f"{readonly} && exec {shlex.join(command)}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", shell], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "/dev/shm can't be written (Read-only file system)" in done.stderr.splitlines()[-1]
