"""Clusters that are started for a command: adapting ones here, and the jobs of a batch system."""

import importlib.util
import os
import stat
import time
import urllib.request
from pathlib import Path

import pytest

from catalog.errors import ConfigError, ShelfsortError
from pipeline.cluster.client import connect
from pipeline.cluster.clusters import KINDS, ClusterPlan, named, slots, started
from pipeline.flags import CLUSTERS

SBATCH = """#!/bin/sh
for script; do :; done
cp "$script" "$0.job"
sh "$0.job" >"$0.log" 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = "#!/bin/sh\nkill $1 || true\n"


def test_workers_come_as_there_is_work(tmp_path: Path) -> None:
    report = tmp_path / "report.html" if _has("bokeh") else None
    with connect(None, None, adapt=(1, 2), report=report) as client:
        assert slots(client) == 2 and len(client.nthreads()) == 1
        keys = [named("score", f"part-{number:05d}") for number in range(2)]
        gate = tmp_path / "gate"

        def wait() -> bool:
            return any(gate.exists() or time.sleep(0.02) for _ in range(6000))

        tasks = [client.submit(wait, key=key) for key in keys]
        client.wait_for_workers(2, timeout=240)
        address = client.dashboard_link.rpartition("/")[0]
        with urllib.request.urlopen(f"{address}/health") as answer:
            assert answer.read() == b"ok"
        gate.touch()
        assert client.gather(tasks) == [True, True]
    if report:
        assert "Dask Performance Report" in report.read_text()


def test_jobs_of_a_batch_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dask-jobqueue submits to a queue of this machine, which starts what it is given."""
    pytest.importorskip("dask_jobqueue")
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = tmp_path / "slurm.yaml"
    options.write_text(
        f"cores: 1\nmemory: 1GB\nwalltime: '00:10:00'\nlocal_directory: {tmp_path}\n"
    )
    with connect(1, None, kind="slurm", options=options) as client:
        assert client.submit(os.getpid).result() != os.getpid()
    script = (tmp_path / "sbatch.job").read_text()
    assert "#SBATCH -t 00:10:00" in script and "dask" in script


def test_what_a_cluster_does_not_take(tmp_path: Path) -> None:
    assert tuple(KINDS) == CLUSTERS
    options = tmp_path / "options.yaml"
    options.write_text("- cores\n")
    with pytest.raises(ConfigError, match=r"options\.yaml: expected a mapping.*found list"):
        with started(ClusterPlan(1, kind="slurm", options=options)):
            pass
    missing = next(name for name, kind in KINDS.items() if not _has(kind.module.partition(".")[0]))
    package = KINDS[missing].package
    with pytest.raises(ShelfsortError, match=rf"{missing} needs the package {package}; install it"):
        with started(ClusterPlan(1, kind=missing)):
            pass
    pytest.importorskip("dask_jobqueue")
    options.write_text("coers: 8\n")
    with pytest.raises(ConfigError, match=r"options\.yaml: not what SLURMCluster of dask-jobqueue"):
        with started(ClusterPlan(1, kind="slurm", options=options)):
            pass


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
