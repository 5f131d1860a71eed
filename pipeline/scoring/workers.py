"""Scoring beyond this process: dask workers on this machine (`--workers N`) or behind a scheduler
(`--scheduler tcp://...`).

A task is one partition; as many are under way as there are workers. A worker returns what it scored
and this process alone writes, so that no worker needs to see the folder of the predictions. A
partition whose worker dies twice is cut up until the product at fault stands alone; the partition
is then scored without it. Within a task a worker runs `Lanes`: what becomes of products and photos
is decided there alone. The network's batches keep their size and places, so that the features of
all other products are the same to the bit; stage 2 has fewer rows to multiply at once, and BLAS may
add up in another order, which has moved confidences by less than 1e-6.
"""

import io
import itertools
import threading
import traceback
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import distributed
import numpy as np
import torch
from distributed import Client, Future, KilledWorker
from distributed.diagnostics.plugin import WorkerPlugin

from catalog.artifacts import fingerprint, sha256_file
from catalog.config import MAX_PIXELS
from catalog.errors import ArtifactError, ShelfsortError
from pipeline.cluster.client import ask, patiently, require_files, wait
from pipeline.cluster.clusters import TASK, named, slots
from pipeline.config import ScoreConfig
from pipeline.model import TwoStageModel
from pipeline.run_folder import RunFolder
from pipeline.scoring.lanes import Lanes, Task
from pipeline.scoring.parts import Part
from stage2_xgb.addition import identity

_PIECES = 4
"""Into how many a partition is cut that kills its workers."""
_DEATHS = 2
"""Workers that may die of a task before it is at fault: the first may have been killed by somebody.
"""


@dataclass(frozen=True)
class ModelLocation:
    """Where a worker finds the model: the run folder if it sees one with these checksums, else
    the copy that it was sent; and how it computes, in the client's precision and by its runtime of
    each view: what `auto` is depends on the machine."""

    folder: str
    checkpoint: str
    stage2: str
    device: str
    precision: str
    runtimes: tuple[tuple[str, str], ...]
    max_pixels: int = MAX_PIXELS

    @property
    def sent_name(self) -> str:
        """Name of the copy."""
        return f"shelfsort-{fingerprint([self.checkpoint, self.stage2])}"

    def visible(self) -> bool:
        """Whether this machine sees the run folder, with this very model in it."""
        run = RunFolder(Path(self.folder))
        files = (run.checkpoint, run.answering / "manifest.json")
        if not all(path.is_file() for path in files):
            return False
        return [sha256_file(run.checkpoint), identity(run.answering)] == [
            self.checkpoint,
            self.stage2,
        ]


class ModelNotSeenError(ArtifactError):
    """A worker, perhaps one that started later, sees no run folder with the model."""


