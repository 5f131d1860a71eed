"""What stage 2 knows of each item: images and pooled products, as compact arrays.

The first view is stage 1 itself; further views (another network, another size, vectors of a text)
bring new information. Nothing of size items x categories is kept: of each item's log-probabilities
the highest stay, the rest count as the lowest kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from catalog.image_table import ImageTable
from catalog.splits import SPLITS, sample_mask
from stage1_cnn.head import Head, normalise
from stage2_xgb.prior import Shift

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
class Pooled:
    """Items with everything, a block at a time. `log_probs` and `features` hold an array a view:
    stage 1's log-probabilities float32 [N, K] before the shift (None where a view has no head),
    features float32 [N, D]."""

    item_id: np.ndarray
    """Image id or product id."""
    product_id: np.ndarray
    class_index: np.ndarray
    split: np.ndarray
    n_images: np.ndarray
    log_probs: tuple[np.ndarray | None, ...]
    features: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.item_id)

    def of_products(self, share: float, purpose: str, seed: int) -> "Pooled":
        """The items of about a share of the products, drawn for a purpose
        (`catalog.splits.sample_mask`)."""
        return self.rows(sample_mask(self.product_id, share, purpose, seed))

    def of_several(self) -> "Pooled":
        """The images of products that have several, where those of a product stand together."""
        same = self.product_id[1:] == self.product_id[:-1]
        return self.rows(np.r_[False, same] | np.r_[same, False][: len(self)])

    def rows(self, rows: np.ndarray | slice) -> "Pooled":
        """Some of the items."""
        log_probs = tuple(x if x is None else x[rows] for x in self.log_probs)
        plain = (
            getattr(self, name)[rows]
            for name in ("item_id", "product_id", "class_index", "split", "n_images")
        )
        return Pooled(*plain, log_probs, tuple(x[rows] for x in self.features))

    def first_view(self) -> "Pooled":
        """The same items through stage 1 alone."""
        return replace(self, log_probs=self.log_probs[:1], features=self.features[:1])

    @classmethod
    def images(
        cls, table: ImageTable, features: Sequence[np.ndarray], heads: Sequence[Head | None]
    ) -> "Pooled":
        """Single images; of each view a row of features [N, D] an image, and its head."""
        log_probs = tuple(
            head.log_probs(x) if head else None for head, x in zip(heads, features, strict=True)
        )
        ones = np.ones(len(table), dtype=np.int32)
        floats = tuple(x.astype(np.float32) for x in features)
        return cls(
            table.image_id,
            table.product_id,
            table.class_index,
            table.split,
            ones,
            log_probs,
            floats,
        )


@dataclass(frozen=True)
class Items:
    """Images or products, a row an item: product_id int64, class_index int32, split uint8, n_images
    int32 (pooled images), top_class int32 [N, T] (by the shifted stage 1, the likeliest first),
    log_prob float32 [N, V, T] (each view's shifted log-probability of these classes, NaN without a
    head), z float32 [N, V, C] (projected features)."""

    product_id: np.ndarray
    class_index: np.ndarray
    split: np.ndarray
    n_images: np.ndarray
    top_class: np.ndarray
    log_prob: np.ndarray
    z: np.ndarray

    def __len__(self) -> int:
        return len(self.product_id)

    def __getitem__(self, rows: np.ndarray | slice) -> "Items":
        return Items(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence["Items"]) -> "Items":
        """Items one after another."""
        return cls(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            )
        )

    def on(self, *splits: str) -> np.ndarray:
        """Mask of the items on these splits."""
        return np.isin(self.split, [SPLITS.index(name) for name in splits])

    @property
    def predicted(self) -> np.ndarray:
        """Class index of the shifted stage 1, int32 [N]."""
        return self.top_class[:, 0]

    def judged(self, log_probs: np.ndarray) -> "Items":
        """The items with another opinion [N, K] in the place of stage 1's, of the classes that were
        likeliest to stage 1."""
        log_prob = self.log_prob.copy()
        log_prob[:, 0] = np.take_along_axis(log_probs, self.top_class, axis=1)
        return replace(self, log_prob=log_prob)

    def log_probs(self, members: np.ndarray) -> np.ndarray:
        """Each view's shifted log-probabilities float32 [N, V, S] of some classes; one that is not
        among an item's highest has the lowest kept."""
        lowest = self.log_prob.min(axis=2, keepdims=True)
        out = np.repeat(lowest, len(members), axis=2)
        for column, member in enumerate(members):
            row, place = np.nonzero(self.top_class == member)
            out[row, :, column] = self.log_prob[row, :, place]
        return out


def pool(images: Pooled, sharpness: float) -> Pooled:
    """Products from their images: mean log-probability, renormalised; mean feature; number of
    images.

    An image counts by stage 1's highest probability for it to the power of `sharpness`: views that
    show little count less; with 0 all count the same.
    """
    if not len(images):
        return images
    starts = np.flatnonzero(np.r_[True, np.diff(images.product_id) != 0])
    count = np.diff(np.append(starts, len(images))).astype(np.int32)
    ids = images.product_id[starts]
    weight = np.exp(sharpness * images.log_probs[0].max(axis=1)).astype(np.float32)
    weight /= np.repeat(np.add.reduceat(weight, starts), count)

    def mean(x: np.ndarray) -> np.ndarray:
        out = x[starts] * weight[starts, None]
        for place in range(1, count.max()):
            products = np.flatnonzero(count > place)
            rows = starts[products] + place
            out[products] += x[rows] * weight[rows, None]
        return out

    log_probs = tuple(None if x is None else normalise(mean(x)) for x in images.log_probs)
    features = tuple(mean(x) for x in images.features)
    return Pooled(
        ids, ids, images.class_index[starts], images.split[starts], count, log_probs, features
    )


def shifted_views(pooled: Pooled, shifts: Sequence[Shift | None]) -> list[np.ndarray | None]:
    """Each view's shifted log-probabilities, float32 [N, K]; None where it has no head."""
    return [
        None if shift is None else shift(x)
        for shift, x in zip(shifts, pooled.log_probs, strict=True)
    ]


def compact(
    pooled: Pooled, shifts: Sequence[Shift | None], projections: Sequence[Projection]
) -> Items:
    """Shifts, projects and keeps the highest log-probabilities."""
    return keep_highest(pooled, shifted_views(pooled, shifts), projections)


def keep_highest(
    pooled: Pooled, shifted: Sequence[np.ndarray | None], projections: Sequence[Projection]
) -> Items:
    """Projects, and keeps the highest log-probabilities of those that are `shifted` already."""
    first = shifted[0]
    top = min(TOP, first.shape[1])
    place = (
        np.argpartition(first, -top, axis=1)[:, -top:]
        if top < first.shape[1]
        else np.tile(np.arange(top), (len(first), 1))
    )
    place.sort(axis=1)  # so that ties go to the lower class index, as argmax has it
    order = np.argsort(-np.take_along_axis(first, place, axis=1), axis=1, kind="stable")
    place = np.take_along_axis(place, order, axis=1)
    missing = np.full(place.shape, np.nan, dtype=np.float32)
    log_prob = np.stack(
        [missing if x is None else np.take_along_axis(x, place, axis=1) for x in shifted], axis=1
    )
    z = np.stack(
        [projection(x) for projection, x in zip(projections, pooled.features, strict=True)], axis=1
    )
    return Items(
        pooled.product_id,
        pooled.class_index,
        pooled.split,
        pooled.n_images,
        place.astype(np.int32),
        log_prob,
        z,
    )
