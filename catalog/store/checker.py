"""Reads products of a dump and has their images checked by all cores, a bounded number in flight."""

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
from joblib.externals.loky import ProcessPoolExecutor

from catalog.config import CatalogConfig
from catalog.errors import ImageError
from catalog.sources.bson_reader import DumpReader, Product
from catalog.sources.dump_index import DumpIndex
from catalog.store.image_checks import CheckedImage, check

_CHUNK_BYTES = 2**19
# chunks a worker; joblib.Parallel would read ahead without limit where the writer is slower than
# the workers
_IN_FLIGHT = 3

Checked = list[list[CheckedImage | ImageError]]
"""A list a product, an element an image."""


def checked_chunks(
    index: DumpIndex,
    places: np.ndarray,
    config: CatalogConfig,
    jobs: int,
    executor: Executor | None = None,
) -> Iterator[tuple[np.ndarray, list[Product], Checked]]:
    """Rows of `places` (int64 [P, >= 1], its first column a row of the index), their products and
    the checks, in that order.

    `jobs` processes check. A caller's own `executor` is used and left open, with `jobs` workers in
    it. Raises DumpError where the dump changed since it was indexed, BrokenExecutor where a worker
    died.
    """
    waiting: deque[tuple[np.ndarray, list[Product], Future[Checked]]] = deque()
    with DumpReader(index.sources) as reader, contextlib.ExitStack() as stack:
        executor = executor or stack.enter_context(_executor(jobs))
        for chunk in _chunks(places, index.length):
            products = [reader.product(*index.place(row)) for row in chunk[:, 0]]
            task = executor.submit(check_products, [product.images for product in products], config)
            waiting.append((chunk, products, task))
            if len(waiting) >= _IN_FLIGHT * jobs:
                chunk, products, task = waiting.popleft()
                yield chunk, products, task.result()
        for chunk, products, task in waiting:
            yield chunk, products, task.result()


def _chunks(places: np.ndarray, length: np.ndarray) -> list[np.ndarray]:
    """Cuts the places into runs of about _CHUNK_BYTES of documents."""
    number = np.cumsum(length[places[:, 0]], dtype=np.int64) // _CHUNK_BYTES
    return [chunk for chunk in np.split(places, np.flatnonzero(np.diff(number)) + 1) if len(chunk)]


def check_products(products: list[tuple[bytes | None, ...]], config: CatalogConfig) -> Checked:
    """Checks every image of some products; an image's error stands in its place. Runs in worker
    processes."""
    return [[_checked(data, config) for data in images] for images in products]


def _checked(data: bytes | None, config: CatalogConfig) -> CheckedImage | ImageError:
    try:
        return check(data, config)
    except ImageError as error:
        return error


def _executor(jobs: int) -> Executor:
    return (
        ProcessPoolExecutor(jobs, initializer=_start_worker, initargs=(os.getpid(),))
        if jobs > 1
        else _Inline()
    )


class _Inline(Executor):
    """Runs each task at once, in this process."""

    def submit(self, function: Callable, /, *arguments: Any) -> Future:
        future: Future = Future()
        future.set_result(function(*arguments))
        return future


def _start_worker(parent: int) -> None:
    """A worker leaves Ctrl-C to its parent, and ends when the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
