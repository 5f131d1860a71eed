"""Ingest, features and stage 2 on dask workers. Unlike scoring, they need the run folder on a disk
that all workers share."""

import contextlib
import copy
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import distributed
import joblib
import numpy as np
from dask.sizeof import sizeof
from distributed import Client, Future, KilledWorker

from catalog.errors import ShelfsortError
from catalog.image_table import ImageTable
from catalog.store.reader import Store
from features.cover import ReadBlocks, text_in
from features.extract import Block, blocks_of
from features.ocr import READERS, TextReader
from pipeline.cluster.client import require_files, sized, wait, watched
from pipeline.cluster.clusters import named, slots
from pipeline.networks import open_network
from pipeline.run_folder import RunFolder
from stage1_cnn.predict import Predictor
from stage2_xgb.train_reclassifier import RowPicker

T = TypeVar("T")
RESUME = "run the same command again without --rebuild"
_BATCHES = 16
"""Batches per extraction task."""


@contextlib.contextmanager
def checking(client: Client) -> Iterator[tuple[Executor, int]]:
    """The workers as an executor for ingest's checks, and how many tasks they do at once. They are
    sent the photos, so they need to see no file. Raises ShelfsortError if one of them died."""
    executor = client.get_executor(pure=False)
    try:
        with watched(client):
            yield executor, max(1, sum(client.nthreads().values()))
    except KilledWorker as error:
        message = f"a worker died while it checked photos; what was committed is kept, {RESUME}"
        raise ShelfsortError(f"{message}: {error}") from error
    finally:
        executor.shutdown(wait=False)  # what is left of it after a fault, perhaps nobody does


@sizeof.register(RowPicker)
def _rows_size(picker: RowPicker) -> int:
    """Bytes that stage 2 trains on: joblib sends an argument once, and not with every task, only if
    dask knows that it is large."""
    holders = [picker, picker.items]
    return sum(
        value.nbytes
        for holder in holders
        for value in vars(holder).values()
        if isinstance(value, np.ndarray)
    )


@contextlib.contextmanager
def training(client: Client, run: RunFolder) -> Iterator[None]:
    """Has joblib run stage 2's reclassifiers on the workers, which write them into the run."""
    require_files(client, sized([run.features_path]))
    jobs = max(1, sum(client.nthreads().values()))
    with joblib.parallel_config(backend="dask", n_jobs=jobs), watched(client):
        yield


def extraction(
    client: Client, view_folder: RunFolder, size: int, device: str, predictor: Predictor
) -> Callable[[int], Generator[Block, None, None]]:
    """Computes the blocks of features.h5 on the workers, in batches of `size`; a function from the
    first row to the blocks from there on, for `features.extract.extract`. All workers compute in
    the precision and by the runtime of the client's `predictor`: what `auto` is depends on the
    machine."""
    store = view_folder.store
    require_files(client, sized([store.path, view_folder.checkpoint]))
    files = view_folder.checkpoint.absolute(), store.path.absolute()
    network = (*files, device, predictor.compute.precision, predictor.runtime)
    task = partial(extract_rows, network, size)
    return partial(_blocks, client, task, len(store.images()), size * _BATCHES)


def reading(client: Client, store: Store, reader: TextReader) -> ReadBlocks:
    """Reads the words in pictures of a store on the workers, by readers like this one."""
    path = store.path.absolute()
    require_files(client, sized([path]))
    task = partial(read_words, path, reader.kind, reader.name)

    def read_blocks(blocks: Iterator[list[int]]) -> Iterator[list[str]]:
        return _in_order(client, task, ((f"words-{ids[0]}", (ids,)) for ids in blocks))

    return read_blocks


def _blocks(
    client: Client, task: Callable[..., Block], rows: int, each: int, start: int
) -> Generator[Block, None, None]:
    """The blocks from row `start` on, in order."""
    spans = ((first, min(first + each, rows)) for first in range(start, rows, each))
    yield from _in_order(client, task, ((f"row-{span[0]}", span) for span in spans))


def _in_order(
    client: Client, task: Callable[..., T], calls: Iterator[tuple[str, tuple[Any, ...]]]
) -> Generator[T, None, None]:
    """The results of a task, in the order of its `calls` (name and arguments). Two per worker are
    under way; workers may join or leave at any time."""
    waiting: deque[Future] = deque()
    try:
        for name, arguments in calls:
            key = named("features", name)
            waiting.append(client.submit(task, *arguments, key=key, retries=2))
            if len(waiting) >= 2 * slots(client):
                yield _first(client, waiting)
        while waiting:
            yield _first(client, waiting)
    except KilledWorker as error:
        raise ShelfsortError(
            f"a worker died while it extracted features; {RESUME}: {error}"
        ) from error
    finally:
        client.cancel(list(waiting))


def _first(client: Client, waiting: deque[Future]) -> Any:
    """The result of the first task, which is taken out."""
    wait(client, [waiting[0]])
    return waiting.popleft().result()


_turn = threading.Lock()


def extract_rows(
    network: tuple[Path, Path, str, str, str], batch_size: int, first: int, last: int
) -> Block:
    """Rows first .. last - 1 of a store through a network (as `_opened` takes it), in a worker."""
    lanes = distributed.get_worker().state.nthreads
    with _turn:
        predictor, store, table = _opened(*network)
        features: list[np.ndarray] = []
        errors: dict[int, str] = {}
        done = 0
        rows = table[first:last]
        for batch, failed in blocks_of(predictor, copy.copy(store), rows, batch_size, lanes):
            errors |= {done + row: reason for row, reason in failed.items()}
            features.append(batch)
            done += len(batch)
        return np.concatenate(features), errors


def read_words(store: Path, kind: str, name: str, ids: list[int]) -> list[str]:
    """The words in pictures of a store, in a worker. Raises ShelfsortError if its reader is another
    one than the client's, `name`."""
    with _turn:
        reader = _reader(kind)
        if reader.name != name:
            raise ShelfsortError(
                f"words: expected workers that read by {name}, found {reader.name}; install the "
                "same version there"
            )
        with ThreadPoolExecutor(distributed.get_worker().state.nthreads) as pool:
            return list(pool.map(partial(text_in, reader), Store(store).read(ids)))


@lru_cache(maxsize=1)
def _reader(kind: str) -> TextReader:
    return READERS[kind]("a worker")


@lru_cache(maxsize=1)
def _opened(
    checkpoint: Path, store: Path, device: str, precision: str, runtime: str
) -> tuple[Predictor, Store, ImageTable]:
    """Network, store and its table, opened once per process."""
    opened = Store(store)
    predictor = open_network(checkpoint, device=device, precision=precision, runtime=runtime)
    return predictor, opened, opened.images()
