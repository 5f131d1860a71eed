"""A generated features.h5 of any size: categories in families, stage 1 confusing siblings, the real
long tail where it is known.

Not a benchmark itself: the stage-2 benchmarks read what it writes. Photos of a category scatter
around its centre; siblings share most of a family's centre, and the head knows the centres only
roughly, so that it confuses siblings while the features hold more.
"""

import json
import os
from pathlib import Path

import numpy as np

from catalog.image_table import POSITIONS, ImageTable
from catalog.splits import DEALT, EXTRA, SPLITS, deal
from catalog.taxonomy import Category, Taxonomy
from features.writer import FeatureWriter
from stage1_cnn.head import Head

SIBLINGS = 10
"""Categories in a family; those of one family are confused."""
_SPREAD, _SEPARATION = 2.0, 3.0
_BLOCK = 8192


def sizes(categories: int, cap: int) -> np.ndarray:
    """Photos of each category, int64: Cdiscount's own counts where SHELFSORT_TEST_DATA has them
    (cdiscount/sample-distribution.json), else a long tail like theirs; all capped."""
    path = (
        Path(os.environ.get("SHELFSORT_TEST_DATA", "")) / "cdiscount" / "sample-distribution.json"
    )
    if path.is_file():
        known = json.loads(path.read_text())
        counts = np.array(
            sorted((known.values() if isinstance(known, dict) else known), reverse=True),
            dtype=np.int64,
        )
    else:
        counts = (
            np.round(np.exp(np.random.default_rng(0).normal(np.log(362), 1.4, 5270)))
            .astype(np.int64)
            .clip(12)
        )
    counts = np.sort(counts)[::-1]
    return np.minimum(counts[np.linspace(0, len(counts) - 1, categories).round().astype(int)], cap)


def counts(categories: int, cap: int, seed: int = 0) -> np.ndarray:
    """Photos of each category over all splits but extra, int64 [K]; `cap` is that of train."""
    return np.random.default_rng(seed).permutation(sizes(categories, int(cap / 0.7)))


def extra_counts(categories: int, cap: int, extra: int, seed: int = 0) -> np.ndarray:
    """Photos of each category that the `cap` of train cuts, `extra` at most, int64 [K]."""
    train = (0.7 * counts(categories, 10**9, seed)).astype(np.int64)
    return (train - cap).clip(0, extra)


def taxonomy(categories: int) -> Taxonomy:
    """A family a level-2 category."""
    return Taxonomy(
        Category(i, f"L{i // 100}", f"F{i // SIBLINGS}", f"C{i}") for i in range(categories)
    )


def write(
    path: Path, *, categories: int, width: int, cap: int, extra: int = 0, seed: int = 0
) -> None:
    """Writes the file."""
    rng = np.random.default_rng(seed)
    photos = counts(categories, cap, seed)
    dealt = np.repeat(np.arange(categories, dtype=np.int32), photos)
    more = extra_counts(categories, cap, extra, seed)
    class_index = np.append(dealt, np.repeat(np.arange(categories, dtype=np.int32), more))
    product_id = rng.permutation(len(class_index)).astype(np.int64)
    ids, taken = product_id[: len(dealt)], np.zeros((categories, len(DEALT)), dtype=np.int64)
    split = np.full(len(class_index), SPLITS.index(EXTRA), dtype=np.uint8)
    split[: len(dealt)] = deal(dealt, ids, taken, seed)
    order = np.lexsort((product_id, class_index, split))
    ids = product_id[order]
    table = ImageTable(
        ids * POSITIONS, ids, class_index[order], split[order], np.ones(len(ids), dtype=bool)
    )
    families = rng.normal(size=(categories // SIBLINGS + 1, width)).astype(np.float32)
    apart = (
        _SPREAD * _SEPARATION / (2 * width) ** 0.5
    )  # siblings' centres lie _SEPARATION spreads from each other
    own, error = apart * rng.normal(size=(2, categories, width)).astype(np.float32)
    family = families[np.arange(categories) // SIBLINGS]
    centres, known = family + own, family + 0.7 * own + 0.5 * error
    head = Head(known / _SPREAD**2, -0.5 * (known**2).sum(axis=1) / _SPREAD**2)
    with FeatureWriter(
        path, table, width, categories, {"generated": seed}, {"device": "none", "precision": "fp32"}
    ) as writer:
        for start in range(0, len(table), _BLOCK):
            block = table[start : start + _BLOCK]
            spread = (
                np.where(block.split == 0, 0.9, 1.0)[:, None] * _SPREAD
            )  # photos that stage 1 was fitted on look cleaner
            noise = rng.standard_normal((len(block), width), dtype=np.float32)
            writer.write((centres[block.class_index] + spread * noise).astype(np.float16), {})
        writer.finish(head)
