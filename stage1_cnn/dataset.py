"""Batches of decoded photos from the store, decoded ahead by threads.

Threads are enough: the JPEG decoder and the resize release the interpreter's lock. Memory is
bounded by the batches in flight; the image table stays arrays, no Python object a sample. An image
that can't be decoded keeps its row, marked with the reason.
"""

import copy
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from catalog.errors import ImageError
from catalog.image_table import ImageTable
from catalog.images import decode
from stage1_cnn.device import one_thread, threads_restored
from stage1_cnn.transforms import EvalTransform, TrainTransform

Transform = EvalTransform | TrainTransform


class Blobs(Protocol):
    """Where the bytes come from: `catalog.store.reader.Store`, or anything that copies into an
    independent reader."""

    def read(self, image_ids: Sequence[int]) -> list[bytes]:
        """The bytes of some images, in the order asked."""


@dataclass(frozen=True)
class Batch:
    """B images: `rows` int64 [B] of the image table, `repeats` int64 [B] (how often each row came
    before in the epoch), `pixels` uint8 [B, 3, H, W] (channels_last; 0 where not readable),
    `labels` int64 [B], `readable` bool [B], and `reasons`, row -> why it isn't."""

    rows: np.ndarray
    repeats: np.ndarray
    pixels: torch.Tensor
    labels: torch.Tensor
    readable: np.ndarray
    reasons: dict[int, str]

    def __len__(self) -> int:
        return len(self.rows)


def load(store: Blobs, table: ImageTable, places: np.ndarray, transform: Transform) -> Batch:
    """Reads, decodes and transforms some rows of `table`, or repeats of them (places as in
    `sampler`).

    Raises ArtifactError where the store lacks one.
    """
    repeats, rows = np.divmod(places, max(1, len(table)))
    room = transform.room(len(rows))
    photos, readable, errors = decode_all(store.read(table.image_id[rows]), room)
    labels = torch.from_numpy(table.class_index[rows].astype(np.int64))
    pixels = padded(
        transform(photos, table.image_id[rows][readable], repeats[readable], room), readable
    )
    return Batch(
        rows,
        repeats,
        pixels,
        labels,
        readable,
        {int(rows[place]): str(error) for place, error in errors.items()},
    )


def decode_all(
    blobs: Sequence[bytes | ImageError], room: np.ndarray | None = None
) -> tuple[list[np.ndarray], np.ndarray, dict[int, ImageError]]:
    """The photos that can be decoded, uint8 [H, W, 3] each; which of the B those are, bool [B]; and
    place -> why not. What could not even be read comes as its error. The n-th photo lies in
    `room[n]` where it fits (as `decode`)."""
    photos, readable, errors = [], np.ones(len(blobs), dtype=bool), {}
    for place, data in enumerate(blobs):
        try:
            if isinstance(data, ImageError):
                raise data
            photos.append(decode(data, out=None if room is None else room[len(photos)]))
        except ImageError as error:
            readable[place] = False
            errors[place] = error
    return photos, readable, errors


def padded(pixels: torch.Tensor, readable: np.ndarray) -> torch.Tensor:
    """The readable images' pixels as a whole batch, uint8 [B, 3, H, W] in channels_last: 0 where an
    image is not readable, so that a batch keeps its size, and with it the arithmetic of its other
    images."""
    if readable.all():
        return pixels
    whole = torch.zeros((len(readable), *pixels.shape[1:]), dtype=torch.uint8)
    whole[torch.from_numpy(readable)] = pixels
    return whole.contiguous(memory_format=torch.channels_last)


def batches(
    store: Blobs,
    table: ImageTable,
    transform: Transform,
    *,
    batch_size: int,
    order: np.ndarray | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """As `stream`: the rows `order` (int64; all, in store order, where None) in batches of
    `batch_size`, the last one smaller."""
    order = np.arange(len(table)) if order is None else order
    return stream(
        store, table, transform, in_parts(order, batch_size), workers=workers, pin_memory=pin_memory
    )


def in_parts(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`order` in slices of `size`, the last one smaller."""
    return (order[start : start + size] for start in range(0, len(order), size))


def stream(
    store: Blobs,
    table: ImageTable,
    transform: Transform,
    parts: Iterable[np.ndarray],
    *,
    workers: int,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """A batch a part: the places of its photos, int64.

    `workers` threads decode ahead, each with its own connection; 0 decodes in the calling thread.
    Batches and their content don't depend on `workers`. Close the iterator to stop early.
    `pin_memory` is for copies to a GPU.
    """
    if workers == 0:
        yield from (_pinned(load(store, table, places, transform), pin_memory) for places in parts)
        return
    own = threading.local()

    def start() -> None:
        own.store = copy.copy(store)
        one_thread()

    def job(places: np.ndarray) -> Batch:
        return _pinned(load(own.store, table, places, transform), pin_memory)

    with threads_restored():
        pool = ThreadPoolExecutor(workers, "decode", initializer=start)
        pending: deque[Future[Batch]] = deque()
        try:
            for places in parts:
                pending.append(pool.submit(job, places))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pinned(batch: Batch, pin: bool) -> Batch:
    return (
        replace(batch, pixels=batch.pixels.pin_memory(), labels=batch.labels.pin_memory())
        if pin
        else batch
    )
