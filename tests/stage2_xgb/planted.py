"""Feature files whose truth is known: classes in sibling pairs, a head that reads the family well
and the sibling badly, and further features that hold the answer.

The head is Bayes-optimal on what it reads, so that nothing can be gained but from the other
features. Without them (`answer` False) a second stage has nothing to find; `curved`, one of them
tells siblings by its size, which trees see and linear experts don't. No torch here: processes that
are killed start fast.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.image_table import POSITIONS, ImageTable
from catalog.taxonomy import Category, Taxonomy
from features.store import FeatureStore
from features.writer import FeatureWriter
from stage1_cnn.head import Head
from stage2_xgb.config import BoosterConfig, ConfusionConfig, Stage2Config
from stage2_xgb.dataset import Views
from stage2_xgb.fit import fit_stage2
from stage2_xgb.inputs import ClassMixes
from stage2_xgb.items import ItemBlock, of_unit
from stage2_xgb.summary import Stage2Summary

CLASSES = 8
PER_SPLIT = (24, 14, 12, 20, 20)
"""Products of each class in each split."""
FAMILY, FAINT, ANSWER, CURVED = slice(0, 4), 4, slice(5, 9), 9
"""Features: what tells families apart, siblings a little, siblings well, and by its size."""
WIDTH = 12
MADE_FROM = {
    "views": {"stage1": {"checkpoint": "c" * 64, "transform": {"height": 32}, "store": "s"}},
    "store": "s",
}
CONFIG = Stage2Config(
    components=8,
    confusion=ConfusionConfig(rule="candidates", min_count=2),
    booster=BoosterConfig(max_depth=2, n_estimators=20, learning_rate=0.3),
)


@dataclass(frozen=True)
class Rows:
    """What a features.h5 is written from: table in store order, features float16 [N, WIDTH]."""

    table: ImageTable
    features: np.ndarray


def make_rows(
    *,
    answer: bool = True,
    curved: bool = False,
    classes: int = CLASSES,
    per_split: tuple[int, ...] = PER_SPLIT,
    seed: int = 0,
) -> Rows:
    """Rows of products with one to three images each; `per_split` may have a sixth number, of
    extra."""
    rng = np.random.default_rng(seed)
    split = np.repeat(np.arange(len(per_split)), [classes * n for n in per_split])
    class_index = np.concatenate([np.repeat(np.arange(classes), n) for n in per_split])
    product_id = rng.permutation(10 * len(split))[: len(split)]
    order = np.lexsort((product_id, class_index, split))
    count = rng.choice([1, 1, 2, 3], len(order))
    of = np.repeat(order, count)
    position = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
    table = ImageTable(
        product_id[of] * POSITIONS + position,
        product_id[of],
        class_index[of].astype(np.int32),
        split[of].astype(np.uint8),
        np.ones(len(of), dtype=bool),
    )
    family, sign = table.class_index // 2, np.where(table.class_index % 2, 1.0, -1.0)
    features = rng.normal(size=(len(of), WIDTH))
    features[np.arange(len(of)), family % 4] += 4.0
    features[:, FAINT] += 0.35 * sign
    if answer:
        features[:, ANSWER] += 0.9 * sign[:, None]
    if curved:
        side = rng.choice([-2.5, 2.5], len(of))
        features[:, CURVED] = 0.5 * features[:, CURVED] + np.where(sign > 0, side, 0)
    return Rows(table, features.astype(np.float16))


def make_head(classes: int = CLASSES) -> Head:
    """Bayes' answer from the features FAMILY and FAINT, for equally common classes."""
    weight = np.zeros((classes, WIDTH), dtype=np.float32)
    weight[np.arange(classes), np.arange(classes) // 2 % 4] = 4.0
    weight[:, FAINT] = np.where(np.arange(classes) % 2, 0.35, -0.35)
    return Head(weight, np.zeros(classes, dtype=np.float32))


def write_wide(path: Path, rows: Rows, width: int, seed: int = 0) -> FeatureStore:
    """The same problem in more dimensions: rotated, with a little noise; wide enough that BLAS
    splits its products."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0][:WIDTH].astype(np.float32)
    features = rows.features.astype(np.float32) @ rotation + 0.3 * rng.normal(
        size=(len(rows.table), width)
    )
    head = make_head()
    origin = MADE_FROM["views"]["stage1"], {"device": "cpu", "precision": "fp32"}
    with FeatureWriter(path, rows.table, width, CLASSES, *origin) as writer:
        writer.write(features.astype(np.float16), {})
        writer.finish(Head(head.weight @ rotation, head.bias))
    return FeatureStore(path)


def write(
    path: Path, rows: Rows, classes: int = CLASSES, errors: dict[int, str] | None = None
) -> FeatureStore:
    """Writes the file of some rows."""
    with FeatureWriter(
        path,
        rows.table,
        WIDTH,
        classes,
        MADE_FROM["views"]["stage1"],
        {"device": "cpu", "precision": "fp32"},
    ) as writer:
        writer.write(rows.features, errors or {})
        writer.finish(make_head(classes))
    return FeatureStore(path)


def taxonomy(classes: int = CLASSES) -> Taxonomy:
    """Ids 100, 101 ..., two categories a family."""
    return Taxonomy(
        Category(100 + c, "all", f"family {c // 2}", f"sibling {c % 2}") for c in range(classes)
    )


def mixes(store: FeatureStore, classes: int = CLASSES) -> ClassMixes:
    """As common in the catalogue as in train."""
    train = np.bincount(store.table.class_index[store.of_split("train")], minlength=classes)
    return ClassMixes({"image": train, "product": train}, train)


def fit(
    store: FeatureStore, folder: Path, config: Stage2Config = CONFIG, jobs: int = 1
) -> Stage2Summary:
    """Trains the second stage on one view."""
    made_from = MADE_FROM | {"config": config.model_dump(mode="json")}
    return fit_stage2([store], mixes(store), taxonomy(), config, folder, made_from, jobs)


def images_of(store: FeatureStore, split: str) -> ItemBlock:
    """All images of a split, in one block."""
    (images,) = Views([store]).blocks(split, fit_only=False)
    return images


def pooled(store: FeatureStore, split: str, unit: str) -> ItemBlock:
    """All items of a split, as stage 1 has them."""
    return of_unit(images_of(store, split), unit)


def bundle_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a bundle but those that hold times."""
    timed = ("summary.json", "summary.txt")
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in timed
    }