class SentModel(WorkerPlugin):
    """The model's files as a zip, which the scheduler hands to every worker, also to those that
    start later."""

    def __init__(self, location: ModelLocation) -> None:
        self.name = location.sent_name
        run = RunFolder(Path(location.folder))
        views = (
            path
            for name in ("stage1/best.pt", "stage1/int8.*", "text.*", "columns.json", "head.npz")
            for path in run.folder.glob(f"views/*/{name}")
        )
        quantised = run.stage1.glob("int8.*")
        files = [run.checkpoint, *quantised, *views, *filter(Path.is_file, run.stage2.rglob("*"))]
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for path in files:
                archive.write(path, path.relative_to(run.folder))
        self.content = content.getvalue()

    def setup(self, worker: distributed.Worker) -> None:
        """Unpacks the model in the worker's own folder."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            archive.extractall(Path(worker.local_directory) / self.name)


_turn = threading.Lock()  # a task uses all threads of its worker's process


def score_task(task: Task, location: ModelLocation, config: ScoreConfig) -> Part:
    """Scores one partition in a worker process, with as many lanes as the worker has threads."""
    worker = distributed.get_worker()
    try:
        with _turn:
            vectors = tuple(config.vectors.items())
            model = _open_model(location, str(worker.name), Path(worker.local_directory), vectors)
            part = next(Lanes(model, worker.state.nthreads)([task], config))
        if part.broken:
            _open_model.cache_clear()  # the worker may live on, and the file be repaired
        return part
    except ShelfsortError:
        raise
    except Exception:  # as text: one that the client can't unpickle would keep it waiting for ever
        failure = traceback.format_exc(limit=-8)
    raise RuntimeError(f"part {task.number} on worker {worker.address}:\n{failure}")


@lru_cache(maxsize=1)
def _open_model(
    location: ModelLocation,
    worker: str,
    own_folder: Path,
    vectors: tuple[tuple[str, str], ...],
) -> TwoStageModel:
    """The model, once a process."""
    sent = own_folder / location.sent_name
    if not sent.exists() and not location.visible():
        problem = f"worker {worker} sees another model there, or none"
        raise ModelNotSeenError(location.folder, problem, "score", resume=True)
    gpus = torch.cuda.device_count()
    spread = location.device in ("auto", "cuda") and gpus > 1 and worker.isdigit()
    run = RunFolder(sent if sent.exists() else Path(location.folder))
    return TwoStageModel.open(
        run,
        f"cuda:{int(worker) % gpus}" if spread else location.device,
        location.precision,
        dict(location.runtimes),
        dict(vectors),
        location.max_pixels,
    )


@dataclass
class _Work:
    """A task that is to be done; `span` says which of its rows if it only looks for the product
    at fault, `searched` that this was done; `sent` that the model was sent for it."""

    task: Task
    span: tuple[int, int] | None = None
    deaths: int = 0
    searched: bool = False
    sent: bool = False

    def rows(self) -> Task:
        """What is sent to a worker."""
        if self.span is None:
            return self.task
        start, stop = self.span
        task, rows = self.task, slice(start, stop)
        repeated, compared = task.repeated[rows], task.compared[rows]
        codes = None if task.codes is None else task.codes[rows]
        return Task(task.number, task.source[rows], repeated, compared, codes=codes)

    def name(self) -> tuple[str, ...]:
        """As the dashboard shows it."""
        part = f"part-{self.task.number:05d}"
        if self.span is None:
            return named(TASK, part)
        return named("search", f"{part}-rows-{self.span[0]}-{self.span[1]}")

    def pieces(self) -> list["_Work"]:
        """The same rows in several pieces."""
        start, stop = self.span or (0, len(self.task.source))
        cuts = np.unique(np.linspace(start, stop, _PIECES + 1).astype(int)).tolist()
        return [_Work(self.task, span) for span in itertools.pairwise(cuts)]


@dataclass
class _Search:
    """The search for the products of one partition that kill workers."""

    open: int
    worker_killers: set[int] = field(default_factory=set)


class DaskWorkers:
    """The engine that scores on dask workers."""

    def __init__(
        self, client: Client, location: ModelLocation, files: list[tuple[str, int]]
    ) -> None:
        """Raises ShelfsortError if a worker lacks shelfsort or one of the `files`, those of the
        source (path, size)."""
        self.client, self.location = client, location
        require_files(client, files)
        self._sent = False
        if not all(ask(client, location.visible).values()):
            self._send_model()

    def _send_model(self) -> None:
        """Gives every worker the model, also those that start later."""
        if not self._sent:
            model = SentModel(self.location)
            patiently(self.client, lambda: self.client.register_plugin(model))
            self._sent = True

    def __call__(self, tasks: Iterable[Task], config: ScoreConfig) -> Iterator[Part]:
        """Parts as they are finished."""
        todo, fresh = deque[_Work](), iter(tasks)
        running: dict[Future, _Work] = {}
        searches: dict[int, _Search] = {}
        try:
            while True:
                while len(running) < slots(self.client):
                    work = todo.popleft() if todo else next((_Work(task) for task in fresh), None)
                    if work is None:
                        break
                    future = self.client.submit(
                        score_task, work.rows(), self.location, config, key=work.name(), retries=0
                    )
                    running[future] = work
                if not running:
                    return
                for future in wait(self.client, running):
                    work = running.pop(future)
                    if future.status == "finished":
                        if work.span is None:
                            yield future.result()
                        else:
                            todo.extend(_close(searches, work))
                    elif isinstance(error := future.exception(), KilledWorker):
                        todo.extendleft(_after_death(searches, work))
                    elif isinstance(error, ModelNotSeenError) and not work.sent:
                        self._send_model()
                        todo.appendleft(replace(work, sent=True))
                    else:
                        raise error
        except (CancelledError, OSError) as error:
            raise ShelfsortError(
                "the scheduler is gone; finished parts are kept, run the same command again"
            ) from error
        finally:
            self.client.cancel(list(running))


def _after_death(searches: dict[int, _Search], work: _Work) -> list[_Work]:
    """What to do next after a task's worker died."""
    work.deaths += 1
    number, pieces = work.task.number, work.pieces()
    if work.span is not None and len(pieces) > 1:
        searches[number].open += len(pieces) - 1
        return pieces
    if work.deaths < _DEATHS:
        return [work]
    if work.span is not None:
        return _close(searches, work, killer=work.span[0])
    if work.searched:
        raise ShelfsortError(
            f"part {number} ends its workers, also without the {len(work.task.worker_killers)} "
            "products that do so alone; give the workers more memory, or make the parts smaller "
            "(score.part_mb)"
        )
    searches[number] = _Search(open=len(pieces))
    return pieces


def _close(searches: dict[int, _Search], work: _Work, *, killer: int | None = None) -> list[_Work]:
    """Ends the search in some rows, of which `killer` ended its worker; after the last of them the
    whole task follows, without the rows that do so."""
    search = searches[work.task.number]
    search.open -= 1
    if killer is not None:
        search.worker_killers.add(killer)
    if search.open:
        return []
    return [
        _Work(replace(work.task, worker_killers=frozenset(search.worker_killers)), searched=True)
    ]
