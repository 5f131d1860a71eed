"""What the experts are fitted on, from the feature files: folds, sums, the bank, and a sample of
held-out images for the weights. Everything is read once, but for the samples.

Reserve, val_a and what the cap of train cut, which stage 1 never saw, are cut into FOLDS by
product; rows of train are known to all folds. Weights are fitted without what the cap cut: large
categories alone have it, so that they would suit these alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.linalg import eigh

from catalog.image_table import ImageTable
from catalog.parallel import in_threads
from catalog.splits import DEALT, EXTRA, SPLITS, sample_mask
from features.neighbours import Bank
from stage1_cnn.head import Head
from stage2_xgb.column_expert import ColumnRows
from stage2_xgb.crossfit import folds
from stage2_xgb.dataset import Block, Views
from stage2_xgb.experts import Inputs, NeighbourExpert
from stage2_xgb.items import ItemBlock, Projection, has_columns, product_starts
from stage2_xgb.lda import Moments
from stage2_xgb.logistic import too_large

FOLDS = 5
HELD = ("reserve", "val_a")
UNSEEN = (*HELD, EXTRA)
"""Splits that stage 1 never saw. The experts of a fold know all of them but the fold's own."""
FITTED = ("train", EXTRA, *HELD)
WEIGHING = 10_000
"""Held-out images that the weights are fitted on, about, at most."""
BANK_COLUMNS = (64, 256)
"""Principal components that neighbours are compared by, at least and at most: as many as fit in
BANK_CELLS."""
BANK_CELLS = 2**27
"""Numbers in the bank, at most, if these are not fewer than the least columns need."""
SAMPLE = 10_000
"""Images that these components are fitted on, about, at most."""
MOST_ROWS = 2**21
"""Photos that experts are fitted on, about, at most; beyond it, those of the largest classes are
thinned out: a class is known well by a thousand of its photos."""
_ROWS = 512
"""Held-out images scored at once, about: it keeps memory small with thousands of classes."""


def product_fold(product_id: np.ndarray, seed: int) -> np.ndarray:
    """Fold int64 [N] of each product."""
    return folds(product_id, FOLDS, "experts", seed)


def image_fold(images: ItemBlock, seed: int) -> np.ndarray:
    """Fold int64 [N] of each image of UNSEEN, by its product; -1 for other images."""
    unseen = np.isin(images.split, [SPLITS.index(name) for name in UNSEEN])
    return np.where(unseen, product_fold(images.product_id, seed), -1)


def sample(
    views: Views, splits: Sequence[str], images: int, purpose: str, seed: int
) -> Iterator[Block]:
    """Blocks of the fitted images of some splits: about so many images, in whole products, drawn
    for a `purpose`."""
    share = images / max(int(views.fitted(*splits).sum()), 1)
    for split in splits:
        for block in views.features(split, fit_only=True):
            yield block.rows(sample_mask(block.table.product_id, share, purpose, seed))


