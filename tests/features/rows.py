"""An image table and feature rows whose every value is known. No torch here: processes that are
killed start fast."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.image_table import POSITIONS, ImageTable
from catalog.splits import SPLITS
from features.writer import FeatureWriter
from stage1_cnn.head import Head

CLASSES, WIDTH, BATCH = 4, 6, 16
MADE_FROM = {
    "schema": 1,
    "checkpoint": "c" * 64,
    "transform": {"height": 32, "mean": [0.5]},
    "store": "s1",
    "dtype": "float16",
}
COMPUTED_WITH = {"device": "cpu", "precision": "fp32"}
EMPTY = (SPLITS.index("val_a"), 2)
"""Split and class without any image."""


@dataclass(frozen=True)
class Made:
    """Rows for a features.h5: table in store order, features float16 [N, WIDTH], row -> reason of
    the unreadable, a head."""

    table: ImageTable
    features: np.ndarray
    errors: dict[int, str]
    head: Head

    def write(
        self, path: Path, stop: int | None = None, made_from: dict | None = None, batch: int = BATCH
    ) -> None:
        """Writes the file; with `stop`, leaves it unfinished after that many rows or a few more."""
        with FeatureWriter(
            path, self.table, WIDTH, CLASSES, made_from or MADE_FROM, COMPUTED_WITH
        ) as writer:
            for start in range(writer.cursor, len(self.table), batch):
                if stop is not None and start >= stop:
                    return
                rows = self.features[start : start + batch]
                writer.write(
                    rows,
                    {
                        row - start: why
                        for row, why in self.errors.items()
                        if start <= row < start + len(rows)
                    },
                )
            writer.finish(self.head)


def make_rows(products: int = 300, seed: int = 0) -> Made:
    """Rows of some products with one to three images; every tenth image can't be read."""
    rng = np.random.default_rng(seed)
    product_id = rng.permutation(10 * products)[:products]
    split, class_index = rng.integers(0, len(SPLITS), products), rng.integers(0, CLASSES, products)
    keep = ~((split == EMPTY[0]) & (class_index == EMPTY[1]))
    product_id, split, class_index = product_id[keep], split[keep], class_index[keep]
    order = np.lexsort((product_id, class_index, split))
    images = np.repeat(order, rng.integers(1, 4, len(order)))
    position = np.arange(len(images)) - np.searchsorted(_rank(images), _rank(images))
    table = ImageTable(
        product_id[images] * POSITIONS + position,
        product_id[images],
        class_index[images].astype(np.int32),
        split[images].astype(np.uint8),
        rng.random(len(images)) < 0.9,
    )
    features = rng.normal(size=(len(table), WIDTH)).astype(np.float16)
    errors = {row: f"undecodable: image {row} ends too early" for row in range(5, len(table), 10)}
    head = Head(
        rng.normal(size=(CLASSES, WIDTH)).astype(np.float32),
        rng.normal(size=CLASSES).astype(np.float32),
    )
    return Made(table, features, errors, head)


def _rank(images: np.ndarray) -> np.ndarray:
    """Number of the product of each image, counted along the rows."""
    return np.cumsum(np.r_[0, np.diff(images) != 0])
