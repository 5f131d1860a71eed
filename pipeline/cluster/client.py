"""The client of dask workers, new ones on this machine or those of a scheduler, and the checks
before work begins."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import dask
from distributed import Client, LocalCluster

from catalog.errors import ShelfsortError
from catalog.parallel import cores

PATIENCE = 120.0
"""Seconds without a single worker before the work is given up."""
_LOCAL = {
    "distributed.scheduler.allowed-failures": 0,  # `Workers` counts deaths itself
    # else a worker that dies again while it restarts is given up for good
    "distributed.deploy.lost-worker-timeout": "1000 days",
    "distributed.worker.daemon": True,
    "distributed.admin.log-format": "%(levelname)s %(name)s %(message)s",
}


@contextlib.contextmanager
def connect(workers: int | None, scheduler: str | None) -> Iterator[Client]:
    """A client of `workers` new processes on this machine, or of an existing scheduler.

    Raises ShelfsortError if the scheduler doesn't answer or has no workers.
    """
    # each death of a worker would print pages
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        cluster: LocalCluster | str
        if scheduler is None:
            cluster = stack.enter_context(_local_cluster(workers or 1))
        else:
            cluster = scheduler
        try:
            client = stack.enter_context(Client(cluster, timeout=10))
            client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, TimeoutError, ValueError) as error:
            raise ShelfsortError(
                f"{scheduler}: expected a dask scheduler with a worker, found none: {error}"
            ) from error
        yield client


@contextlib.contextmanager
def _local_cluster(workers: int) -> Iterator[LocalCluster]:
    with contextlib.ExitStack() as stack:
        set_by_dask = {*dask.config.get("distributed.nanny.pre-spawn-environ"), "PYTHONHASHSEED"}
        stack.callback(_forget, set_by_dask - os.environ.keys())
        stack.enter_context(dask.config.set(_LOCAL))
        yield stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=max(1, cores() // workers),
                processes=True,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        )


def _forget(names: set[str]) -> None:
    """dask limits its workers' threads through the environment of this process, which later
    children of it would inherit."""
    for name in names:
        os.environ.pop(name, None)


def require_files(client: Client, files: Sequence[tuple[str, int]]) -> None:
    """Raises ShelfsortError if a worker lacks shelfsort, or one of the `files` (path, bytes)."""
    try:
        lacking = client.run(missing_files, list(files))
    except ImportError as error:
        raise ShelfsortError(
            f"the workers need this version of shelfsort installed: {error}"
        ) from error
    for worker, missing in lacking.items():
        if missing:
            raise ShelfsortError(
                f"{missing[0]}: worker {worker} sees no such file of the same size; put it on a "
                "disk that all workers share, or name a dump by a URL such as s3://bucket/name"
            )


def sized(paths: Sequence[Path]) -> list[tuple[str, int]]:
    """Absolute path and size of each file, for `require_files`."""
    return [(str(path.absolute()), path.stat().st_size) for path in paths]


def missing_files(files: list[tuple[str, int]]) -> list[str]:
    """Those that this machine doesn't see with their size; runs in every worker."""
    return [
        path
        for path, size in files
        if not Path(path).is_file() or Path(path).stat().st_size != size
    ]
