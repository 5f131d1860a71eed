"""The client of dask workers, new ones on this machine or those of a scheduler, and the checks
before work begins."""

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from distributed import Client, performance_report
from distributed.deploy import Cluster

from catalog.errors import ShelfsortError
from pipeline.cluster.clusters import ClusterPlan, started

PATIENCE = 120.0
"""Seconds without a single worker before the work is given up."""


@contextlib.contextmanager
def connect(
    workers: int | None,
    scheduler: str | None,
    *,
    adapt: tuple[int, int] | None = None,
    kind: str | None = None,
    options: Path | None = None,
    report: Path | None = None,
) -> Iterator[Client]:
    """A client of an existing scheduler, or of a cluster that is started for it: `workers` new
    processes on this machine, or as `ClusterPlan` says. dask's performance report of all that is
    done until the client is closed is written to `report`.

    Raises ShelfsortError if the scheduler doesn't answer or has no workers, or the cluster can't be
    started.
    """
    # each death of a worker would print pages
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if report and importlib.util.find_spec("bokeh") is None:
        raise ShelfsortError(
            "--performance-report needs the package bokeh; "
            "install it with: pip install 'shelfsort[cluster]'"
        )
    with contextlib.ExitStack() as stack:
        cluster: Cluster | str | None = scheduler
        if cluster is None:
            plan = ClusterPlan(workers, adapt, kind, options)
            cluster = stack.enter_context(started(plan))
        try:
            client = stack.enter_context(Client(cluster, timeout=10))
            # jobs of a batch system wait for their turn, for hours perhaps
            client.wait_for_workers(1, timeout=None if kind else PATIENCE)
        except (OSError, TimeoutError, ValueError) as error:
            raise ShelfsortError(
                f"{scheduler}: expected a dask scheduler with a worker, found none: {error}"
            ) from error
        if report:
            stack.enter_context(performance_report(str(report)))
        yield client


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
