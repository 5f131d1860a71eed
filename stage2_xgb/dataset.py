"""Stage 2's items from the feature files of all views, in one pass; and the projection of a view's
features."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from sklearn.decomposition import PCA

from catalog.errors import ArtifactError
from catalog.image_table import ImageTable
from catalog.progress import progress
from catalog.splits import SPLITS, sample_key, select
from features import schema
from features.store import FeatureStore
from stage2_xgb.items import Items, Pooled, Projection, compact, pool
from stage2_xgb.prior import Shift

BLOCK = 4096
"""Images read at once."""


class Views:
    """The feature files of one store, stage 1's first, read side by side.

    Raises ArtifactError where a further file doesn't hold the same images.
    """

    def __init__(self, stores: Sequence[FeatureStore], seed: int = 0) -> None:
        """`seed`: of the samples that a cap takes."""
        self.stores, self.first, self.seed = tuple(stores), stores[0], seed
        for store in self.stores[1:]:
            if not np.array_equal(store.table.image_id, self.first.table.image_id):
                raise ArtifactError(
                    store.path, f"holds other images than {self.first.path}", "features"
                )
        self.heads = tuple(store.head for store in self.stores)

    def blocks(
        self, split: str, *, fit_only: bool, cap: np.ndarray | None = None
    ) -> Iterator[Pooled]:
        """The images of a split, BLOCK rows or so at a time, never cutting a product; one empty
        block where the split is empty. `cap` takes whole products, by their hash, up to so many
        images of each class, int [K]."""
        for table, features in self.features(split, fit_only=fit_only, cap=cap):
            yield Pooled.images(table, features, self.heads)

    def features(
        self, split: str, *, fit_only: bool, cap: np.ndarray | None = None
    ) -> Iterator[tuple[ImageTable, list[np.ndarray]]]:
        """The same images as `blocks`, and of each view features float16 [N, D]: stage 1's opinion,
        which takes longest, is not asked for."""
        for rows, use in self._spans(split, fit_only, cap):
            yield self.first.table[rows][use], [store.features(rows)[use] for store in self.stores]

    def project(
        self, split: str, projections: Sequence[Projection]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Product id [N], class index [N] and projected features float32 [N, V, C] of the fitted
        images of a split."""
        parts = [], [], []
        for rows, use in self._spans(split, True, None):
            z = [
                projection(store.features(rows)[use])
                for projection, store in zip(projections, self.stores, strict=True)
            ]
            found = (
                self.first.table.product_id[rows][use],
                self.first.table.class_index[rows][use],
                np.stack(z, axis=1),
            )
            for part, values in zip(parts, found, strict=True):
                part.append(values)
        return tuple(np.concatenate(part) for part in parts)

    def _spans(
        self, split: str, fit_only: bool, cap: np.ndarray | None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Runs of rows of a split that cut no product, and which of them are wanted and readable."""
        span, table, wanted = self.first.of_split(split), self.first.table, self._capped(split, cap)
        start, stop = span.start, -1
        while stop < span.stop:
            stop = min(start + BLOCK, span.stop)
            while stop < span.stop and table.product_id[stop] == table.product_id[stop - 1]:
                stop += 1
            rows = slice(start, stop)
            use = np.all([store.status[rows] == schema.DONE for store in self.stores], axis=0)
            use &= wanted[start - span.start : stop - span.start]
            yield rows, use & table.fit[rows] if fit_only else use
            start = stop

    def _capped(self, split: str, cap: np.ndarray | None) -> np.ndarray:
        rows = self.first.of_split(split)
        if cap is None:
            return np.ones(rows.stop - rows.start, dtype=bool)
        product_id, class_index = (
            self.first.table.product_id[rows],
            self.first.table.class_index[rows],
        )
        starts = np.flatnonzero(np.diff(product_id, prepend=-1) != 0)
        count = np.diff(np.append(starts, len(product_id)))
        key = sample_key(f"cap on {split}", self.seed)
        return np.repeat(select(class_index[starts], product_id[starts], count, cap, key), count)

    def fitted(self, *splits: str) -> np.ndarray:
        """Images of each class on some splits that are readable and may be fitted, int64 [K]."""
        wanted = self.first.table.fit & np.isin(
            self.first.table.split, [SPLITS.index(name) for name in splits]
        )
        for store in self.stores:
            wanted = wanted & (store.status == schema.DONE)
        return np.bincount(self.first.table.class_index[wanted], minlength=len(self.heads[0].bias))

    def count(self, splits: Mapping[str, np.ndarray | None]) -> int:
        """Images on some splits, each with its cap."""
        return sum(int(self._capped(split, cap).sum()) for split, cap in splits.items())


def read_items(
    views: Views,
    splits: Mapping[str, np.ndarray | None],
    shifts: dict[str, Sequence[Shift | None]],
    projections: Sequence[Projection],
    sharpness: float,
) -> dict[str, Items]:
    """The fitted items of some splits, each with its cap: every `image`, and every `product` of
    several (pooled with `sharpness`), each with its unit's shifts."""
    parts: dict[str, list[Items]] = {"image": [], "product": []}
    with progress(views.count(splits), "read features", "image") as bar:
        for split, cap in splits.items():
            for images in views.blocks(split, fit_only=True, cap=cap):
                parts["image"].append(compact(images, shifts["image"], projections))
                parts["product"].append(
                    compact(pool(images.of_several(), sharpness), shifts["product"], projections)
                )
                bar.update(len(images))
    return {unit: Items.concatenate(items) for unit, items in parts.items()}


def fit_projection(
    store: FeatureStore, components: int | None, seed: int, sample: int = 10_000
) -> Projection:
    """Principal components of up to `sample` fitted images of train and reserve; the features
    themselves where None."""
    width = store.width
    if components is None:
        return Projection(np.zeros(width, dtype=np.float32), np.eye(width, dtype=np.float32))
    fitted = store.table.fit & np.isin(
        store.table.split, [SPLITS.index("train"), SPLITS.index("reserve")]
    )
    rows = np.flatnonzero(fitted & (store.status == schema.DONE))
    rows = np.sort(np.random.default_rng(seed).choice(rows, min(sample, len(rows)), replace=False))
    blocks = [
        rows[slice(*np.searchsorted(rows, (start, start + BLOCK)))]
        for start in range(0, len(store), BLOCK)
    ]
    features = np.concatenate(
        [
            store.features(slice(b[0], b[-1] + 1))[b - b[0]].astype(np.float32)
            for b in blocks
            if len(b)
        ]
    )
    found = min(components, *features.shape)
    model = PCA(found, svd_solver="randomized", iterated_power=4, random_state=seed % 2**32).fit(
        features
    )
    vectors = np.zeros((width, components), dtype=np.float32)
    vectors[:, :found] = model.components_.T
    return Projection(model.mean_.astype(np.float32), vectors)
