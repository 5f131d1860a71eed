"""Batches of decoded photos from the store, decoded ahead by threads.

Threads are enough: the JPEG decoder and the resize release the interpreter's lock. Memory is bounded by the batches in
flight; the image table stays arrays, no Python object a sample. An image that can't be decoded keeps its row, marked
with the reason.
"""

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from catalog.errors import ImageError
from catalog.images import decode
from catalog.store import ImageTable

Transform = Callable[[Sequence[np.ndarray], np.ndarray], torch.Tensor]
"""(uint8 [H, W, 3] photos, image ids int64 [B]) -> uint8 [B, 3, height, width]."""


class Blobs(Protocol):
    """Where the bytes come from: `catalog.store.Store`, or anything that copies into an independent reader."""

    def read(self, image_ids: Sequence[int]) -> list[bytes]:
        """The bytes of some images, in the order asked."""


@dataclass(frozen=True)
class Batch:
    """B images: `rows` int64 [B] of the image table, `pixels` uint8 [B, 3, H, W] (channels_last; 0 where not readable),
    `labels` int64 [B], `readable` bool [B], and `reasons`, row -> why it isn't."""

    rows: np.ndarray
    pixels: torch.Tensor
    labels: torch.Tensor
    readable: np.ndarray
    reasons: dict[int, str]

    def __len__(self) -> int:
        return len(self.rows)


def load(store: Blobs, table: ImageTable, rows: np.ndarray, transform: Transform) -> Batch:
    """Reads, decodes and transforms some rows of `table`. Raises ArtifactError where the store lacks one."""
    photos, readable, reasons = [], np.ones(len(rows), dtype=bool), {}
    for place, data in enumerate(store.read(table.image_id[rows])):
        try:
            photos.append(decode(data))
        except ImageError as error:
            readable[place] = False
            reasons[int(rows[place])] = str(error)
    labels = torch.from_numpy(table.class_index[rows].astype(np.int64))
    pixels = transform(photos, table.image_id[rows][readable])
    if reasons:
        whole = torch.zeros((len(rows), *pixels.shape[1:]), dtype=torch.uint8)
        whole[torch.from_numpy(readable)] = pixels
        pixels = whole.contiguous(memory_format=torch.channels_last)
    return Batch(rows, pixels, labels, readable, reasons)


def batches(
    store: Blobs, table: ImageTable, transform: Transform, *,
    batch_size: int, order: np.ndarray | None = None, workers: int = 0, pin_memory: bool = False,
) -> Iterator[Batch]:  # fmt: skip
    """The rows `order` (int64; all, in store order, where None) in batches of `batch_size`, the last one smaller.

    `workers` threads decode ahead, each with its own connection; 0 decodes in the calling thread. Batches and their
    content don't depend on `workers`. Close the iterator to stop early. `pin_memory` is for copies to a GPU.
    """
    order = np.arange(len(table)) if order is None else order
    parts = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    if workers == 0:
        yield from (_pinned(load(store, table, rows, transform), pin_memory) for rows in parts)
        return
    own = threading.local()

    def open_store() -> None:
        own.store = copy.copy(store)

    def job(rows: np.ndarray) -> Batch:
        return _pinned(load(own.store, table, rows, transform), pin_memory)

    pool = ThreadPoolExecutor(workers, "decode", initializer=open_store)
    pending: deque[Future[Batch]] = deque()
    try:
        for rows in parts:
            pending.append(pool.submit(job, rows))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pinned(batch: Batch, pin: bool) -> Batch:
    if not pin:
        return batch
    return Batch(batch.rows, batch.pixels.pin_memory(), batch.labels.pin_memory(), batch.readable, batch.reasons)
