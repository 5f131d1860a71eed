"""A map of the evaluated products: those that look alike to the networks lie side by side.
evaluation/map.parquet.

t-SNE (van der Maaten and Hinton, 2008) of the principal components of the features; principal
components alone where there are too few products for it."""

from collections.abc import Sequence

import numpy as np
import pandas
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from catalog.splits import sample_mask
from features.neighbours import unit
from features.schema import DONE
from features.store import FeatureStore

PRODUCTS = 1500
"""Of test that are on the map at most; t-SNE of as many takes about two seconds of one core."""
NO_MAP = pandas.DataFrame({name: np.zeros(0) for name in ("product_id", "x", "y")})
"""The map of no product."""
_COMPONENTS, _PERPLEXITY, _ROUNDS = 50, 30, 400


def photo_map(stores: Sequence[FeatureStore], seed: int = 0) -> pandas.DataFrame:
    """product_id and its place x, y from 0 to 1, of a sample of the test split's products."""
    table, span = stores[0].table, stores[0].of_split("test")
    readable = np.all([store.status[span] == DONE for store in stores], axis=0)
    product = table.product_id[span]
    share = min(1.0, PRODUCTS / max(len(np.unique(product)), 1))
    rows = span.start + np.flatnonzero(readable & sample_mask(product, share, "photo map", seed))
    views = [unit(store.features_at(rows)) for store in stores]
    means = pandas.DataFrame(np.concatenate(views, axis=1)).groupby(table.product_id[rows]).mean()
    xy = _placed(means.to_numpy(), seed)
    low, high = xy.min(axis=0, initial=0), xy.max(axis=0, initial=0)
    xy = (xy - low) / np.maximum(high - low, 1e-9)
    return pandas.DataFrame({"product_id": means.index, "x": xy[:, 0], "y": xy[:, 1]})


def _placed(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Places float [N, 2] of vectors [N, D]."""
    count = min(_COMPONENTS, *vectors.shape)
    if count < 2:
        return np.zeros((len(vectors), 2))
    x = PCA(count, random_state=seed).fit_transform(vectors)
    if len(x) <= 3 * _PERPLEXITY:
        return x[:, :2]
    return TSNE(
        2, perplexity=_PERPLEXITY, init="pca", max_iter=_ROUNDS, random_state=seed, n_jobs=1
    ).fit_transform(x)
