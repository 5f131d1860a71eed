"""Brings a features.h5 up to date with corrected labels: the same rows, in the order and with the
labels of today's store. No photo is decoded."""

import numpy as np

from catalog.arrays import find_rows
from catalog.artifacts import publish
from catalog.errors import ArtifactError
from catalog.image_table import ImageTable
from features.schema import FEATURE_DTYPE, UNREADABLE
from features.store import FeatureStore
from features.writer import FeatureWriter

_BLOCK = 4096
"""Rows that are copied at a time."""


def relabel(old: FeatureStore, table: ImageTable, classes: int, made_from: dict) -> int:
    """Replaces the file of `old` by one with a row for each image of `table` (store order); returns
    how many images have another class than before. Killed, it leaves the old file.

    Raises ArtifactError if an image of `table` has no features.
    """
    by_id = np.argsort(old.table.image_id)
    rows = find_rows(old.table.image_id, table.image_id, by_id)
    if (rows < 0).any():
        missing = table.image_id[(rows < 0).argmax()]
        raise ArtifactError(old.path, f"has no features of image {missing}", "features")
    new = old.path.with_name("features.relabelled.h5")
    errors = old.errors
    with FeatureWriter(new, table, old.width, classes, made_from, old.computed_with) as writer:
        for start in range(writer.cursor, len(table), _BLOCK):
            block = rows[start : start + _BLOCK]
            unreadable = np.flatnonzero(old.status[block] == UNREADABLE).tolist()
            reasons = {row: errors[int(old.table.image_id[block[row]])] for row in unreadable}
            writer.write(_features_of(old, block), reasons)
        writer.finish(old.head)
    publish(new, old.path)
    return int((table.class_index != old.table.class_index[rows]).sum())


def _features_of(old: FeatureStore, rows: np.ndarray) -> np.ndarray:
    """Features float16 [B, D] of some rows, in the order asked."""
    order = np.argsort(rows)
    features = np.empty((len(rows), old.width), dtype=FEATURE_DTYPE)
    features[order] = old.features_at(rows[order])
    return features
