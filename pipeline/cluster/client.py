"""The client of dask workers, either new ones on this machine or those of a scheduler, and the
checks before work begins."""

import contextlib
import importlib.util
import logging
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import distributed
from distributed import Client, Future, performance_report

from catalog.errors import ShelfsortError
from pipeline.cluster.clusters import ClusterPlan, started
from pipeline.installation import versions

if TYPE_CHECKING:
    from distributed.deploy import Cluster

T = TypeVar("T")
PATIENCE = 120.0
"""Seconds without a usable worker after which the work is given up."""
_GLANCE = 3.0
"""Seconds between looks at the workers."""
_INTERRUPT = signal.SIGUSR1
_TRIES = 3
log = logging.getLogger(__name__)


@contextlib.contextmanager
def connect(
    workers: int | None,
    scheduler: str | None,
    allow_version_mismatch: bool = False,
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
    started, and if a worker runs other code or other libraries than this process, unless that is
    allowed.
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
        # jobs of a batch system wait for their turn, for hours perhaps
        client = stack.enter_context(_client_of(cluster, None if kind else PATIENCE))
        require_same_versions(client, versions(), allow_version_mismatch)
        if report:
            stack.enter_context(performance_report(str(report)))
        yield client


@contextlib.contextmanager
def _client_of(cluster: "Cluster | str", patience: float | None) -> Iterator[Client]:
    """A client of a cluster, or of the scheduler at an address, once there is a worker."""
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(Client(cluster, timeout=10))
            client.wait_for_workers(1, timeout=patience)
        except (OSError, TimeoutError, ValueError) as error:
            address = cluster if isinstance(cluster, str) else None
            raise ShelfsortError(
                f"{address}: expected a dask scheduler with a worker, found none: {error}"
            ) from error
        yield client


def ask(client: Client, function: Callable[..., T], *arguments: Any) -> dict[str, T]:
    """What a function returns on each worker. Raises ShelfsortError if one lacks this version of
    shelfsort, or if they die while they are asked."""
    try:
        return patiently(client, lambda: client.run(function, *arguments))
    except (ImportError, AttributeError) as error:
        raise ShelfsortError(
            f"the workers need this version of shelfsort installed: {error}"
        ) from error


def patiently(client: Client, call: Callable[[], T]) -> T:
    """The result of a call that reaches every worker, tried again if one of them dies meanwhile.
    Raises ShelfsortError if that goes on, or nobody can be asked for PATIENCE seconds."""
    for _ in range(_TRIES):
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            idle = _why_idle(client) or "no worker can be asked"
            raise ShelfsortError(
                f"{idle}, for {PATIENCE:.0f} s; what is finished is kept, "
                "run the same command again"
            ) from error
        try:
            return call()
        except (OSError, TimeoutError) as error:  # CommClosedError is an OSError
            fault = error
            time.sleep(1)
    raise ShelfsortError(
        "the workers die while they are asked, perhaps of a lack of memory:  "
        f"give them more, or start fewer ({type(fault).__name__}: {fault})"
    ) from fault


def require_same_versions(
    client: Client, expected: dict[str, str], allow_mismatch: bool = False
) -> None:
    """Raises ShelfsortError if a worker's `versions` differ from those `expected`: it would
    silently give other answers. If that is allowed, warns."""
    for worker, there in ask(client, versions).items():
        others = {name: there.get(name) for name in expected if there.get(name) != expected[name]}
        if not others:
            continue
        changes = ", ".join(
            f"{name} {value}, here {expected[name]}" for name, value in others.items()
        )
        problem = f"worker {worker} runs other versions than this process: {changes}"
        if not allow_mismatch:
            raise ShelfsortError(
                f"{problem}; install the same versions there and restart it, "
                "or go on with --allow-version-mismatch"
            )
        log.warning("%s; its answers may differ", problem)


def wait(client: Client, futures: Collection[Future]) -> set[Future]:
    """Waits until some of the futures are done, and returns these. Raises ShelfsortError if for
    PATIENCE seconds no worker is left, or all are paused."""
    patience = _Patience(client)
    while True:
        try:
            return distributed.wait(
                list(futures), timeout=_GLANCE, return_when="FIRST_COMPLETED"
            ).done
        except TimeoutError:
            patience.check()


@contextlib.contextmanager
def watched(client: Client) -> Iterator[None]:
    """Raises ShelfsortError as `wait` does, for a block that waits for workers in other people's
    code, such as joblib's: interrupts it, as Control-C would, but by a signal that a shell's
    background jobs don't ignore. In another thread than the main one, which alone can be
    interrupted, it only warns."""
    patience, here = _Patience(client), threading.current_thread()
    main = here.ident if here is threading.main_thread() else None
    ended, turn = threading.Event(), threading.Lock()
    faults: list[ShelfsortError] = []

    def watch() -> None:
        while not ended.wait(_GLANCE):
            try:
                patience.check()
            except ShelfsortError as error:
                with turn:
                    if not ended.is_set() and main is not None:
                        faults.append(error)
                        signal.pthread_kill(main, _INTERRUPT)
                return
            except (OSError, RuntimeError):  # the scheduler is gone, which the block meets itself
                return

    thread = threading.Thread(target=watch, daemon=True)
    before = None if main is None else signal.signal(_INTERRUPT, signal.default_int_handler)
    thread.start()
    try:
        try:
            yield
        finally:
            with turn:
                ended.set()
    except KeyboardInterrupt:
        if faults:
            raise faults[0] from None
        raise
    finally:
        thread.join()
        if before is not None:
            signal.signal(_INTERRUPT, before)


class _Patience:
    """Says when nobody works, and ends after PATIENCE seconds of it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.since: float | None = None

    def check(self) -> None:
        """Raises ShelfsortError if nobody has worked for too long."""
        idle = _why_idle(self.client)
        if idle is None:
            self.since = None
        elif self.since is None:
            self.since = time.monotonic()
            log.warning("%s; waiting for them", idle)
        elif time.monotonic() - self.since > PATIENCE:
            raise ShelfsortError(
                f"{idle}, for {PATIENCE:.0f} s; what is finished is kept, "
                "run the same command again"
            )


def _why_idle(client: Client) -> str | None:
    """Why nobody works; None if somebody does."""
    if not client.nthreads():
        return "no worker is left"
    workers = list(client.scheduler_info(n_workers=-1)["workers"].values())
    for worker in workers:
        executing = worker["metrics"].get("task_counts", {}).get("executing", 0)
        if worker["status"] != "paused" or executing:
            return None
    return (
        f"all workers ({len(workers)}) are paused, as their memory is nearly full: "
        "give them more, or start fewer"
    )


def require_files(client: Client, files: Sequence[tuple[str, int]]) -> None:
    """Raises ShelfsortError if a worker lacks shelfsort, or one of the `files` (path, bytes)."""
    for worker, missing in ask(client, missing_files, list(files)).items():
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
