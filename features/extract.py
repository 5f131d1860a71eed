"""Every usable image of a store through the network, into features.h5."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from catalog.errors import ShelfsortError
from catalog.image_table import ImageTable
from catalog.progress import progress
from catalog.store.reader import Store
from features.schema import FEATURE_DTYPE, SCHEMA
from features.writer import FeatureWriter
from stage1_cnn.dataset import batches
from stage1_cnn.device import decode_threads
from stage1_cnn.predict import Predictor


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
"""Features float16 [B, D] of some rows in store order, and row within the block -> why a photo
can't be read."""


def blocks_of(
    predictor: Predictor, store: Store, table: ImageTable, batch_size: int
) -> Iterator[Block]:
    """The features of all rows of `table`, a batch at a time."""
    device = predictor.compute.device
    workers, pin = decode_threads("auto", device), device.type == "cuda"
    read = batches(
        store, table, predictor.transform, batch_size=batch_size, workers=workers, pin_memory=pin
    )
    with contextlib.closing(read) as found:
        for batch in found:
            errors = {row - int(batch.rows[0]): reason for row, reason in batch.reasons.items()}
            yield predictor.features(batch.pixels), errors


def extract(
    predictor: Predictor,
    store: Store,
    path: Path,
    *,
    batch_size: int,
    elsewhere: Callable[[int], Iterator[Block]] | None = None,
) -> int:
    """Writes the features of all splits to `path` and returns the number of unreadable images.
    Interrupted, it resumes. Raises ShelfsortError where features are not finite.

    `elsewhere`: takes the first row that is missing and gives the blocks from there on, where
    another than this process makes them.
    """
    table = store.images()
    origin = made_from(predictor, store.fingerprint)
    head = predictor.head
    computed_with = predictor.computed_with
    unreadable = 0
    with FeatureWriter(
        path, table, head.weight.shape[1], len(head.bias), origin, computed_with
    ) as writer:
        start = writer.cursor
        blocks = (
            elsewhere(start)
            if elsewhere
            else blocks_of(predictor, store, table[start:], batch_size)
        )
        with (
            contextlib.closing(blocks) as found,
            progress(len(table), "features", "img", initial=start) as bar,
        ):
            for features, errors in found:
                _require_finite(
                    features, errors, table[writer.cursor :], predictor.compute.precision
                )
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
        wider = "" if precision == "fp32" else "set features.precision=fp32, or "
        found = f"the features of image {table.image_id[bad.argmax()]} are not finite as float16, computed in {precision}"
        raise ShelfsortError(
            f"{found}; expected -65504 to 65504: {wider}train stage 1 again with a lower stage1.lr"
        )
