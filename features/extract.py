"""Extracts the features of every usable image of a store into features.h5."""

import contextlib
import copy
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import numpy as np

from catalog.errors import ShelfsortError
from catalog.image_table import ImageTable
from catalog.progress import progress
from catalog.store.reader import Store
from features.schema import FEATURE_DTYPE, SCHEMA
from features.writer import FeatureWriter
from stage1_cnn.dataset import batches, in_parts, load
from stage1_cnn.device import decode_threads, ordered
from stage1_cnn.predict import PROCESSOR_BATCH, Predictor


def made_from(predictor: Predictor, store: str) -> dict:
    """What a features.h5 depends on: sha256 of the checkpoint, its evaluation transform, the
    arithmetic's precision, fingerprint of the store, dtype, schema."""
    return {
        "schema": SCHEMA,
        "checkpoint": predictor.fingerprint,
        "transform": predictor.transform.to_json(),
        "precision": predictor.compute.precision,
        "store": store,
        "dtype": FEATURE_DTYPE.__name__,
    }


Block = tuple[np.ndarray, dict[int, str]]
"""Features float16 [B, D] of some rows in store order, and row within the block -> why its photo is
unreadable."""


def blocks_of(
    predictor: Predictor, store: Store, table: ImageTable, batch_size: int, lanes: int
) -> Generator[Block, None, None]:
    """The features of all rows of `table`, one block per batch; on a processor by so many lanes, as
    in scoring."""
    device = predictor.compute.device
    if device.type == "cpu":
        yield from _blocks_of_lanes(predictor, store, table, batch_size, lanes)
        return
    workers = decode_threads("auto", device)
    read = batches(
        store, table, predictor.transform, batch_size=batch_size, workers=workers, pin_memory=True
    )
    with contextlib.closing(read):
        for batch in read:
            errors = {row - int(batch.rows[0]): reason for row, reason in batch.reasons.items()}
            yield predictor.features(batch.pixels), errors


def _blocks_of_lanes(
    predictor: Predictor, store: Store, table: ImageTable, batch_size: int, lanes: int
) -> Generator[Block, None, None]:
    own = threading.local()

    def block(rows: np.ndarray) -> Block:
        if not hasattr(own, "store"):
            own.store = copy.copy(store)
        batch = load(own.store, table, rows, predictor.transform)
        features = [predictor.features(pixels) for pixels in batch.pixels.split(PROCESSOR_BATCH)]
        return np.concatenate(features), {
            row - int(rows[0]): reason for row, reason in batch.reasons.items()
        }

    row_groups = in_parts(np.arange(len(table)), batch_size)
    with contextlib.closing(ordered(block, row_groups, lanes)) as blocks:
        yield from blocks


def extract(
    predictor: Predictor,
    store: Store,
    path: Path,
    *,
    batch_size: int,
    lanes: int = 1,
    elsewhere: Callable[[int], Generator[Block, None, None]] | None = None,
) -> int:
    """Writes the features of all splits to `path` and returns the number of unreadable images.
    After an interruption it resumes. Raises ShelfsortError if features are not finite.

    `elsewhere` takes the first missing row and returns the blocks from there on, if other processes
    compute them.
    """
    table = store.images()
    origin = made_from(predictor, store.fingerprint)
    head, precision = predictor.head, predictor.compute.precision
    unreadable = 0
    with FeatureWriter(
        path, table, predictor.width, len(head.bias), origin, predictor.computed_with
    ) as writer:
        start = writer.cursor
        if elsewhere:
            blocks = elsewhere(start)
        else:
            blocks = blocks_of(predictor, store, table[start:], batch_size, lanes)
        with (
            contextlib.closing(blocks),
            progress(len(table), "features", "img", initial=start) as bar,
        ):
            for features, errors in blocks:
                _require_finite(features, errors, table[writer.cursor :], precision)
                writer.write(features, errors)
                unreadable += len(errors)
                bar.update(len(features))
        writer.finish(head)
    return unreadable


def _require_finite(
    features: np.ndarray, errors: Mapping[int, str], table: ImageTable, precision: str
) -> None:
    bad = ~np.isfinite(features).all(axis=1)
    bad[list(errors)] = False
    if bad.any():
        image_id = table.image_id[bad.argmax()]
        wider = "" if precision == "fp32" else "set features.precision=fp32, or "
        raise ShelfsortError(
            f"the features of image {image_id} are not finite as float16, computed in {precision}; "
            f"expected -65504 to 65504: {wider}train stage 1 again with a lower stage1.lr"
        )