@dataclass(frozen=True)
class HeldOut:
    """A sample of held-out images for the weights, and stage 1's head."""

    table: ImageTable
    features: Sequence[np.ndarray]
    codes: np.ndarray
    head: Head
    seed: int

    @classmethod
    def of(cls, views: Views, seed: int) -> "HeldOut":
        """Reads it. How it was cut into blocks leaves no trace."""
        blocks = list(sample(views, HELD, WEIGHING, "experts, weights", seed))
        columns = [
            [getattr(block.table, field.name) for block in blocks] for field in fields(ImageTable)
        ]
        by_view = zip(*(block.features for block in blocks), strict=True)
        return cls(
            ImageTable(*map(np.concatenate, columns)),
            [np.concatenate(parts) for parts in by_view],
            np.concatenate([block.codes for block in blocks]),
            views.head,
            seed,
        )

    def by_fold(self) -> Iterator[tuple[int, ItemBlock]]:
        """Every image once, in whole products: a fold, and some images of it."""
        fold = product_fold(self.table.product_id, self.seed)
        for number in range(FOLDS):
            rows = np.flatnonzero(fold == number)
            starts = product_starts(self.table.product_id[rows])
            cuts = starts[np.flatnonzero(np.diff(starts // _ROWS)) + 1]
            for chunk in np.split(rows, cuts):
                if len(chunk):
                    features = [x[chunk] for x in self.features]
                    codes = self.codes[chunk]
                    yield number, ItemBlock.images(self.table[chunk], features, self.head, codes)


@dataclass(frozen=True)
class Rows:
    """What the experts are fitted on: sums of the rows of each fold and, at the end, of those that
    all folds know; the neighbours of all; if they are few enough for a logistic regression, its
    inputs float32 [N, D], classes and folds (-1: all know them), of extra only if that leaves few
    enough; and, if there are columns, those of the rows that have any, alone and beside these
    inputs."""

    inputs: Inputs
    sums: list[Moments]
    neighbours: NeighbourExpert | None
    logistic_inputs: Inputs
    logistic: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    coded: ColumnRows | None = None
    joint: ColumnRows | None = None

    @property
    def total(self) -> Moments:
        """Sums of all rows."""
        total = self.sums[0]
        for moments in self.sums[1:]:
            total = total + moments
        return total


def read_rows(views: Views, seed: int, jobs: int, splits: Sequence[str] = FITTED) -> Rows:
    """Reads the images that may be fitted of some splits, with `jobs` threads."""
    every, classes = tuple(range(len(views.stores))), views.classes
    width = sum(store.width for store in views.stores)
    inputs, plain = Inputs(every, root=True), Inputs(every)
    projection = _bank_projection(views, inputs, seed)
    sums = [Moments.zeros(classes, width) for _ in range(FOLDS + 1)]
    share = thinned(views.fitted(*splits), MOST_ROWS)
    logistic = _logistic_splits(views, width)

    def read(block: Block) -> tuple[np.ndarray, ...]:
        kept_rows = sample_mask(
            block.table.product_id, share[block.table.class_index], "rows of experts", seed
        )
        table, features, codes = block.rows(kept_rows)
        fold = np.where(table.on("train"), -1, product_fold(table.product_id, seed))
        x = inputs(features)
        for number in np.unique(fold).tolist():
            sums[number].add(x[fold == number], table.class_index[fold == number])
        use = table.on(*logistic)
        kept = plain([view[use] for view in features])
        banked = projection(x), table.product_id, table.class_index
        coded = codes, table.class_index, fold
        return *banked, kept, table.class_index[use], fold[use], *coded

    blocks = (block for split in splits for block in views.features(split, fit_only=True))
    columns = zip(*in_threads(read, blocks, jobs), strict=True)
    z, product_id, bank_class, kept, class_index, fold, *coded = map(np.concatenate, columns)
    bank = Bank.of(z, product_id, bank_class, classes)
    neighbours = NeighbourExpert.of(inputs, projection, bank) if len(z) else None
    logistic_rows = (kept, class_index, fold) if logistic else None
    column_rows, joint = ColumnRows.of(views.columns, seed, *coded), None
    if column_rows is not None and len(kept) == len(z):
        joint = column_rows.with_features(kept[has_columns(coded[0])], every, classes)
    return Rows(inputs, sums, neighbours, plain, logistic_rows, column_rows, joint)


def _logistic_splits(views: Views, width: int) -> tuple[str, ...]:
    """All splits, those without extra, or none: the most on which a logistic regression of what
    the pool is fitted on is not too large."""
    for splits in (SPLITS, DEALT):
        images = views.fitted(*(name for name in FITTED if name in splits)).sum()
        if not too_large(int(images), width, views.classes):
            return splits
    return ()


def thinned(counts: np.ndarray, most: int) -> np.ndarray:
    """Share [K] of each class that is kept, so that about `most` of `counts` [K] are: all of small
    classes, the same number of each larger one."""
    low, high = 0, int(counts.max(initial=0))
    while low < high:
        cap = (low + high + 1) // 2
        fits = np.minimum(counts, cap).sum() <= most
        low, high = (cap, high) if fits else (low, cap - 1)
    return np.minimum(low / np.maximum(counts, 1), 1)


def _bank_projection(views: Views, inputs: Inputs, seed: int) -> Projection:
    """The first principal components of a sample, of images that stage 1 never saw if these are
    enough; the inputs themselves if they are few."""
    splits = HELD if views.fitted(*HELD).sum() >= SAMPLE else FITTED
    blocks = sample(views, splits, SAMPLE, "experts, bank", seed)
    parts = [inputs(block.features) for block in blocks]
    x = np.concatenate(parts).astype(np.float64)
    width = x.shape[1]
    mean = x.mean(axis=0) if len(x) else np.zeros(width)
    components = np.eye(width)
    rows = min(int(views.fitted(*FITTED).sum()), MOST_ROWS)
    columns = int(np.clip(BANK_CELLS // max(rows, 1), *BANK_COLUMNS))
    if width > columns and len(x):
        x -= mean
        components = eigh(x.T @ x, subset_by_index=(width - columns, width - 1))[1][:, ::-1]
    components = np.ascontiguousarray(components, dtype=np.float32)
    return Projection(mean.astype(np.float32), components)
