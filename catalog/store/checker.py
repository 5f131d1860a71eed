"""Reads products of a source and has their images checked by all cores, a bounded number at a
time."""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from joblib.externals.loky import ProcessPoolExecutor

from catalog.config import CatalogConfig
from catalog.errors import ImageError
from catalog.parallel import in_order
from catalog.sources.dump_index import partition
from catalog.sources.photo_list import Photos
from catalog.sources.source import ProductSource
from catalog.store.image_checks import CheckedImage, check

P = ParamSpec("P")
R = TypeVar("R")

_CHUNK_BYTES = 2**19
_IN_FLIGHT = 3
"""Chunks per worker. joblib.Parallel would read ahead without limit if the writer is slower."""

Checks = list[list[CheckedImage | ImageError]]
"""One list per product, one element per image."""


class ReadProduct(NamedTuple):
    """What ingest reads of the product in a row of the source. `names` are those of its photos."""

    row: int
    photos: Photos
    names: list[str | None]
    text: str
    columns: list[Any]


class CheckedProduct(NamedTuple):
    """A product, and what the check of each of its photos gave."""

    product: ReadProduct
    images: list[CheckedImage | ImageError]


def checked_chunks(
    source: ProductSource,
    rows: np.ndarray,
    config: CatalogConfig,
    jobs: int,
    executor: Executor | None = None,
) -> Iterator[list[CheckedProduct]]:
    """The products in these rows of the source (int64 [P]), checked, in the order of the rows.

    `jobs` processes check. A caller's own `executor` is used and left open, with `jobs` workers in
    it. Raises DumpError if a dump changed since it was indexed, BrokenExecutor if a worker died.
    """
    read: deque[list[ReadProduct]] = deque()

    def submit(chunk: np.ndarray) -> Future[Checks]:
        products = [_read(source, row, config.columns) for row in chunk.tolist()]
        read.append(products)
        return pool.submit(check_products, [product.photos for product in products], config)

    with contextlib.ExitStack() as stack:
        pool = executor or stack.enter_context(_executor(jobs))
        for checks in in_order(submit, _chunks(rows, source.length), _IN_FLIGHT * jobs):
            pairs = zip(read.popleft(), checks, strict=True)
            yield list(itertools.starmap(CheckedProduct, pairs))


def _read(source: ProductSource, row: int, columns: Sequence[str]) -> ReadProduct:
    photos = source.read(row)
    names = [source.photo_name(row, position) for position in range(len(photos))]
    return ReadProduct(row, photos, names, source.text(row), source.columns(row, columns))


def _chunks(rows: np.ndarray, length: np.ndarray) -> list[np.ndarray]:
    """The rows in chunks of about _CHUNK_BYTES."""
    return [rows[first:end] for first, end in partition(length[rows], _CHUNK_BYTES)]


def check_products(products: list[Photos], config: CatalogConfig) -> Checks:
    """Checks every image of some products; an error takes the place of an image that fails. Runs in
    worker processes."""
    return [[_checked(data, config) for data in images] for images in products]


def _checked(data: bytes | ImageError, config: CatalogConfig) -> CheckedImage | ImageError:
    if isinstance(data, ImageError):
        return data
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

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """A future that has its result."""
        future: Future[R] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _start_worker(parent: int) -> None:
    """A worker leaves Ctrl-C to its parent, and exits if the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
