"""Ingest, features and stage 2 on dask workers. Unlike scoring, they need the run folder on a disk
that all workers share."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from functools import lru_cache, partial
from pathlib import Path

import joblib
import numpy as np
from dask.sizeof import sizeof
from distributed import Client, Future, KilledWorker

from catalog.errors import ShelfsortError
from catalog.image_table import ImageTable
from catalog.store.reader import Store
from features.extract import Block, blocks_of
from pipeline.networks import open_network
from pipeline.run_folder import Run
from pipeline.scoring.workers import require_files
from stage1_cnn.predict import Predictor
from stage2_xgb.train_reclassifier import RowPicker

GO_ON = "run the same command again without --rebuild"
_BATCHES = 16
"""Batches that one extraction task does."""


@contextlib.contextmanager
def checking(client: Client) -> Iterator[tuple[Executor, int]]:
    """The workers as an executor for ingest's checks, and how many tasks they do at once. They get
    the photos themselves, so that they need to see no file. Raises ShelfsortError where one of them
    died."""
    with client.get_executor(pure=False) as executor:
        try:
            yield executor, max(1, sum(client.nthreads().values()))
        except KilledWorker as error:
            message = f"a worker died while it checked photos; what was committed is kept, {GO_ON}"
            raise ShelfsortError(f"{message}: {error}") from error


@sizeof.register(RowPicker)
def _rows_size(picker: RowPicker) -> int:
    """Bytes of what stage 2 trains on: joblib sends an argument once, not with every task, only
    where dask says it is large."""
    parts = [picker, picker.items]
    return sum(
        value.nbytes
        for part in parts
        for value in vars(part).values()
        if isinstance(value, np.ndarray)
    )


@contextlib.contextmanager
def training(client: Client, run: Run) -> Iterator[None]:
    """Has joblib run stage 2's reclassifiers on the workers, which write them into the run."""
    require_files(client, [run.features_path])
    with joblib.parallel_config(backend="dask", n_jobs=max(1, sum(client.nthreads().values()))):
        yield


def extraction(
    client: Client, part: Run, size: int, device: str, precision: str
) -> Callable[[int], Generator[Block, None, None]]:
    """What makes the blocks of features.h5 on the workers, in batches of `size`, for
    `features.extract.extract`. All compute in one `precision`, that of the client: what `auto` is
    depends on the machine."""
    require_files(
        client, [part.store_path if part.whole is None else part.whole.store_path, part.checkpoint]
    )
    store = part.store
    files = part.checkpoint.absolute(), store.path.absolute()
    task = partial(extract_rows, *files, size, device, precision)
    return partial(_blocks, client, task, len(store.images()), size * _BATCHES)


def _blocks(
    client: Client, task: Callable[..., Block], rows: int, each: int, start: int
) -> Generator[Block, None, None]:
    """The blocks from row `start` on, in order, two a worker under way."""
    waiting: deque[Future] = deque()
    try:
        for first in range(start, rows, each):
            waiting.append(
                client.submit(task, first, min(first + each, rows), pure=False, retries=2)
            )
            if len(waiting) >= 2 * len(client.nthreads()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except KilledWorker as error:
        raise ShelfsortError(
            f"a worker died while it extracted features; {GO_ON}: {error}"
        ) from error
    finally:
        client.cancel(list(waiting))


_turn = threading.Lock()


def extract_rows(
    checkpoint: Path,
    store: Path,
    batch_size: int,
    device: str,
    precision: str,
    first: int,
    last: int,
) -> Block:
    """Rows first .. last - 1 of a store through a network, in a worker."""
    with _turn:
        predictor, table = _opened(checkpoint, store, device, precision)
        features, errors, done = [], {}, 0
        for found, failed in blocks_of(predictor, Store(store), table[first:last], batch_size):
            errors |= {done + row: reason for row, reason in failed.items()}
            features.append(found)
            done += len(found)
        return np.concatenate(features), errors


@lru_cache(maxsize=1)
def _opened(
    checkpoint: Path, store: Path, device: str, precision: str
) -> tuple[Predictor, ImageTable]:
    """Network and table, once a process."""
    return open_network(checkpoint, device=device, precision=precision), Store(store).images()
