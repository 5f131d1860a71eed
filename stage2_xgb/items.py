"""What stage 2 knows of each item: images and pooled products, as compact arrays.

The first view is stage 1 itself; further views (another network, another size, vectors of a text)
bring new information. Nothing of size items x categories is kept: of each item's log-probabilities
the highest stay, the rest count as the lowest kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from catalog.arrays import group_starts
from catalog.image_table import ImageTable
from catalog.splits import SPLITS
from features.columns import MISSING
from stage1_cnn.head import Head, log_softmax

TOP = 32
"""Log-probabilities kept of an item."""


@dataclass(frozen=True)
class Projection:
    """Principal components of one view's features: mean float32 [D], components float32 [D, C] of
    unit length, by falling variance."""

    mean: np.ndarray
    components: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Projected features float32 [N, C]: distances and angles are the features' own, as far as
        C components hold them."""
        return (features.astype(np.float32) - self.mean) @ self.components


@dataclass(frozen=True)
class ItemBlock:
    """Items with everything, a block at a time: stage 1's log-probabilities float32 [N, K], and for
    each view features float32 [N, D]."""

    item_id: np.ndarray
    """Image id or product id."""
    product_id: np.ndarray
    class_index: np.ndarray
    split: np.ndarray
    n_images: np.ndarray
    log_probs: np.ndarray
    features: tuple[np.ndarray, ...]
    codes: np.ndarray
    """Of the product's columns, float32 [N, M], MISSING if a value is; M is 0 without columns."""

    def __len__(self) -> int:
        return len(self.item_id)

    def of_several(self) -> "ItemBlock":
        """The images of products that have several, where those of a product stand together."""
        same = self.product_id[1:] == self.product_id[:-1]
        return self.rows(np.r_[False, same] | np.r_[same, False][: len(self)])

    def rows(self, rows: np.ndarray | slice) -> "ItemBlock":
        """Some of the items."""
        plain = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "features"}
        return ItemBlock(**plain, features=tuple(x[rows] for x in self.features))

    @classmethod
    def concatenate(cls, blocks: Sequence["ItemBlock"]) -> "ItemBlock":
        """Items one after another."""
        plain = {
            field.name: np.concatenate([getattr(block, field.name) for block in blocks])
            for field in fields(cls)
            if field.name != "features"
        }
        by_view = zip(*(block.features for block in blocks), strict=True)
        return cls(**plain, features=tuple(map(np.concatenate, by_view)))

    def first_view(self) -> "ItemBlock":
        """The same items through stage 1 alone, without columns."""
        return replace(self, features=self.features[:1], codes=self.codes[:, :0])

    @classmethod
    def images(
        cls,
        table: ImageTable,
        features: Sequence[np.ndarray],
        head: Head,
        codes: np.ndarray | None = None,
    ) -> "ItemBlock":
        """Single images: their features [N, D] in each view, stage 1's head, and codes [N, M] of
        their products' columns."""
        return cls(
            table.image_id,
            table.product_id,
            table.class_index,
            table.split,
            np.ones(len(table), dtype=np.int32),
            head.log_probs(features[0]),
            tuple(x.astype(np.float32) for x in features),
            np.zeros((len(table), 0), dtype=np.float32) if codes is None else codes,
        )


