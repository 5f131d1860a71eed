"""Every usable image of a store through the network, into features.h5."""

import contextlib
from pathlib import Path

from catalog.progress import progress
from catalog.store import Store
from features.schema import FEATURE_DTYPE, SCHEMA
from features.store import FeatureWriter
from stage1_cnn.dataset import batches
from stage1_cnn.device import decode_threads
from stage1_cnn.predict import Predictor


def made_from(checkpoint: str, transform: dict, store: str) -> dict:
    """What a features.h5 depends on: sha256 of the checkpoint, its evaluation transform, fingerprint of the store, dtype,
    schema."""
    return {"schema": SCHEMA, "checkpoint": checkpoint, "transform": transform, "store": store, "dtype": FEATURE_DTYPE.__name__}


def extract(predictor: Predictor, store: Store, path: Path, *, batch_size: int) -> int:
    """Writes the features of all splits to `path` and returns the number of unreadable images. Interrupted, it resumes."""
    table = store.images()
    origin = made_from(predictor.fingerprint, predictor.transform.to_json(), store.fingerprint)
    head = predictor.head
    computed_with = predictor.engine.to_json()
    unreadable = 0
    with FeatureWriter(path, table, head.weight.shape[1], len(head.bias), origin, computed_with) as writer:
        rest = table[writer.cursor :]
        workers = decode_threads("auto", predictor.engine.device)
        loader = batches(store, rest, predictor.transform, batch_size=batch_size, workers=workers)
        with contextlib.closing(loader) as found, progress(len(table), "features", "img", initial=writer.cursor) as bar:
            for batch in found:
                errors = {row - int(batch.rows[0]): reason for row, reason in batch.reasons.items()}
                writer.write(predictor.features(batch.pixels), errors)
                unreadable += len(errors)
                bar.update(len(batch))
        writer.finish(head)
    return unreadable
