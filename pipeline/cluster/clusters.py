"""The dask clusters that a command starts itself: processes of this machine, or the jobs of a batch
system, of Kubernetes or of a cloud, through dask-jobqueue and similar packages."""

import contextlib
import importlib
import logging
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import dask
import yaml
from distributed import Client
from distributed.deploy import Cluster, LocalCluster

from catalog.errors import ConfigError, ShelfsortError
from catalog.parallel import cores, processes_fault


class Kind(NamedTuple):
    """Class of a kind of cluster, and the package that has it."""

    module: str
    name: str
    package: str


KINDS = {
    "slurm": Kind("dask_jobqueue", "SLURMCluster", "dask-jobqueue"),
    "pbs": Kind("dask_jobqueue", "PBSCluster", "dask-jobqueue"),
    "lsf": Kind("dask_jobqueue", "LSFCluster", "dask-jobqueue"),
    "sge": Kind("dask_jobqueue", "SGECluster", "dask-jobqueue"),
    "htcondor": Kind("dask_jobqueue", "HTCondorCluster", "dask-jobqueue"),
    "kubernetes": Kind("dask_kubernetes.operator", "KubeCluster", "dask-kubernetes"),
    "coiled": Kind("coiled", "Cluster", "coiled"),
}
"""The clusters that `--cluster` names."""
TASK = "score"
"""Prefix of the names of scoring's tasks."""
_ANY_CLUSTER = {
    "distributed.scheduler.allowed-failures": 0,  # `DaskWorkers` counts deaths itself
    # Else `--adapt` starts a single worker until the first part is done: it assumes that a task of
    # unknown duration takes half a second.
    "distributed.scheduler.default-task-durations": {TASK: "10 minutes", "features": "1 minute"},
    "distributed.admin.log-format": "%(levelname)s %(name)s %(message)s",
}
_LOCAL = {
    # else a worker that dies again while it restarts is given up for good
    "distributed.deploy.lost-worker-timeout": "1000 days",
    "distributed.worker.daemon": True,
}


@dataclass(frozen=True)
class ClusterPlan:
    """What cluster to start: one of KINDS with the options of its class in a YAML file, or, without
    a kind, processes of this machine; of so many workers, or of `adapt` (least, most) as there is
    work."""

    workers: int | None = None
    adapt: tuple[int, int] | None = None
    kind: str | None = None
    options: Path | None = None

    @property
    def most(self) -> int:
        """The most workers that there will be."""
        return self.adapt[1] if self.adapt else self.workers or 1


@contextlib.contextmanager
def started(plan: ClusterPlan) -> Iterator[Cluster]:
    """The cluster, which ends with the context. Raises ShelfsortError if its package is missing or
    it can't be started with these options."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(_ANY_CLUSTER))
        local = plan.kind is None
        cluster = stack.enter_context(_local(plan) if local else _of_kind(plan))
        if plan.adapt:
            cluster.adapt(minimum=plan.adapt[0], maximum=plan.adapt[1])
        elif not local:
            cluster.scale(plan.most)
        yield cluster


@contextlib.contextmanager
def _local(plan: ClusterPlan) -> Iterator[LocalCluster]:
    if fault := processes_fault():
        raise ShelfsortError(fault)
    with contextlib.ExitStack() as stack:
        set_by_dask = {*dask.config.get("distributed.nanny.pre-spawn-environ"), "PYTHONHASHSEED"}
        stack.callback(_forget, set_by_dask - os.environ.keys())
        stack.enter_context(dask.config.set(_LOCAL))
        yield stack.enter_context(
            LocalCluster(
                n_workers=plan.adapt[0] if plan.adapt else plan.most,
                threads_per_worker=max(1, cores() // plan.most),
                processes=True,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        )


def _forget(names: set[str]) -> None:
    """dask limits its workers' threads through the environment of this process, which later
    children of it would inherit."""
    for name in names:
        os.environ.pop(name, None)


def _of_kind(plan: ClusterPlan) -> Cluster:
    """A cluster of one of KINDS, without workers yet."""
    cluster_class, options = KINDS[plan.kind or ""], _read_options(plan.options)
    try:
        module = importlib.import_module(cluster_class.module)
    except ImportError as error:
        problem = f"--cluster {plan.kind} needs the package {cluster_class.package}"
        raise ShelfsortError(
            f"{problem}; install it with: pip install {cluster_class.package}"
        ) from error
    try:
        return getattr(module, cluster_class.name)(**options)
    except (TypeError, ValueError) as error:
        option_source = plan.options or f"--cluster {plan.kind}"
        raise ConfigError(
            f"{option_source}: not what {cluster_class.name} of {cluster_class.package} takes: "
            f"{error}; give its arguments with --cluster-options FILE.yaml"
        ) from error


def _read_options(path: Path | None) -> dict[str, Any]:
    """Keyword arguments of a cluster's class, from YAML."""
    if path is None:
        return {}
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: can't be read as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(value, dict):
        type_name = type(value).__name__
        raise ConfigError(f"{path}: expected a mapping, such as `cores: 8`, found {type_name}")
    return value


def named(step: str, detail: str) -> tuple[str, str, str]:
    """A new name of a task: dask's dashboard groups tasks by the first of its words and shows all
    of them."""
    return step, detail, uuid.uuid4().hex[:8]


def slots(client: Client) -> int:
    """How many tasks, each of a whole worker, to have under way: as many as there are workers, or
    as may join if the cluster adapts; at least 1, so that work waits for workers that restart."""
    adaptive = getattr(client.cluster, "_adaptive", None)
    return max(1, len(client.nthreads()), int(adaptive.maximum) if adaptive else 0)