@dataclass(frozen=True)
class Items:
    """Images or products, one row per item: product_id int64, class_index int32, split uint8,
    n_images int32 (pooled images), top_class int32 [N, T] (the likeliest first), log_prob float32
    [N, T] (log-probability of these classes), z float32 [N, V, C] (projected features), codes
    float32 [N, M] (of the columns)."""

    product_id: np.ndarray
    class_index: np.ndarray
    split: np.ndarray
    n_images: np.ndarray
    top_class: np.ndarray
    log_prob: np.ndarray
    z: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.product_id)

    def __getitem__(self, rows: np.ndarray | slice) -> "Items":
        return Items(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def concatenate(cls, blocks: Sequence["Items"]) -> "Items":
        """Items one after another."""
        return cls(
            *(
                np.concatenate([getattr(block, field.name) for block in blocks])
                for field in fields(cls)
            )
        )

    def on(self, *splits: str) -> np.ndarray:
        """Mask of the items on these splits."""
        return np.isin(self.split, [SPLITS.index(name) for name in splits])

    @property
    def predicted(self) -> np.ndarray:
        """Likeliest class, int32 [N]."""
        return self.top_class[:, 0]

    def log_probs(self, members: np.ndarray) -> np.ndarray:
        """Log-probabilities float32 [N, S] of some classes; one that is not among an item's highest
        has the lowest kept."""
        out = np.repeat(self.log_prob.min(axis=1, keepdims=True), len(members), axis=1)
        for column, member in enumerate(members):
            row, rank = np.nonzero(self.top_class == member)
            out[row, column] = self.log_prob[row, rank]
        return out


def product_starts(product_id: np.ndarray) -> np.ndarray:
    """First row of each product, whose rows stand together."""
    return group_starts(product_id)


def images_by_product(product_id: np.ndarray) -> np.ndarray:
    """Number of rows of each product."""
    return np.diff(product_starts(product_id), append=len(product_id))


def mean_by_product(x: np.ndarray, product_id: np.ndarray) -> np.ndarray:
    """Mean of the rows [N, ...] of each product."""
    if not len(x):
        return x
    count = images_by_product(product_id).astype(x.dtype)
    sums = np.add.reduceat(x, product_starts(product_id), axis=0)
    return sums / count.reshape(-1, *[1] * (x.ndim - 1))


def pool(images: ItemBlock) -> ItemBlock:
    """Products from their images, which stand together: mean of stage 1's log-probabilities,
    renormalised; mean features; number of images."""
    if not len(images):
        return images
    product_id, starts = images.product_id, product_starts(images.product_id)
    ids = product_id[starts]
    return ItemBlock(
        ids,
        ids,
        images.class_index[starts],
        images.split[starts],
        images_by_product(product_id).astype(np.int32),
        log_softmax(mean_by_product(images.log_probs, product_id)),
        tuple(mean_by_product(x, product_id) for x in images.features),
        images.codes[starts],
    )


def of_unit(images: ItemBlock, unit: str) -> ItemBlock:
    """The images themselves, or their products if `unit` is `product`."""
    return pool(images) if unit == "product" else images


def likeliest(log_probs: np.ndarray, top: int = TOP) -> tuple[np.ndarray, np.ndarray]:
    """The `top` likeliest classes int32 [N, T] of log-probabilities [N, K], and those [N, T],
    falling; ties by class index, as argmax has them."""
    top = min(top, log_probs.shape[1])
    top_class = np.argpartition(log_probs, -top, axis=1)[:, -top:]
    top_class.sort(axis=1)
    order = np.argsort(-np.take_along_axis(log_probs, top_class, axis=1), axis=1, kind="stable")
    top_class = np.take_along_axis(top_class, order, axis=1)
    return top_class.astype(np.int32), np.take_along_axis(log_probs, top_class, axis=1)


def compact(pooled: ItemBlock, log_probs: np.ndarray, projections: Sequence[Projection]) -> Items:
    """Projects the features, and keeps the highest of an opinion, log-probabilities [N, K]."""
    z = np.stack(
        [projection(x) for projection, x in zip(projections, pooled.features, strict=True)], axis=1
    )
    return Items(
        pooled.product_id,
        pooled.class_index,
        pooled.split,
        pooled.n_images,
        *likeliest(log_probs),
        z,
        pooled.codes,
    )


def has_columns(codes: np.ndarray) -> np.ndarray:
    """Which items have a column that is not missing, bool [N], by their codes [N, M]."""
    return (codes != MISSING).any(axis=1)
