"""Stage 2's items from the feature files of all views, in one pass; and the projection of a view's
features."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA

from catalog.errors import ArtifactError
from catalog.image_table import ImageTable
from catalog.parallel import in_threads
from catalog.progress import progress
from features import schema
from features.store import FeatureStore
from stage1_cnn.head import Head
from stage2_xgb.experts import columns_of
from stage2_xgb.items import ItemBlock, Items, Projection, compact, pool

BLOCK = 4096
"""Images read at once."""
Opinion = Callable[[ItemBlock, str], np.ndarray]
"""Log-probabilities float32 [N, K] of images, or of their products, by unit."""


class Block(NamedTuple):
    """Images, of each view with vectors their features [N, D], and their products' columns, float32
    codes [N, M]."""

    table: ImageTable
    features: list[np.ndarray]
    codes: np.ndarray

    def rows(self, rows: np.ndarray) -> "Block":
        """Some of the images."""
        return Block(self.table[rows], [x[rows] for x in self.features], self.codes[rows])

    def items(self, head: Head) -> ItemBlock:
        """The images with stage 1's opinion, by its head."""
        return ItemBlock.images(self.table, self.features, head, self.codes)


class Views:
    """The feature files of one store, stage 1's first, read side by side: `stores` with vectors,
    and the one with codes of catalogue columns, if there is one.

    Raises ArtifactError where a further file doesn't hold the same images.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        coded = [store for store in stores if columns_of(store.made_from)]
        self.stores = tuple(store for store in stores if store not in coded)
        self.first, self.coded = stores[0], coded[0] if coded else None
        self.columns = columns_of(coded[0].made_from) if coded else None
        self._every = (*self.stores, *coded)
        for store in self._every[1:]:
            if not np.array_equal(store.table.image_id, self.first.table.image_id):
                raise ArtifactError(
                    store.path, f"holds other images than {self.first.path}", "features"
                )
        self.head, self.classes = self.first.head, len(self.first.head.bias)

    def blocks(self, split: str, *, fit_only: bool) -> Iterator[ItemBlock]:
        """The images of a split, BLOCK rows or so at a time, never cutting a product; one empty
        block where the split is empty."""
        for block in self.features(split, fit_only=fit_only):
            yield block.items(self.head)

    def features(self, split: str, *, fit_only: bool) -> Iterator[Block]:
        """The same images as `blocks`, and of each view features float16 [N, D]: stage 1's opinion,
        which takes longest, is not asked for."""
        span, table = self.first.of_split(split), self.first.table
        start, stop = span.start, -1
        while stop < span.stop:
            stop = min(start + BLOCK, span.stop)
            while stop < span.stop and table.product_id[stop] == table.product_id[stop - 1]:
                stop += 1
            rows = slice(start, stop)
            use = np.all([store.status[rows] == schema.DONE for store in self._every], axis=0)
            use = use & table.fit[rows] if fit_only else use
            features = [store.features(rows)[use] for store in self.stores]
            yield Block(table[rows][use], features, self._codes(rows)[use])
            start = stop

    def _codes(self, rows: slice) -> np.ndarray:
        if self.coded is None:
            return np.zeros((rows.stop - rows.start, 0), dtype=np.float32)
        return self.coded.features(rows).astype(np.float32)

    def fitted(self, *splits: str) -> np.ndarray:
        """Images of each class on some splits that are readable and may be fitted, int64 [K]."""
        wanted = self.first.table.fit & self.first.table.on(*splits)
        for store in self._every:
            wanted = wanted & (store.status == schema.DONE)
        return np.bincount(self.first.table.class_index[wanted], minlength=self.classes)


def read_items(
    views: Views,
    blocks: Iterable[Block],
    total: int,
    opinion: Opinion,
    projections: Sequence[Projection],
    jobs: int = 1,
) -> dict[str, Items]:
    """The items of blocks of about `total` images with an opinion: every `image`, and every
    `product` of several. `jobs` threads ask for it."""

    def read(block: Block) -> tuple[Items, Items]:
        images = block.items(views.head)
        several = images.of_several()
        products = compact(pool(several), opinion(several, "product"), projections)
        return compact(images, opinion(images, "image"), projections), products

    parts: dict[str, list[Items]] = {"image": [], "product": []}
    with progress(total, "read features", "image") as bar:
        for images, products in in_threads(read, blocks, jobs):
            parts["image"].append(images)
            parts["product"].append(products)
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
    fitted = store.table.fit & store.table.on("train", "reserve")
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
    rank = min(components, *features.shape)
    model = PCA(rank, svd_solver="randomized", iterated_power=4, random_state=seed % 2**32).fit(
        features
    )
    vectors = np.zeros((width, components), dtype=np.float32)
    vectors[:, :rank] = model.components_.T
    return Projection(model.mean_.astype(np.float32), vectors)
