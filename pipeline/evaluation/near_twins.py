"""Near twins: test photos that look almost like a fitted photo of another product; accuracy on them
says little of new products.

Photos of one round through a shop, or of one series, may stand on both sides of a split of
products. A near twin has a fitted photo (of train, extra or reserve) of its own category with a
cosine above a threshold in *every* network's features: a network that was fine-tuned draws the
photos of a category together, a frozen one does not, so a view such as `frozen: {epochs: 0}` makes
the measure sharper. What a cosine means differs between networks: the threshold is COSINE, or more
if LIKENESS of the photos come as near to a photo of *another* category, which is no twin. In: the
feature files of a run. Nothing is put on disk.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas

from catalog.arrays import find_rows
from catalog.intervals import clustered_share
from catalog.progress import progress
from catalog.splits import sample_hash
from features import schema
from features.neighbours import unit
from features.store import FeatureStore

COSINE = 0.9
"""Of near twins, at least."""
LIKENESS = 0.05
"""Share of the photos that may come as near to a photo of another category."""
SUSPICIOUS = 0.25
"""Share of near twins from which `evaluate` warns: measured by a cosine of 0.9 alone, a data set
whose official split separates the rounds through the shop had 6%, and 32% when its photos were
dealt at random, which made top-1 .956 of .759."""
SAMPLE = 1000
"""Test photos that are looked at, of whole products drawn by their hash: a standard error of at
most 1.6 points."""
_BLOCK = 4096


def near_twins(stores: Sequence[FeatureStore], images: pandas.DataFrame) -> dict[str, Any]:
    """The share of near twins in a sample of `images`, the evaluated ones
    (evaluation/items.parquet, at least one), and the top-1 of both stages with and without them, as
    metrics.json has it."""
    networks = [store for store in stores if "checkpoint" in store.made_from]
    order = np.argsort(sample_hash(images["product_id"].to_numpy(), "near twins", 0), kind="stable")
    sample = images.iloc[np.sort(order[:SAMPLE])]
    own, other = nearest_cosines(networks, _rows_of(networks[0], sample["item_id"].to_numpy()))
    return twin_figures(sample, own, other) | {"networks": len(networks)}


def twin_figures(sample: pandas.DataFrame, own: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """The same from the highest cosines, float [N], of the sampled items to their own and to other
    categories."""
    threshold = max(COSINE, float(np.quantile(other, 1 - LIKENESS)))
    twin, right = own > threshold, (sample["two_stage_class"] == sample["class_index"]).to_numpy()
    ones, group = np.ones(len(sample)), sample["group"].to_numpy()
    share = clustered_share(twin, ones, group)
    return {
        "cosine": threshold,
        "share": share.to_json(),
        "suspicious": share.value is not None and share.value > SUSPICIOUS,
        "top1_with": clustered_share(right[twin], ones[twin], group[twin]).to_json(),
        "top1_without": clustered_share(right[~twin], ones[~twin], group[~twin]).to_json(),
    }


def _rows_of(store: FeatureStore, image_id: np.ndarray) -> np.ndarray:
    """Feature rows of some images of the test split, int64, in their order."""
    span = store.of_split("test")
    stored = store.table.image_id[span]
    return span.start + find_rows(stored, image_id, np.argsort(stored))


def nearest_cosines(
    stores: Sequence[FeatureStore], rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each row int64 [Q] the highest cosine to a fitted photo of train, extra or reserve,
    float32 [Q] each: of its own category, and of others; -1 if there is none. Of several feature
    files the least cosine counts. The rows are of another split.

    Memory: a block of each file and its cosines, whatever their length; time: one pass over the
    fitted photos.
    """
    queries = [unit(_features_at(store, rows)) for store in stores]
    classes = stores[0].table.class_index
    own, other = (np.full(len(rows), -1, dtype=np.float32) for _ in range(2))
    for block, use in _fitted(stores):
        if not use.any():
            continue
        pairs = (
            q @ unit(store.features(block)[use].astype(np.float32)).T
            for q, store in zip(queries, stores, strict=True)
        )
        cosines = next(pairs)
        for more in pairs:
            np.minimum(cosines, more, out=cosines)
        same = classes[rows][:, None] == classes[block][use][None]
        np.maximum(own, np.where(same, cosines, -1).max(axis=1), out=own)
        np.maximum(other, np.where(same, -1, cosines).max(axis=1), out=other)
    return own, other


def _features_at(store: FeatureStore, rows: np.ndarray) -> np.ndarray:
    """Features float32 [Q, D] of rows in any order."""
    ascending, index = np.unique(rows, return_inverse=True)
    return store.features_at(ascending)[index].astype(np.float32)


def _fitted(stores: Sequence[FeatureStore]) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of rows of train, extra and reserve; which of them are fitted and readable in every
    file."""
    spans = [stores[0].of_split(split) for split in ("train", "extra", "reserve")]
    with progress(sum(span.stop - span.start for span in spans), "near twins", "img") as bar:
        for span in spans:
            for start in range(span.start, span.stop, _BLOCK):
                block = slice(start, min(start + _BLOCK, span.stop))
                readable = np.all([store.status[block] == schema.DONE for store in stores], axis=0)
                yield block, readable & stores[0].table.fit[block]
                bar.update(block.stop - block.start)
