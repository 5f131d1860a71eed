"""Batches of decoded photos from the store, decoded ahead by threads.

Threads are enough, as the JPEG decoder and the resize release the interpreter's lock. Memory is
bounded by the batches in flight; the image table stays arrays, with no Python object per sample. An
image that can't be decoded keeps its row, marked with the reason.
"""

import copy
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from catalog.config import MAX_PIXELS, MOST_PIXELS
from catalog.errors import ImageError
from catalog.image_table import ImageTable
from catalog.images import decode
from catalog.parallel import in_order
from stage1_cnn.device import one_thread, threads_restored
from stage1_cnn.transforms import EvalTransform, TrainTransform

Transform = EvalTransform | TrainTransform


class Blobs(Protocol):
    """Where the bytes come from: `catalog.store.reader.Store`, or anything that copies into an
    independent reader."""

    def read(self, image_ids: Sequence[int] | np.ndarray) -> list[bytes]:
        """The bytes of some images, in the order asked."""


@dataclass(frozen=True)
class Batch:
    """B images: `rows` int64 [B] of the image table, `repeats` int64 [B] (how often each row came
    before in the epoch), `pixels` uint8 [B, 3, H, W] (channels_last; 0 if not readable),
    `labels` int64 [B], `readable` bool [B], and `reasons`, row -> why it isn't."""

    rows: np.ndarray
    repeats: np.ndarray
    pixels: torch.Tensor
    labels: torch.Tensor
    readable: np.ndarray
    reasons: dict[int, str]

    def __len__(self) -> int:
        return len(self.rows)


def load(store: Blobs, table: ImageTable, samples: np.ndarray, transform: Transform) -> Batch:
    """Reads, decodes and transforms some rows of `table`, or repeats of them (sample indices as in
    `sampler`).

    Raises ArtifactError if the store lacks one.
    """
    repeats, rows = np.divmod(samples, max(1, len(table)))
    image_id, out = table.image_id[rows], transform.empty_batch(len(rows))
    photos, readable, errors = decode_all(store.read(image_id), out, MOST_PIXELS, transform.least)
    labels = torch.from_numpy(table.class_index[rows].astype(np.int64))
    pixels = transform(photos, image_id[readable], repeats[readable], out)
    reasons = {int(rows[index]): str(error) for index, error in errors.items()}
    return Batch(rows, repeats, padded(pixels, readable), labels, readable, reasons)


def decode_all(
    blobs: Sequence[bytes | ImageError],
    out: np.ndarray | None = None,
    max_pixels: int = MAX_PIXELS,
    least: tuple[int, int] | None = None,
) -> tuple[list[np.ndarray], np.ndarray, dict[int, ImageError]]:
    """The photos that can be decoded, uint8 [H, W, 3] each; whether each of the B is, bool [B]; and
    the errors of the others, by index. What could not even be read is given as its error. The n-th
    decoded photo lies in `out[n]` if it fits, and keeps `least` (both as `decode`). What a store
    holds, ingest has admitted by its own `max_pixels`: MOST_PIXELS."""
    photos: list[np.ndarray] = []
    readable = np.ones(len(blobs), dtype=bool)
    errors: dict[int, ImageError] = {}
    for index, data in enumerate(blobs):
        try:
            if isinstance(data, ImageError):
                raise data
            row = None if out is None else out[len(photos)]
            photos.append(decode(data, max_pixels=max_pixels, out=row, least=least))
        except ImageError as error:
            readable[index] = False
            errors[index] = error
    return photos, readable, errors


def padded(pixels: torch.Tensor, readable: np.ndarray) -> torch.Tensor:
    """The readable images' pixels as a whole batch, uint8 [B, 3, H, W] in channels_last, with zeros
    for unreadable images, so that a batch keeps its size, and with it the arithmetic of the
    others."""
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
) -> Generator[Batch, None, None]:
    """As `stream`: the rows `order` (int64; by default all, in store order) in batches of
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
) -> Generator[Batch, None, None]:
    """One batch per part; a part is the sample indices of its photos, int64.

    `workers` threads decode ahead, each with its own connection; 0 decodes in the calling thread.
    Batches and their content don't depend on `workers`. Close the generator to stop early.
    `pin_memory` is for copies to a GPU.

        with contextlib.closing(stream(store, table, transform, parts, workers=2)) as batches:
            for batch in batches:
                ...
    """
    if workers == 0:
        yield from (_pinned(load(store, table, part, transform), pin_memory) for part in parts)
        return
    own = threading.local()

    def start() -> None:
        own.store = copy.copy(store)
        one_thread()

    def job(samples: np.ndarray) -> Batch:
        return _pinned(load(own.store, table, samples, transform), pin_memory)

    with threads_restored(), ThreadPoolExecutor(workers, "decode", initializer=start) as pool:
        yield from in_order(lambda part: pool.submit(job, part), parts, 2 * workers + 1)


def _pinned(batch: Batch, pin: bool) -> Batch:
    if not pin:
        return batch
    return replace(batch, pixels=batch.pixels.pin_memory(), labels=batch.labels.pin_memory())
